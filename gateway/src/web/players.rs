//! The part of `/devices` about players that browse this home's media (F63): who asked, letting in, keeping out, and the
//! switch.

use super::Site;
use super::fields::Fields;
use super::format;
use super::respond::{Done, Posted, Refusal};
use super::shell::escape_query;
use crate::devices::{DeviceStanding, DevicesError, PlayerRow};
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// What the page shows.
pub struct PlayersPart {
    /// Whether the media server is on.
    pub on: bool,
    /// Whether it may be switched on.
    pub may_be_on: bool,
    /// Who asked and is not decided on, then who is let in, then who is kept out.
    pub cards: Vec<PlayerCard>,
}

/// A player that asked.
pub struct PlayerCard {
    /// Its key.
    pub id: String,
    /// Its key for an address.
    pub path: String,
    /// What its program calls itself.
    pub name: String,
    /// Addresses, and when it asked.
    pub sub: String,
    /// `new`, `admitted` or `ignored`.
    pub standing: &'static str,
}

fn word(standing: DeviceStanding) -> &'static str {
    match standing {
        DeviceStanding::New => "new",
        DeviceStanding::Admitted => "admitted",
        DeviceStanding::Ignored => "ignored",
    }
}

impl PlayerCard {
    fn of(row: &PlayerRow, now: Timestamp) -> Self {
        let mut sub: Vec<String> = Vec::new();
        sub.extend(row.address.map(|address| address.to_string()));
        sub.extend(row.mac.map(|mac| mac.to_string()));
        sub.extend(
            row.asked
                .map(|at| format!("asked {}", format::ago(at, now))),
        );
        Self {
            path: escape_query(&row.id),
            id: row.id.clone(),
            name: row.name.clone(),
            sub: sub.join(" · "),
            standing: word(row.standing),
        }
    }
}

impl PlayersPart {
    /// As it is now.
    pub fn of(site: &Site, now: Timestamp) -> Self {
        let players = site.state.devices.players();
        let mut rows: Vec<PlayerRow> = players.borrow().to_vec();
        rows.sort_by_key(|row| match row.standing {
            DeviceStanding::New => 0,
            DeviceStanding::Admitted => 1,
            DeviceStanding::Ignored => 2,
        });
        Self {
            on: site.state.media_server.is_on(),
            may_be_on: site.state.media_server.may_be_on(),
            cards: rows.iter().map(|row| PlayerCard::of(row, now)).collect(),
        }
    }
}

/// For scripts.
pub fn status(site: &Site) -> Vec<Value> {
    let players = site.state.devices.players();
    let players = players.borrow();
    players
        .iter()
        .map(|row| {
            json!({
                "id": row.id, "name": row.name, "address": row.address, "mac": row.mac,
                "standing": word(row.standing),
            })
        })
        .collect()
}

fn refused(error: &DevicesError) -> Refusal {
    match error {
        DevicesError::NoSuchDevice => Refusal::missing("player").back("/devices"),
        other => Refusal::from_part(other).back("/devices"),
    }
}

/// `POST /devices/players/{player}/admit`
pub async fn admit(State(site): State<Arc<Site>>, Path(player): Path<String>) -> Posted {
    let done = site.state.devices.admit_player(&player).await;
    done.map_err(|error| refused(&error))?;
    Ok(Done::to("/devices?done=admitted"))
}

/// `POST /devices/players/{player}/ignore`
pub async fn ignore(State(site): State<Arc<Site>>, Path(player): Path<String>) -> Posted {
    let done = site.state.devices.ignore_player(&player).await;
    done.map_err(|error| refused(&error))?;
    Ok(Done::to("/devices?done=ignored"))
}

/// `POST /devices/media-server`, field `on`: `yes` or `no`.
pub async fn switch(State(site): State<Arc<Site>>, fields: Fields) -> Posted {
    let on = match fields.text("on") {
        "yes" => true,
        "no" => false,
        _ => return Err(Refusal::field("The switch knows on and off only.").back("/devices")),
    };
    let done = site.state.media_server.switch(on).await;
    done.map_err(|error| Refusal::from_part(&error).back("/devices"))?;
    Ok(Done::to("/devices"))
}
