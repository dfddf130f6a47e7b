//! `PUT /v1/presence`, `GET /v1/homes`, `GET /v1/directory`, `GET /v1/restrictions`, `GET /v1/account`.

use super::extract::{Answer, Body, Login, Query};
use crate::customers::Standing;
use crate::error::missing;
use crate::state::Core;
use axum::Json;
use axum::extract::{ConnectInfo, State};
use mantel_protocol::api::{
    AccountAnswer, HomeEntry, PresenceAnswer, PresenceReport, Problem, RestrictionsAnswer,
};
use mantel_runtime::http::Peer;
use serde::Deserialize;

/// A gateway says where it is.
#[utoipa::path(put, path = "/v1/presence", tag = "homes", request_body = PresenceReport,
    responses((status = 200, body = PresenceAnswer), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn presence(
    State(core): State<Core>,
    Login(caller): Login,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Body(report): Body<PresenceReport>,
) -> Answer<Json<PresenceAnswer>> {
    let observed = core.directory.report(&caller, report, peer.ip()).await?;
    Ok(Json(PresenceAnswer { observed }))
}

/// All homes, as the caller may see them.
#[utoipa::path(get, path = "/v1/homes", tag = "homes",
    responses((status = 200, body = Vec<HomeEntry>), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn homes(State(core): State<Core>, Login(caller): Login) -> Answer<Json<Vec<HomeEntry>>> {
    Ok(Json(core.homes_for(&caller).await?))
}

/// The query of `GET /v1/directory`.
#[derive(Deserialize)]
pub struct AddressQuery {
    address: String,
}

/// The homes that an address names: IP, MAC, serial number, device, home id or name.
#[utoipa::path(get, path = "/v1/directory", tag = "homes", params(("address" = String, Query, description = "an address")),
    responses((status = 200, body = Vec<HomeEntry>), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn directory(
    State(core): State<Core>,
    Login(caller): Login,
    Query(query): Query<AddressQuery>,
) -> Answer<Json<Vec<HomeEntry>>> {
    Ok(Json(core.look_up(&caller, &query.address).await?))
}

/// The caller's restrictions, signed.
#[utoipa::path(get, path = "/v1/restrictions", tag = "homes",
    responses((status = 200, body = RestrictionsAnswer), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn restrictions(
    State(core): State<Core>,
    Login(caller): Login,
) -> Answer<Json<RestrictionsAnswer>> {
    Ok(Json(RestrictionsAnswer {
        token: core.signed_restrictions(&caller).await?,
    }))
}

/// The caller's account and bill.
#[utoipa::path(get, path = "/v1/account", tag = "homes",
    responses((status = 200, body = AccountAnswer), (status = 401, body = Problem)), security(("device" = [])))]
pub async fn account(
    State(core): State<Core>,
    Login(caller): Login,
) -> Answer<Json<AccountAnswer>> {
    let customer = core
        .customers
        .find(caller.customer)
        .await?
        .ok_or_else(|| missing("customer"))?;
    Ok(Json(AccountAnswer {
        customer_name: customer.name,
        active: customer.standing == Standing::Active,
        available: customer.available,
        held: customer.held,
        lines: core.ledger.bill(caller.customer).await?,
    }))
}
