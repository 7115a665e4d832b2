//! Runs that want to be watched: asked of the daemon, which has the host.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{DefaultBodyLimit, State as Get, rejection::JsonRejection},
    http::StatusCode,
    routing::{MethodRouter, post},
};
use tokio::sync::oneshot;

use super::{
    State,
    listener::Peer,
    model::{ApiError, RunEnd, RunEnded, RunRequest, RunStarted},
    routes::{Answer, Any, Named, Refusal, Shared, failed, no_json},
};
use crate::daemon::runs::Ask;

/// The largest request: a policy of 1 MiB, all of which JSON may write in two characters for one, and the rest.
const BODY: usize = 3 << 20;

/// The method of `/v1/agents` that takes a run in.
pub fn starts() -> MethodRouter<Arc<State>> {
    post(start).layer(DefaultBodyLimit::max(BODY))
}

/// Watch a cgroup that the caller made, as `agentwatch run` does.
///
/// The caller's process, and what it was started by, are never acted upon. A cgroup that is watched for
/// a run already is given again.
#[utoipa::path(post, path = "/v1/agents", request_body = RunRequest,
    responses((status = 201, body = RunStarted, description = "It is watched"),
        (status = 400, body = ApiError, description = "It makes no sense"),
        (status = 403, body = ApiError, description = "Who asks may read only"),
        (status = 409, body = ApiError, description = "It cannot be watched"),
        (status = 413, body = ApiError, description = "It is too long"),
        (status = 415, body = ApiError, description = "It is not said to be JSON"), Any))]
pub async fn start(
    Get(state): Shared,
    Extension(peer): Extension<Peer>,
    request: Result<Json<RunRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<RunStarted>), Refusal> {
    state.may_act(&peer)?;
    let Json(request) = request.map_err(|error| no_json(&error))?;
    let (reply, answer) = oneshot::channel();
    let ask = Ask::Start {
        request: Box::new(request),
        runner: peer.asked_by.pid,
        reply,
    };
    state.shared.runs.send(ask).await.map_err(failed)?;
    let started = answer.await.map_err(failed)?;
    started
        .map(|started| (StatusCode::CREATED, Json(started)))
        .map_err(|error| Refusal(StatusCode::CONFLICT, format!("{error:#}")))
}

/// End the watching of a run, and get its account.
#[utoipa::path(post, path = "/v1/agents/{agent}/end", params(("agent" = String, Path, description = "Name or id")),
    request_body = RunEnd,
    responses((status = 200, body = RunEnded),
        (status = 400, body = ApiError, description = "It makes no sense"),
        (status = 403, body = ApiError, description = "Who asks may read only"),
        (status = 404, body = ApiError, description = "No such agent"),
        (status = 409, body = ApiError, description = "It is no run"),
        (status = 413, body = ApiError, description = "It is too long"),
        (status = 415, body = ApiError, description = "It is not said to be JSON"), Any))]
pub async fn end(
    Get(state): Shared,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    request: Result<Json<RunEnd>, JsonRejection>,
) -> Answer<RunEnded> {
    state.may_act(&peer)?;
    let Json(request) = request.map_err(|error| no_json(&error))?;
    let number = state.find(&name)?.number;
    let (reply, answer) = oneshot::channel();
    let ask = Ask::End {
        number,
        request,
        reply,
    };
    state.shared.runs.send(ask).await.map_err(failed)?;
    let ended = answer.await.map_err(failed)?;
    ended
        .map(Json)
        .map_err(|error| Refusal(StatusCode::CONFLICT, format!("{error:#}")))
}
