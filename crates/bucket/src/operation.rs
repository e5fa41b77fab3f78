/// One method of [`Bucket`](crate::Bucket), as counters and faults name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Read an object or a range of it.
    Get,
    /// Ask about an object.
    Head,
    /// Store under a name that must be free.
    Create,
    /// Store, replacing what is there.
    Put,
    /// List names.
    List,
    /// Copy inside the bucket.
    Copy,
    /// Delete.
    Delete,
    /// Move to another storage class.
    SetClass,
    /// Ask for an archived object.
    Restore,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub const ALL: [Operation; 9] = [
        Operation::Get,
        Operation::Head,
        Operation::Create,
        Operation::Put,
        Operation::List,
        Operation::Copy,
        Operation::Delete,
        Operation::SetClass,
        Operation::Restore,
    ];

    /// A stable lower-case word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::Create => "create",
            Operation::Put => "put",
            Operation::List => "list",
            Operation::Copy => "copy",
            Operation::Delete => "delete",
            Operation::SetClass => "set_class",
            Operation::Restore => "restore",
        }
    }

    /// Whether it changes what is stored.
    pub fn is_write(self) -> bool {
        !matches!(self, Operation::Get | Operation::Head | Operation::List)
    }
}
