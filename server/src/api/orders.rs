//! `POST /v1/orders`, `GET /v1/orders`, `GET /v1/orders/{order}`, `DELETE /v1/orders/{order}`.

use super::extract::{Answer, Body, Login, Path};
use crate::state::Core;
use axum::Json;
use axum::extract::State;
use mantel_protocol::api::{OrderEntry, OrderRequest, Problem};
use mantel_protocol::ids::OrderId;

/// Orders a title; funds are held.
#[utoipa::path(post, path = "/v1/orders", tag = "orders", request_body = OrderRequest,
    responses((status = 200, body = OrderEntry), (status = 401, body = Problem), (status = 402, body = Problem),
        (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)),
    security(("device" = [])))]
pub async fn place(
    State(core): State<Core>,
    Login(caller): Login,
    Body(request): Body<OrderRequest>,
) -> Answer<Json<OrderEntry>> {
    Ok(Json(core.orders.place(caller, request).await?))
}

/// The orders in which the caller sends, receives or pays, newest first.
#[utoipa::path(get, path = "/v1/orders", tag = "orders",
    responses((status = 200, body = Vec<OrderEntry>), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn list(State(core): State<Core>, Login(caller): Login) -> Answer<Json<Vec<OrderEntry>>> {
    Ok(Json(core.orders.list(&caller).await?))
}

/// One order.
#[utoipa::path(get, path = "/v1/orders/{order}", tag = "orders", params(("order" = String, Path)),
    responses((status = 200, body = OrderEntry), (status = 401, body = Problem), (status = 404, body = Problem)),
    security(("device" = [])))]
pub async fn find(
    State(core): State<Core>,
    Login(caller): Login,
    Path(order): Path<OrderId>,
) -> Answer<Json<OrderEntry>> {
    Ok(Json(core.orders.find(&caller, order).await?))
}

/// Cancels an order that is not settled; the hold goes back.
#[utoipa::path(delete, path = "/v1/orders/{order}", tag = "orders", params(("order" = String, Path)),
    responses((status = 200, body = OrderEntry), (status = 401, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem)), security(("device" = [])))]
pub async fn cancel(
    State(core): State<Core>,
    Login(caller): Login,
    Path(order): Path<OrderId>,
) -> Answer<Json<OrderEntry>> {
    Ok(Json(core.orders.cancel(&caller, order).await?))
}
