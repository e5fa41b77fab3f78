//! The routes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path as Segment, RawQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base::{Error, ErrorKind, Result, Spawn};
use gateway::{Access, AdoptVolume, CreateVolume, Gateway, OpenFork};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;

use crate::{AddBucket, ChangeBucket, Problem, Resize, WITH_FORKS, WITHOUT_BUCKET};

/// A running API.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
}

impl Server {
    /// Listens on a socket, in place of one that a dead process left.
    pub fn start(gateway: Arc<Gateway>, path: &Path, spawn: &dyn Spawn) -> Result<Server> {
        let failed = |e| Error::caused(ErrorKind::Denied, format!("cannot listen on {}", path.display()), e);
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let work = async move {
            if let Err(e) = axum::serve(listener, routes(gateway)).await {
                tracing::error!("the API has stopped: {e}");
            }
        };
        spawn.spawn("api", Box::pin(work));
        Ok(Server { path: path.to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

type Shared = State<Arc<Gateway>>;

fn routes(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/buckets", get(buckets).post(add_bucket))
        .route("/v1/buckets/{name}", axum::routing::put(change_bucket).delete(remove_bucket))
        .route("/v1/buckets/{name}/probe", post(probe))
        .route("/v1/volumes", get(volumes).post(create))
        .route("/v1/adopt", post(adopt))
        .route("/v1/volumes/{name}", get(show).delete(delete))
        .route("/v1/volumes/{name}/resize", post(resize))
        .route("/v1/volumes/{name}/access", post(access))
        .route("/v1/volumes/{name}/drain", post(drain))
        .route("/v1/volumes/{name}/release", post(release))
        .route("/v1/forks", get(forks))
        .route("/v1/forks/{name}", axum::routing::delete(discard_fork))
        .route("/v1/forks/{name}/open", post(open_fork))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(gateway)
}

/// A result as an answer.
struct Answer<T>(Result<T>);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(value) => Json(value).into_response(),
            Err(e) => {
                let problem = Problem { kind: e.kind().as_str().into(), message: e.to_string() };
                (status_code(e.kind()), Json(problem)).into_response()
            }
        }
    }
}

fn wrong(what: &str, e: impl std::fmt::Display) -> Response {
    Answer::<()>(Err(Error::invalid(format!("{what} of the request is wrong: {e}")))).into_response()
}

/// A request's body. What is wrong with it is answered as all errors are.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Response> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(e) => Err(wrong("the body", e.body_text())),
        }
    }
}

/// The name in a request's path.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name, Response> {
        match Segment::from_request_parts(parts, state).await {
            Ok(Segment(name)) => Ok(Name(name)),
            Err(e) => Err(wrong("the name", e.body_text())),
        }
    }
}

fn status_code(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Exists | ErrorKind::Fenced => StatusCode::CONFLICT,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn unknown(method: Method, path: Uri) -> impl IntoResponse {
    let text = format!(
        "the gateway has no {method} {path}: check the name, and that command line and gateway are of the same version"
    );
    Answer::<()>(Err(Error::new(ErrorKind::NotFound, text)))
}

async fn status(State(gateway): Shared) -> impl IntoResponse {
    Answer(Ok(gateway.view()))
}

async fn buckets(State(gateway): Shared) -> impl IntoResponse {
    Answer(Ok(gateway.buckets()))
}

async fn add_bucket(State(gateway): Shared, Body(wanted): Body<AddBucket>) -> impl IntoResponse {
    Answer(gateway.add_bucket(&wanted.name, &wanted.url).await)
}

async fn change_bucket(
    State(gateway): Shared,
    Name(name): Name,
    Body(to): Body<ChangeBucket>,
) -> impl IntoResponse {
    Answer(gateway.change_bucket(&name, &to.url).await)
}

async fn remove_bucket(State(gateway): Shared, Name(name): Name) -> impl IntoResponse {
    Answer(gateway.remove_bucket(&name).await)
}

async fn probe(State(gateway): Shared, Name(name): Name) -> impl IntoResponse {
    Answer(gateway.probe_bucket(&name).await)
}

async fn volumes(State(gateway): Shared) -> impl IntoResponse {
    Answer(Ok(gateway.volumes()))
}

async fn create(State(gateway): Shared, Body(wanted): Body<CreateVolume>) -> impl IntoResponse {
    Answer(gateway.create_volume(wanted).await)
}

async fn adopt(State(gateway): Shared, Body(wanted): Body<AdoptVolume>) -> impl IntoResponse {
    Answer(gateway.adopt_volume(wanted).await)
}

async fn show(State(gateway): Shared, Name(name): Name) -> impl IntoResponse {
    Answer(gateway.show_volume(&name))
}

async fn delete(State(gateway): Shared, Name(name): Name, RawQuery(query): RawQuery) -> impl IntoResponse {
    let with_forks = match query.as_deref() {
        None => false,
        Some(WITH_FORKS) => true,
        Some(WITHOUT_BUCKET) => return Answer(gateway.delete_without_bucket(&name).await),
        Some(other) => {
            return Answer(Err(Error::invalid(format!(
                "{other:?} is unknown here: say {WITH_FORKS}, {WITHOUT_BUCKET} or nothing"
            ))));
        }
    };
    Answer(gateway.delete_volume(&name, with_forks).await)
}

async fn resize(State(gateway): Shared, Name(name): Name, Body(to): Body<Resize>) -> impl IntoResponse {
    Answer(gateway.resize_volume(&name, to.size, to.may_lose).await)
}

async fn access(State(gateway): Shared, Name(name): Name, Body(to): Body<Access>) -> impl IntoResponse {
    Answer(gateway.set_access(&name, to).await)
}

async fn forks(State(gateway): Shared) -> impl IntoResponse {
    Answer(Ok(gateway.forks()))
}

async fn open_fork(
    State(gateway): Shared,
    Name(name): Name,
    Body(wanted): Body<OpenFork>,
) -> impl IntoResponse {
    Answer(gateway.open_fork(&name, wanted).await)
}

async fn discard_fork(State(gateway): Shared, Name(name): Name) -> impl IntoResponse {
    Answer(gateway.discard_fork(&name).await)
}

async fn drain(State(gateway): Shared, Name(name): Name) -> impl IntoResponse {
    Answer(gateway.drain_volume(&name).await)
}

async fn release(State(gateway): Shared, Name(name): Name) -> impl IntoResponse {
    Answer(gateway.release_volume(&name).await)
}
