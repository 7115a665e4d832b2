//! The paths of the API.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, FromRequestParts, Path, Query, State as Get,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use utoipa::{IntoResponses, OpenApi};

use super::{
    State, actions, flows,
    listener::Peer,
    model::{
        Action, ActionRequest, Agent, ApiError, Doctor, Event, EventPage, EventQuery, FileChange,
        Finding, Flow, Gone, Health, Incident, KindName, Missed, PolicyInForce, Process,
        SinceQuery, StreamItem, StreamQuery,
    },
    past, runs,
    stream::Wanted,
};
use crate::{host::watch::View, store::query::Filter};

/// The largest body of a request, bytes.
const BODY: usize = 16 * 1024;

pub(super) type Shared = Get<Arc<State>>;
pub(super) type Answer<T> = Result<Json<T>, Refusal>;

/// A refusal: a status, and why.
pub struct Refusal(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(ApiError { error: self.1 })).into_response()
    }
}

pub(super) fn bad(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, format!("{error:#}"))
}

pub(super) fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
}

/// A body that is not what was expected.
pub(super) fn no_json(error: &JsonRejection) -> Refusal {
    // A mistake in what is asked for is one like any other.
    let status = match error.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        other => other,
    };
    Refusal(status, error.body_text())
}

/// The agent that a path names.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        name.map(|Path(name)| Self(name))
            .map_err(|error| Refusal(error.status(), error.body_text()))
    }
}

/// What any path may answer.
#[derive(IntoResponses)]
pub(super) enum Any {
    #[expect(dead_code, reason = "only the document has it")]
    #[response(status = 408, description = "It took too long")]
    Late(#[to_schema] ApiError),
    #[expect(dead_code, reason = "only the document has it")]
    #[response(
        status = 500,
        description = "Something of the daemon's failed: the history cannot be read, say"
    )]
    Failed(#[to_schema] ApiError),
    #[expect(dead_code, reason = "only the document has it")]
    #[response(
        status = 503,
        description = "Too many connections, or readers of the stream"
    )]
    Busy(#[to_schema] ApiError),
}

/// The document that describes it.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "agentwatch",
        description = "The agents of a host: what they do, what was found, and a way to stop them. \
                       HTTP/1.1 on a unix socket."
    ),
    paths(
        agents,
        agent,
        processes,
        open_flows,
        files,
        act,
        events,
        event_stream,
        findings,
        incidents,
        own_incidents,
        past_actions,
        policy,
        doctor,
        health,
        openapi,
        all_metrics,
        runs::start,
        runs::end
    ),
    components(schemas(Event, Finding, Gone, StreamItem, Missed, ApiError, KindName))
)]
struct Document;

/// All of it.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/v1/agents", get(agents).merge(runs::starts()))
        .route("/v1/agents/{agent}", get(agent))
        .route("/v1/agents/{agent}/processes", get(processes))
        .route("/v1/agents/{agent}/flows", get(open_flows))
        .route("/v1/agents/{agent}/files", get(files))
        .route("/v1/agents/{agent}/incidents", get(own_incidents))
        .route("/v1/agents/{agent}/actions", post(act))
        .route("/v1/agents/{agent}/end", post(runs::end))
        .route("/v1/events", get(events))
        .route("/v1/events/stream", get(event_stream))
        .route("/v1/findings", get(findings))
        .route("/v1/incidents", get(incidents))
        .route("/v1/actions", get(past_actions))
        .route("/v1/policy/{agent}", get(policy))
        .route("/v1/doctor", get(doctor))
        .route("/v1/health", get(health))
        .route("/v1/openapi.json", get(openapi))
        .route("/metrics", get(all_metrics))
        .fallback(|| async {
            Refusal(
                StatusCode::NOT_FOUND,
                "there is no such path; /v1/openapi.json has them all".to_owned(),
            )
        })
        .method_not_allowed_fallback(|| async {
            Refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take that method; /v1/openapi.json says which".to_owned(),
            )
        })
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(state)
}

/// What may be read over the network: nothing but the metrics.
pub fn for_prometheus(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(all_metrics))
        .fallback(|| async {
            Refusal(
                StatusCode::NOT_FOUND,
                "here is /metrics only; all else is at the daemon's socket".to_owned(),
            )
        })
        .layer(DefaultBodyLimit::max(0))
        .with_state(state)
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, body = Object), Any))]
async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}

/// The document, for whoever wants it without a daemon.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

impl State {
    /// All agents, by name.
    fn agents(&self) -> Vec<Agent> {
        let (snapshot, figures) = (self.shared.snapshot.load(), self.figures.load());
        let root = &self.shared.root;
        snapshot
            .agents
            .iter()
            .map(|view| figures.agent(view, root))
            .collect()
    }

    /// Refuses who may not act: who is not root, and an agent.
    pub(super) fn may_act(&self, peer: &Peer) -> Result<(), Refusal> {
        match peer.must_not_act(&self.gauge) {
            Some(why) => Err(Refusal(StatusCode::FORBIDDEN, why.to_owned())),
            None => Ok(()),
        }
    }

    /// An agent, by its number or name: a name is made of a cgroup's, so it may be any number too, and must
    /// not draw to itself what is meant for another agent.
    pub(super) fn find(&self, wanted: &str) -> Result<View, Refusal> {
        let snapshot = self.shared.snapshot.load();
        let all = &snapshot.agents;
        let by_number = |number: u32| all.iter().find(|view| view.number == number);
        let found = wanted
            .parse()
            .ok()
            .and_then(by_number)
            .or_else(|| all.iter().find(|view| *view.name == *wanted));
        found.cloned().ok_or_else(|| {
            let wanted = crate::text::escape_str(wanted);
            Refusal(
                StatusCode::NOT_FOUND,
                format!("no agent is called {wanted:?}; `agentwatch agents` lists them"),
            )
        })
    }
}

/// Calls what may wait for a disk.
async fn past<T: Send + 'static>(
    state: &State,
    ask: impl FnOnce(&std::path::Path) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let dir: PathBuf = state.shared.data_dir.clone();
    let place = Arc::clone(&state.past).acquire_owned().await;
    let place = place.map_err(failed)?;
    let asked = move || {
        let answer = ask(&dir);
        drop(place);
        answer
    };
    tokio::task::spawn_blocking(asked)
        .await
        .map_err(failed)?
        .map_err(failed)
}

/// The agents that are watched.
#[utoipa::path(get, path = "/v1/agents", responses((status = 200, body = [Agent]), Any))]
async fn agents(Get(state): Shared) -> Json<Vec<Agent>> {
    Json(state.agents())
}

/// One agent.
#[utoipa::path(get, path = "/v1/agents/{agent}", params(("agent" = String, Path, description = "Name or id")),
    responses((status = 200, body = Agent), (status = 400, body = ApiError, description = "The name is no text"),
        (status = 404, body = ApiError, description = "No such agent"), Any))]
async fn agent(Get(state): Shared, Named(name): Named) -> Answer<Agent> {
    let view = state.find(&name)?;
    Ok(Json(state.figures.load().agent(&view, &state.shared.root)))
}

/// An agent's processes that are alive.
#[utoipa::path(get, path = "/v1/agents/{agent}/processes", params(("agent" = String, Path, description = "Name or id")),
    responses((status = 200, body = [Process]), (status = 400, body = ApiError, description = "The name is no text"),
        (status = 404, body = ApiError, description = "No such agent"), Any))]
async fn processes(Get(state): Shared, Named(name): Named) -> Answer<Vec<Process>> {
    let view = state.find(&name)?;
    let known = state.asked.of(&state.shared, view.number).await;
    let known = known.map_err(failed)?;
    let place = Arc::clone(&state.past).acquire_owned().await;
    let place = place.map_err(failed)?;
    let list = move || {
        let list = state.before.next(&state.gauge, view.number, &known);
        drop(place);
        list
    };
    tokio::task::spawn_blocking(list)
        .await
        .map(Json)
        .map_err(failed)
}

/// An agent's flows that are open.
#[utoipa::path(get, path = "/v1/agents/{agent}/flows", params(("agent" = String, Path, description = "Name or id")),
    responses((status = 200, body = [Flow]), (status = 400, body = ApiError, description = "The name is no text"),
        (status = 404, body = ApiError, description = "No such agent"), Any))]
async fn open_flows(Get(state): Shared, Named(name): Named) -> Answer<Vec<Flow>> {
    let view = state.find(&name)?;
    let known = state.asked.of(&state.shared, view.number).await;
    let known = known.map_err(failed)?;
    Ok(Json(flows::of(&state.gauge, view.number, &known.names)))
}

/// What an agent changed of files lately, newest first.
#[utoipa::path(get, path = "/v1/agents/{agent}/files", params(("agent" = String, Path, description = "Name or id")),
    responses((status = 200, body = [FileChange]), (status = 400, body = ApiError, description = "The name is no text"),
        (status = 404, body = ApiError, description = "No such agent"), Any))]
async fn files(Get(state): Shared, Named(name): Named) -> Answer<Vec<FileChange>> {
    let run = state.find(&name)?.run.unwrap_or_default();
    past(&state, move |dir| past::files(dir, &run))
        .await
        .map(Json)
}

/// Freeze, thaw, quarantine, release or kill an agent.
#[utoipa::path(post, path = "/v1/agents/{agent}/actions", params(("agent" = String, Path, description = "Name or id")),
    request_body = ActionRequest,
    responses((status = 200, body = Action, description = "It was done"),
        (status = 409, body = Action, description = "It was refused, or could not be done"),
        (status = 400, body = ApiError, description = "It makes no sense"),
        (status = 403, body = ApiError, description = "Who asks may read only"),
        (status = 404, body = ApiError, description = "No such agent"),
        (status = 413, body = ApiError, description = "More than 16 KiB"),
        (status = 415, body = ApiError, description = "It is not said to be JSON"), Any))]
async fn act(
    Get(state): Shared,
    Extension(peer): Extension<Peer>,
    Named(name): Named,
    request: Result<Json<ActionRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Action>), Refusal> {
    state.may_act(&peer)?;
    let Json(request) = request.map_err(|error| no_json(&error))?;
    let view = state.find(&name)?;
    // To its end, also when the client breaks off: what was ordered is written down.
    let own = Arc::clone(&state);
    let action =
        tokio::spawn(async move { actions::act(&own.shared, &view, request, &peer).await })
            .await
            .map_err(failed)?;
    state.meter.acted(action.action, action.done);
    let status = if action.done {
        StatusCode::OK
    } else {
        StatusCode::CONFLICT
    };
    Ok((status, Json(action)))
}

/// Events, from the history.
#[utoipa::path(get, path = "/v1/events", params(EventQuery),
    responses((status = 200, body = EventPage), (status = 400, body = ApiError, description = "A parameter makes no sense"), Any))]
async fn events(
    Get(state): Shared,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Answer<past::Page> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let (filter, after, limit) = past::events_filter(&query).map_err(bad)?;
    past(&state, move |dir| {
        past::events(dir, &filter, after.as_ref(), limit)
    })
    .await
    .map(Json)
}

/// Events and findings as they happen: server-sent events `event`, `finding`, `missed` and `gone`.
#[utoipa::path(get, path = "/v1/events/stream", params(StreamQuery),
    responses((status = 200, content_type = "text/event-stream", body = StreamItem),
        (status = 400, body = ApiError, description = "A parameter makes no sense"), Any))]
async fn event_stream(
    Get(state): Shared,
    query: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let kinds = match query.kind.as_deref() {
        Some("none") => None,
        kinds => Some(past::kinds(kinds).map_err(bad)?.into_iter().collect()),
    };
    let wanted = Wanted {
        agent: query.agent,
        kinds,
    };
    let stream = state.hub.read(wanted).ok_or_else(|| {
        Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many read the stream already".to_owned(),
        )
    })?;
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((head, Body::new(stream)).into_response())
}

/// Findings, from the history: the last 1000.
#[utoipa::path(get, path = "/v1/findings", params(SinceQuery),
    responses((status = 200, body = [Finding]), (status = 400, body = ApiError, description = "A parameter makes no sense"), Any))]
async fn findings(
    Get(state): Shared,
    query: Result<Query<SinceQuery>, QueryRejection>,
) -> Answer<Vec<serde_json::Value>> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let filter = past::since_filter(&query).map_err(bad)?;
    past(&state, move |dir| past::findings(dir, &filter))
        .await
        .map(Json)
}

/// The findings of all agents, those together that belong together: of the last 1000, by their end, oldest first.
#[utoipa::path(get, path = "/v1/incidents", params(SinceQuery),
    responses((status = 200, body = [Incident]), (status = 400, body = ApiError, description = "A parameter makes no sense"), Any))]
async fn incidents(
    Get(state): Shared,
    query: Result<Query<SinceQuery>, QueryRejection>,
) -> Answer<Vec<Incident>> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let filter = past::since_filter(&query).map_err(bad)?;
    past(&state, move |dir| past::incidents(dir, &filter))
        .await
        .map(Json)
}

/// The same of one agent, since it is watched.
#[utoipa::path(get, path = "/v1/agents/{agent}/incidents", params(("agent" = String, Path, description = "Name or id")),
    responses((status = 200, body = [Incident]), (status = 400, body = ApiError, description = "The name is no text"),
        (status = 404, body = ApiError, description = "No such agent"), Any))]
async fn own_incidents(Get(state): Shared, Named(name): Named) -> Answer<Vec<Incident>> {
    let filter = Filter {
        run: Some(state.find(&name)?.run.unwrap_or_default()),
        ..Filter::default()
    };
    past(&state, move |dir| past::incidents(dir, &filter))
        .await
        .map(Json)
}

/// What was done to agents, and asked for and refused: the last 1000.
#[utoipa::path(get, path = "/v1/actions", params(SinceQuery),
    responses((status = 200, body = [Action]), (status = 400, body = ApiError, description = "A parameter makes no sense"), Any))]
async fn past_actions(
    Get(state): Shared,
    query: Result<Query<SinceQuery>, QueryRejection>,
) -> Answer<Vec<serde_json::Value>> {
    let Query(query) = query.map_err(|error| bad(error.body_text()))?;
    let filter = past::since_filter(&query).map_err(bad)?;
    past(&state, move |dir| past::actions(dir, &filter))
        .await
        .map(Json)
}

/// The policy that an agent is under.
#[utoipa::path(get, path = "/v1/policy/{agent}", params(("agent" = String, Path, description = "Name or id")),
    responses((status = 200, body = PolicyInForce), (status = 400, body = ApiError, description = "The name is no text"),
        (status = 404, body = ApiError, description = "No such agent"), Any))]
async fn policy(Get(state): Shared, Named(name): Named) -> Answer<PolicyInForce> {
    let view = state.find(&name)?;
    let own = PolicyInForce::new(&view.name, &view.policy_source, &view.policy, view.found_by);
    Ok(Json(PolicyInForce {
        not_in_force: view.not_in_force,
        ..own.map_err(failed)?
    }))
}

/// What the kernel let the daemon do.
#[utoipa::path(get, path = "/v1/doctor", responses((status = 200, body = Doctor), Any))]
async fn doctor(Get(state): Shared) -> Json<Doctor> {
    Json(state.shared.doctor.clone())
}

/// How it is with the daemon.
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = Health), Any))]
async fn health(Get(state): Shared) -> Json<Health> {
    Json(state.health())
}

impl State {
    /// How it is with the daemon.
    pub(super) fn health(&self) -> Health {
        let snapshot = self.shared.snapshot.load();
        Health {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.shared.node.clone(),
            pid: std::process::id(),
            since: self.shared.since.to_string(),
            agents: snapshot.agents.len() as u64,
            agents_gone: snapshot.gone,
            snapshot: snapshot.taken.to_string(),
            strays: snapshot.strays,
            maps: self
                .gauge
                .fills()
                .into_iter()
                .map(|fill| (fill.map.to_owned(), fill.entries))
                .collect(),
            stream_missed: self.hub.missed(),
            history_error: self.shared.actions.error(),
        }
    }
}

/// Metrics, in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, content_type = "text/plain", body = String), Any))]
async fn all_metrics(Get(state): Shared) -> Response {
    let head = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (head, state.meter.page(&state)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path of the table in the model is there, and no other.
    #[test]
    fn the_document_has_every_path() {
        let document = serde_json::to_value(document()).unwrap();
        let table = include_str!("model/mod.rs");
        let paths = document["paths"].as_object().unwrap();
        for path in paths.keys() {
            assert!(table.contains(&format!("`{path}")), "{path}");
        }
        for line in table
            .lines()
            .filter(|line| line.starts_with("//! | GET | `/"))
        {
            let path = line.split('`').nth(1).unwrap().split('?').next().unwrap();
            assert!(paths.contains_key(path), "{path}");
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(schemas.contains_key("Agent") && schemas.contains_key("Event"));
    }
}
