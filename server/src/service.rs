//! From a request to its answer: the lookup at once, everything else as a future.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{Method, Request};
use larder_replication::catalog::Catalog;
use larder_types::error::ErrorCode;

use crate::auth::{AuthCache, Principal};
use crate::connection::Progress;
use crate::core::Core;
use crate::error::{ApiError, REQUEST_ID};
use crate::fetch::{Hop, Question, fetch};
use crate::lookup::{self, Found};
use crate::reply::Response;
use crate::router::{self, RecordPath, Resource};
use crate::{batch, cluster, collections, keys, news, runs, status, syncs};

/// Longest request target in bytes: a key of 1 KiB, every byte escaped, and room for the rest.
const MAX_TARGET: usize = 8 * 1024;

/// The handlers as one connection sees them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Rc<Connection>);

struct Connection {
    core: Rc<Core>,
    auth: AuthCache,
    progress: Rc<Progress>,
}

/// A request on its way through a handler that may wait.
pub(crate) struct Call {
    pub(crate) core: Rc<Core>,
    /// The definitions when the request arrived.
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) principal: Rc<Principal>,
    pub(crate) body: Incoming,
}

/// An answer that is there already, or will be.
pub(crate) enum Answer {
    Now(Option<Response>),
    Later(Pin<Box<dyn Future<Output = Response>>>),
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Now(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response))),
            Self::Later(future) => future.as_mut().poll(cx).map(Ok),
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Api {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.0.progress.begin();
        let (head, body) = request.into_parts();
        let id = self.0.core.request_ids.of(&head.headers);
        let result = match route(&head) {
            Ok(Resource::Record(path)) => match lookup::look_up(&self.0.core, &self.0.auth, &head, &path) {
                Ok(Found::Answer(response)) => self.counted(Ok(response)),
                Ok(Found::Later) => {
                    let (api, question) = (self.clone(), Question::of(&head));
                    return Answer::Later(Box::pin(async move { api.look_up_later(question, id).await }));
                }
                Err(error) => self.counted(Err(error)),
            },
            Ok(_) => {
                let api = self.clone();
                return Answer::Later(Box::pin(async move { api.handle(head, body, id).await }));
            }
            Err(error) => Err(error),
        };
        Answer::Now(Some(self.finish(result, &id, "record")))
    }
}

/// The resource that a request names, if it takes the method.
fn route(head: &Parts) -> Result<Resource<'_>, ApiError> {
    let length = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length > MAX_TARGET {
        let message = format!("the path and query may have {MAX_TARGET} bytes at most");
        return Err(ApiError::new(ErrorCode::ValueTooLong, message));
    }
    let resource = router::route(head.uri.path())?;
    if resource.takes(&head.method) { Ok(resource) } else { Err(ApiError::method(resource.allow())) }
}

impl Api {
    pub(crate) fn new(core: Rc<Core>, progress: Rc<Progress>) -> Self {
        Self(Rc::new(Connection { core, auth: AuthCache::default(), progress }))
    }

    /// Puts the request's id on the answer, and faults of ours into the log.
    fn finish(&self, result: Result<Response, ApiError>, id: &HeaderValue, resource: &'static str) -> Response {
        let mut response = result.unwrap_or_else(|error| {
            // That a node is not ready yet is what it is asked for, again and again.
            if error.code.status() >= 500 && resource != "readyz" {
                let request_id = id.to_str().unwrap_or_default();
                tracing::warn!(request_id, resource, code = error.code.as_str(), "{}", error.message());
            }
            error.into_response(id)
        });
        response.headers_mut().insert(REQUEST_ID, id.clone());
        self.0.progress.end();
        response
    }

    /// Counts what a lookup came to.
    fn counted(&self, result: Result<Response, ApiError>) -> Result<Response, ApiError> {
        let status = result.as_ref().map_or_else(|error| error.code.status(), |response| response.status().as_u16());
        self.0.core.meter.lookup(status);
        result
    }

    async fn look_up_later(&self, question: Question, id: HeaderValue) -> Response {
        let core = &self.0.core;
        let fetch = fetch(Arc::clone(core.node()), question, Hop::Allowed, core.limits().lookup_deadline);
        let stopping = |_| Err(ApiError::new(ErrorCode::Draining, "the node is stopping"));
        let result = core.shared.background.spawn(fetch).await.unwrap_or_else(stopping);
        self.finish(self.counted(result), &id, "record")
    }

    async fn handle(&self, head: Parts, body: Incoming, id: HeaderValue) -> Response {
        let (result, name) = match route(&head) {
            Ok(resource) => {
                let (name, is_batch) = (resource.name(), matches!(resource, Resource::Batch(..)));
                let result = self.answer(resource, &head, body).await;
                if is_batch {
                    self.0.core.meter.batch(result.as_ref().err().map(|error| error.code));
                }
                (result, name)
            }
            Err(error) => (Err(error), "none"),
        };
        self.finish(result, &id, name)
    }

    async fn answer(&self, resource: Resource<'_>, head: &Parts, body: Incoming) -> Result<Response, ApiError> {
        let core = &self.0.core;
        match resource {
            Resource::Health => return status::health(head),
            Resource::Ready => return status::ready(core, head, core.shared.draining.load(Relaxed)),
            Resource::Version => return status::version(head),
            _ => {}
        }
        let known = Arc::clone(core.catalog().load());
        let principal = self.0.auth.authenticate(&head.headers, &known)?;
        let catalog = news::definitions(core, known, &resource).await?;
        let call = Call { core: Rc::clone(core), catalog, principal, body };
        let read = matches!(head.method, Method::GET | Method::HEAD);
        match resource {
            Resource::Collections => collections::list(&call, head).await,
            Resource::Collection(name) if read => collections::get(&call, head, &name).await,
            Resource::Collection(name) if head.method == Method::PUT => collections::put(call, head, &name).await,
            Resource::Collection(name) => collections::delete(&call, head, &name).await,
            Resource::Sync(path) if head.method == Method::PUT => syncs::put(call, head, &path).await,
            Resource::Sync(path) => syncs::delete(&call, head, &path).await,
            Resource::Runs(path) if read => runs::list(&call, head, &path),
            Resource::Runs(path) => runs::open(call, head, &path).await,
            Resource::Run(path) => runs::get(&call, head, &path),
            Resource::Requests(path) => runs::requests(&call, head, &path),
            Resource::Rejects(path) => runs::rejects(&call, head, &path),
            Resource::Commit(path) => runs::commit(&call, head, &path).await,
            Resource::Abort(path) => runs::abort(&call, head, &path).await,
            Resource::Batch(path, seq) => batch::post(call, head, &path, &seq).await,
            Resource::Keys if read => keys::list(&call, head),
            Resource::Keys => keys::create(call, head).await,
            Resource::Key(id) => keys::revoke(&call, head, &id).await,
            Resource::Cluster => cluster::get(&call, head),
            Resource::Node(id, order) => cluster::order(&call, head, &id, order).await,
            Resource::Leader(shard) => cluster::transfer_leader(call, head, &shard).await,
            Resource::Rebalance => cluster::rebalance(&call, head),
            Resource::Record(RecordPath { .. }) | Resource::Health | Resource::Ready | Resource::Version => {
                Err(ApiError::new(ErrorCode::Internal, "the request took a wrong turn"))
            }
        }
    }
}
