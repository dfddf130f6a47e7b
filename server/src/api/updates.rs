//! `POST /v1/updates`, `GET /v1/updates/{version}/bundle`, `POST /v1/updates/{version}/seeds`,
//! `POST /v1/updates/{version}/outcome`.

use super::extract::{Answer, Body, Login, Path, Query};
use crate::state::Core;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use mantel_protocol::api::{Problem, SeedOffer, UpdateAnswer, UpdateOutcome, UpdateQuestion};
use mantel_protocol::update::Version;
use serde::Deserialize;

/// Whether there is a newer version for the caller's appliance.
#[utoipa::path(post, path = "/v1/updates", tag = "updates", request_body = UpdateQuestion,
    responses((status = 200, body = UpdateAnswer), (status = 400, body = Problem), (status = 401, body = Problem)),
    security(("device" = [])))]
pub async fn ask(
    State(core): State<Core>,
    Login(caller): Login,
    Body(question): Body<UpdateQuestion>,
) -> Answer<Json<UpdateAnswer>> {
    Ok(Json(core.releases.ask(&caller, question).await?))
}

/// The query of `GET /v1/updates/{version}/bundle`.
#[derive(Deserialize)]
pub struct Piece {
    start: u64,
    count: u64,
}

/// Bytes of a bundle that is for the caller's home, at most 1 MiB at once.
#[utoipa::path(get, path = "/v1/updates/{version}/bundle", tag = "updates",
    params(("version" = String, Path), ("start" = u64, Query, description = "the first byte"),
        ("count" = u64, Query, description = "how many")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 404, body = Problem)), security(("device" = [])))]
pub async fn bundle(
    State(core): State<Core>,
    Login(caller): Login,
    Path(version): Path<Version>,
    Query(piece): Query<Piece>,
) -> Answer<impl IntoResponse> {
    let read = core
        .releases
        .read(&caller, version, piece.start, piece.count);
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, read.await?))
}

/// Other homes that have the bundle and may give it to the caller's home.
#[utoipa::path(post, path = "/v1/updates/{version}/seeds", tag = "updates", params(("version" = String, Path)),
    responses((status = 200, body = Vec<SeedOffer>), (status = 401, body = Problem), (status = 404, body = Problem)),
    security(("device" = [])))]
pub async fn seeds(
    State(core): State<Core>,
    Login(caller): Login,
    Path(version): Path<Version>,
) -> Answer<Json<Vec<SeedOffer>>> {
    Ok(Json(core.seeds(&caller, version).await?))
}

/// What came of a version in the caller's home.
#[utoipa::path(post, path = "/v1/updates/{version}/outcome", tag = "updates", params(("version" = String, Path)),
    request_body = UpdateOutcome,
    responses((status = 204), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem)), security(("device" = [])))]
pub async fn outcome(
    State(core): State<Core>,
    Login(caller): Login,
    Path(version): Path<Version>,
    Body(report): Body<UpdateOutcome>,
) -> Answer<StatusCode> {
    core.releases.report(&caller, version, report).await?;
    Ok(StatusCode::NO_CONTENT)
}
