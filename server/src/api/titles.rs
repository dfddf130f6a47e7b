//! `POST /v1/titles`, `DELETE /v1/titles/{title}`, `GET /v1/titles`.

use super::extract::{Answer, Body, Login, Path};
use crate::state::Core;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mantel_protocol::api::{Problem, PublishRequest, TitleEntry};
use mantel_protocol::ids::TitleId;

/// Offers a title, new or again.
#[utoipa::path(post, path = "/v1/titles", tag = "titles", request_body = PublishRequest,
    responses((status = 200, body = TitleEntry), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem)), security(("device" = [])))]
pub async fn publish(
    State(core): State<Core>,
    Login(caller): Login,
    Body(request): Body<PublishRequest>,
) -> Answer<Json<TitleEntry>> {
    Ok(Json(core.publish(caller, request).await?))
}

/// Withdraws a title of the caller's.
#[utoipa::path(delete, path = "/v1/titles/{title}", tag = "titles", params(("title" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem)), security(("device" = [])))]
pub async fn withdraw(
    State(core): State<Core>,
    Login(caller): Login,
    Path(title): Path<TitleId>,
) -> Answer<StatusCode> {
    core.withdraw_own(&caller, title).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the caller may order, and what it offers.
#[utoipa::path(get, path = "/v1/titles", tag = "titles",
    responses((status = 200, body = Vec<TitleEntry>), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn list(State(core): State<Core>, Login(caller): Login) -> Answer<Json<Vec<TitleEntry>>> {
    Ok(Json(core.titles_for(&caller).await?))
}
