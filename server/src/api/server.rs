//! `GET /v1/server`, `GET /v1/time`, `POST /v1/enrol`, `GET /healthz`.

use super::extract::{Answer, Body, Login, Query};
use crate::state::Core;
use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use mantel_protocol::api::{EnrolRequest, Enrolled, Problem, ServerCard, TimeAnswer};
use mantel_runtime::http::Peer;
use serde::Deserialize;

/// Who this server is; asked before enrolment.
#[utoipa::path(get, path = "/v1/server", tag = "server", responses((status = 200, body = ServerCard)))]
pub async fn card(State(core): State<Core>) -> Json<ServerCard> {
    Json(core.server.card())
}

/// The query of `GET /v1/time`.
#[derive(Deserialize)]
pub struct TimeQuery {
    nonce: String,
}

/// The server's time, signed.
#[utoipa::path(get, path = "/v1/time", tag = "server", params(("nonce" = String, Query, description = "random words")),
    responses((status = 200, body = TimeAnswer), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn time(
    State(core): State<Core>,
    Login(_caller): Login,
    Query(query): Query<TimeQuery>,
) -> Answer<Json<TimeAnswer>> {
    Ok(Json(TimeAnswer {
        token: core.signed_time(&query.nonce)?,
    }))
}

/// Enrols a gateway by claim code.
#[utoipa::path(post, path = "/v1/enrol", tag = "server", request_body = EnrolRequest,
    responses((status = 200, body = Enrolled), (status = 401, body = Problem), (status = 429, body = Problem)))]
pub async fn enrol(
    State(core): State<Core>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Body(request): Body<EnrolRequest>,
) -> Answer<Json<Enrolled>> {
    let home = core.homes.enrol(request, peer.ip().to_canonical()).await?;
    Ok(Json(Enrolled {
        home: home.home,
        customer: home.customer,
        customer_name: home.customer_name,
        server: core.server.card(),
    }))
}

/// Whether the server works: 200 or 503.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200), (status = 503)))]
pub async fn health(State(core): State<Core>) -> StatusCode {
    if core.is_healthy().await {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
