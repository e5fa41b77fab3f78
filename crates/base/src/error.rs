use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// What the caller has to do about an error; every protocol maps these, and only these, to its own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// A create-only operation found the name taken.
    Exists,
    /// The request itself is wrong; trying again as it stands cannot help.
    Invalid,
    /// The caller may not do this.
    Denied,
    /// There is no room; it may come back when something is deleted or uploaded.
    NoSpace,
    /// Refused for now to protect a reserve; the same request may be sent again soon.
    Busy,
    /// The other side did not answer or answered that it cannot now; whether the request took effect is unknown.
    Unavailable,
    /// Another gateway owns the image now; this owner must stop for good.
    Fenced,
    /// Stored bytes are not what was stored.
    Corrupt,
    /// A fault of ours or of the machine (a failed sync, a broken invariant).
    Internal,
}

impl ErrorKind {
    /// A stable lower-case word for logs, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not_found",
            ErrorKind::Exists => "exists",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Denied => "denied",
            ErrorKind::NoSpace => "no_space",
            ErrorKind::Busy => "busy",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Fenced => "fenced",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Internal => "internal",
        }
    }
}

/// The one error of the storage crates: a kind to act on, a sentence to read, and what caused it.
///
/// It is boxed inside so that a `Result<(), Error>` is one word wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    context: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a sentence that names the object concerned and, where there is one, the next step.
    pub fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Error {
        Error(Box::new(Inner { kind, context: context.into(), source: None }))
    }

    /// The same with its cause.
    pub fn caused(
        kind: ErrorKind,
        context: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error(Box::new(Inner { kind, context: context.into(), source: Some(source.into()) }))
    }

    /// `Invalid`, the commonest kind of decoders and parsers.
    pub fn invalid(context: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Invalid, context)
    }

    /// `Corrupt`: stored bytes are not what was stored.
    pub fn corrupt(context: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Corrupt, context)
    }

    /// `Internal`: a fault of ours or of the machine.
    pub fn internal(context: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Internal, context)
    }

    /// `Fenced`: another gateway owns the image now.
    pub fn fenced(context: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Fenced, context)
    }

    /// What the caller has to do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The sentence without its causes.
    pub fn context(&self) -> &str {
        &self.0.context
    }

    /// Puts an outer sentence before this error, which becomes the cause; the kind stays.
    pub fn within(self, context: impl Into<Cow<'static, str>>) -> Error {
        Error::caused(self.kind(), context, self)
    }

    /// A second error of the same kind and text, for several waiters of one failed operation.
    pub fn duplicate(&self) -> Error {
        Error::new(self.kind(), self.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)?;
        let mut cause = self.source();
        while let Some(e) = cause {
            match e.downcast_ref::<Error>() {
                Some(own) => write!(f, ": {}", own.0.context)?,
                None => write!(f, ": {e}")?,
            }
            cause = e.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.kind().as_str())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}
