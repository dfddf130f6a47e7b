//! `GET /v1/deliveries`, `POST /v1/deliveries/{delivery}/…`, `POST /v1/receipts`, `POST /v1/licenses`.

use super::extract::{Answer, Body, Login, Path};
use crate::state::Core;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mantel_protocol::api::{
    GrantAnswer, GrantRequest, LicenseAnswer, LicenseRequest, OrderEntry, Problem, ProblemReport,
    ReceiptRequest, SendTask,
};
use mantel_protocol::ids::DeliveryId;

/// Leave to receive (the rest of) one blob.
#[utoipa::path(post, path = "/v1/deliveries/{delivery}/grant", tag = "deliveries", params(("delivery" = String, Path)),
    request_body = GrantRequest,
    responses((status = 200, body = GrantAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)), security(("device" = [])))]
pub async fn grant(
    State(core): State<Core>,
    Login(caller): Login,
    Path(delivery): Path<DeliveryId>,
    Body(request): Body<GrantRequest>,
) -> Answer<Json<GrantAnswer>> {
    Ok(Json(core.orders.grant(&caller, delivery, request).await?))
}

/// No direct path: the sender is asked to the relay.
#[utoipa::path(post, path = "/v1/deliveries/{delivery}/relay", tag = "deliveries", params(("delivery" = String, Path)),
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)), security(("device" = [])))]
pub async fn relay(
    State(core): State<Core>,
    Login(caller): Login,
    Path(delivery): Path<DeliveryId>,
) -> Answer<StatusCode> {
    core.orders.ask_relay(&caller, delivery).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A delivery is in trouble.
#[utoipa::path(post, path = "/v1/deliveries/{delivery}/problem", tag = "deliveries", params(("delivery" = String, Path)),
    request_body = ProblemReport,
    responses((status = 204), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)), security(("device" = [])))]
pub async fn problem(
    State(core): State<Core>,
    Login(caller): Login,
    Path(delivery): Path<DeliveryId>,
    Body(report): Body<ProblemReport>,
) -> Answer<StatusCode> {
    core.orders
        .report_problem(&caller, delivery, report)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the caller is to send.
#[utoipa::path(get, path = "/v1/deliveries", tag = "deliveries",
    responses((status = 200, body = Vec<SendTask>), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn to_send(
    State(core): State<Core>,
    Login(caller): Login,
) -> Answer<Json<Vec<SendTask>>> {
    Ok(Json(core.orders.to_send(&caller).await?))
}

/// Hands in the receipts of an order: the payment is captured, the pass granted.
#[utoipa::path(post, path = "/v1/receipts", tag = "deliveries", request_body = ReceiptRequest,
    responses((status = 200, body = OrderEntry), (status = 400, body = Problem), (status = 401, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)), security(("device" = [])))]
pub async fn receipts(
    State(core): State<Core>,
    Login(caller): Login,
    Body(request): Body<ReceiptRequest>,
) -> Answer<Json<OrderEntry>> {
    Ok(Json(core.orders.settle(&caller, request).await?))
}

/// Redeems a pass at the vault.
#[utoipa::path(post, path = "/v1/licenses", tag = "deliveries", request_body = LicenseRequest,
    responses((status = 200, body = LicenseAnswer), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 409, body = Problem)), security(("device" = [])))]
pub async fn licenses(
    State(core): State<Core>,
    Login(caller): Login,
    Body(request): Body<LicenseRequest>,
) -> Answer<Json<LicenseAnswer>> {
    Ok(Json(LicenseAnswer {
        license: core.vault.redeem(caller, request).await?,
    }))
}
