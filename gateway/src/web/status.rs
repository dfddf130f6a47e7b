//! `GET /status.json`: the gateway's state for scripts.

use super::Site;
use super::format::seconds;
use super::respond::Refusal;
use super::shell::link_words;
use super::view::{listing_word, standing_word, state_word, transport_word};
use crate::exchange::Direction;
use crate::library::{ImportPhase, Origin};
use crate::link::LinkStatus;
use axum::Json;
use axum::extract::State;
use mantel_peripherals::DeviceState;
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /status.json`
pub async fn json(State(site): State<Arc<Site>>) -> Result<Json<Value>, Refusal> {
    let titles = site
        .state
        .library
        .list()
        .await
        .map_err(|e| Refusal::from_part(&e))?;
    let titles: Vec<Value> = titles
        .iter()
        .map(|title| {
            json!({
                "id": title.id, "name": title.name, "kind": title.kind, "state": state_word(title.state),
                "own": matches!(title.origin, Origin::Own { .. }), "sealed_bytes": title.sealed_bytes(),
                "duration_ms": title.duration_ms(), "note": title.note,
                "blobs": title.assets.iter().map(|asset| asset.blob.to_string()).collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "link": link(&site),
        "devices": devices(&site),
        "noisy": site.state.devices.noisy(),
        "players": super::players::status(&site),
        "media_server": site.state.media_server.is_on(),
        "titles": titles,
        "imports": imports(&site),
        "listings": listings(&site),
        "orders": orders(&site),
        "waiting": waiting(&site),
        "playing": playing(&site),
        "recordings": super::record::status(&site),
        "homes": homes(&site),
        "update": super::updates::status(&site),
    })))
}

fn link(site: &Site) -> Value {
    let status = site.state.link.status().borrow().clone();
    let (word, text) = link_words(&status, site.state.clock.now());
    let why = match status {
        LinkStatus::Offline { why, .. } => Some(why),
        _ => None,
    };
    let enrolment = site.state.link.enrolment();
    json!({
        "state": word, "text": text, "why": why,
        "home": enrolment.as_ref().map(|at| at.home),
        "home_name": enrolment.as_ref().map(|at| at.home_name.clone()),
        "server": enrolment.map(|at| format!("https://{}:{}", at.host, at.api_port)),
        "device": site.state.link.device().to_string(),
        "signed_time": site.state.link.now_signed().to_string(),
    })
}

fn devices(site: &Site) -> Vec<Value> {
    let senders = site.state.uploads.senders();
    let senders = senders.borrow();
    let rows = site.state.devices.snapshot();
    let rows = rows.borrow();
    let row = |row: &crate::devices::DeviceRow| {
        json!({
            "id": row.id, "name": row.name, "class": row.class, "capabilities": row.capabilities,
            "state": if row.state == DeviceState::Online { "online" } else { "gone" },
            "standing": standing_word(row.standing), "problem": row.problem,
            "addresses": row.addresses, "mac": row.mac.as_ref().map(ToString::to_string), "serial": row.serial,
            "gateway": row.gateway.map(|device| device.to_string()),
        })
    };
    let sender = |row: &crate::uploads::Sender| {
        json!({
            "id": format!("push:{}", row.id.0), "name": row.name, "class": "camera", "capabilities": [],
            "state": "online", "standing": "admitted", "problem": row.problem, "addresses": [], "mac": null,
            "serial": null, "sends_by": row.used_by, "last_used": row.used.map(|used| used.to_string()),
            "sent_files": row.sent_files, "sent_bytes": row.sent_bytes,
        })
    };
    rows.iter()
        .map(row)
        .chain(senders.iter().map(sender))
        .collect()
}

fn imports(site: &Site) -> Vec<Value> {
    let rows = site.state.library.imports();
    let rows = rows.borrow();
    let row = |row: &crate::library::ImportProgress| {
        let (phase, problem) = match &row.phase {
            ImportPhase::Waiting => ("waiting", None),
            ImportPhase::Copying => ("copying", None),
            ImportPhase::Examining => ("examining", None),
            ImportPhase::Done => ("done", None),
            ImportPhase::Failed(why) => ("failed", Some(why.clone())),
        };
        json!({
            "title": row.title, "name": row.name, "device": row.device, "bytes_done": row.bytes_done,
            "bytes_total": row.bytes_total, "phase": phase, "problem": problem,
        })
    };
    rows.iter().map(row).collect()
}

fn listings(site: &Site) -> Vec<Value> {
    let rows = site.state.exchange.listings();
    let rows = rows.borrow();
    let row = |row: &crate::catalog::Listing| {
        json!({
            "title": row.title, "name": row.name, "kind": row.kind, "bytes": row.bytes,
            "price": row.price.map(|price| price.to_string()), "terms": row.terms,
            "publisher": row.publisher_name, "private": row.private, "mine": row.mine,
            "state": listing_word(row.state),
        })
    };
    rows.iter().map(row).collect()
}

fn orders(site: &Site) -> Vec<Value> {
    let rows = site.state.exchange.orders();
    let rows = rows.borrow();
    let row = |row: &crate::exchange::OrderRow| {
        json!({
            "order": row.entry.order, "delivery": row.entry.delivery, "title": row.entry.title,
            "name": row.title_name, "peer": row.peer_name,
            "direction": match row.direction { Direction::In => "in", Direction::Out => "out" },
            "state": row.entry.state, "stage": format!("{:?}", row.stage).to_lowercase(),
            "bytes_done": row.bytes_done, "total_bytes": row.entry.total_bytes, "rate": row.rate,
            "path": row.path, "price": row.entry.price.to_string(), "ready": row.ready,
            "problem": row.problem.clone().or_else(|| row.entry.problem.clone()),
        })
    };
    rows.iter().map(row).collect()
}

fn waiting(site: &Site) -> Vec<Value> {
    let rows = site.state.exchange.waiting();
    let rows = rows.borrow();
    let row = |row: &crate::exchange::WaitingOrder| json!({ "title": row.title, "name": row.title_name, "receiver": row.receiver, "problem": row.problem });
    rows.iter().map(row).collect()
}

fn playing(site: &Site) -> Vec<Value> {
    let rows = site.state.playback.sessions();
    let rows = rows.borrow();
    let row = |row: &crate::playback::PlayingOn| {
        let queue = row
            .queue
            .iter()
            .map(|one| json!({ "entry": one.entry, "title": one.title, "name": one.name }));
        json!({
            "volume": row.volume, "mute": row.mute, "queue": queue.collect::<Vec<_>>(),
            "device": row.device, "device_name": row.device_name, "title": row.title, "name": row.title_name,
            "state": transport_word(row.state), "position_s": row.position.map(seconds),
            "duration_s": row.duration.map(seconds), "problem": row.problem,
        })
    };
    rows.iter().map(row).collect()
}

fn homes(site: &Site) -> Vec<Value> {
    let own = site.state.link.enrolment().map(|at| at.home);
    let rows = site.state.exchange.homes();
    let rows = rows.borrow();
    let row = |row: &mantel_protocol::api::HomeEntry| {
        json!({
            "home": row.home, "name": row.name, "online": row.online, "own": Some(row.home) == own,
            "may_push": row.may_push, "may_pull": row.may_pull,
        })
    };
    rows.iter().map(row).collect()
}
