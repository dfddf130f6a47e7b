//! `/admin/home-assistant`: the household's own MQTT broker.

use super::Site;
use super::fields::Fields;
use super::home::After;
use super::respond::{Done, Page, Posted, Refusal, page};
use super::shell::{Nav, Shell};
use crate::home_assistant::{Settings, Status, USUAL_PORT, USUAL_PREFIX};
use askama::Template;
use axum::extract::{Query, State};
use std::sync::Arc;
use zeroize::Zeroizing;

#[derive(Template)]
#[template(path = "admin_home_assistant.html")]
struct HomeAssistantPage {
    shell: Shell,
    tab: &'static str,
    on: bool,
    status: String,
    good: bool,
    host: String,
    port: u16,
    user: String,
    has_password: bool,
    authority: String,
    prefix: String,
}

/// `GET /admin/home-assistant`
pub async fn show(State(site): State<Arc<Site>>, Query(after): Query<After>) -> Page {
    let settings = site.state.home_assistant.settings();
    let status = site.state.home_assistant.status().borrow().clone();
    let words = match &status {
        Status::Off => "No broker is named.".to_owned(),
        Status::Connecting => "Connecting…".to_owned(),
        Status::Connected => "Connected: Home Assistant finds this gateway by itself.".to_owned(),
        Status::Away(why) => {
            format!("The broker is not reached ({why}). It is tried again by itself.")
        }
    };
    let on = settings.is_some();
    let shown = settings.unwrap_or_else(|| Settings {
        host: String::new(),
        port: USUAL_PORT,
        user: String::new(),
        password: Zeroizing::default(),
        authority: String::new(),
        prefix: USUAL_PREFIX.to_owned(),
    });
    Ok(page(&HomeAssistantPage {
        shell: Shell::plain(&site, Nav::Admin).with_notice(after.done.as_deref()),
        tab: "home-assistant",
        on,
        status: words,
        good: status == Status::Connected,
        has_password: !shown.password.is_empty(),
        host: shown.host,
        port: shown.port,
        user: shown.user,
        authority: shown.authority,
        prefix: shown.prefix,
    }))
}

/// `POST /admin/home-assistant`
pub async fn set(State(site): State<Arc<Site>>, fields: Fields) -> Posted {
    let back = |refusal: Refusal| refusal.back("/admin/home-assistant");
    let port = fields
        .number("port", "The port", u32::from(u16::MAX))
        .map_err(back)?;
    let or = |text: &str, usual: &str| {
        if text.is_empty() {
            usual.to_owned()
        } else {
            text.to_owned()
        }
    };
    let settings = Settings {
        host: fields.text("host").to_owned(),
        port: port.map_or(USUAL_PORT, |port| port as u16),
        user: fields.text("user").to_owned(),
        password: Zeroizing::new(fields.raw("password").to_owned()),
        authority: fields.text("authority").to_owned(),
        prefix: or(fields.text("prefix"), USUAL_PREFIX),
    };
    let keep = fields.raw("password").is_empty() && !settings.user.is_empty();
    let set = site.state.home_assistant.set(settings, keep).await;
    set.map_err(|error| back(Refusal::from_part(&error)))?;
    Ok(Done::to("/admin/home-assistant?done=broker"))
}

/// `POST /admin/home-assistant/forget`
pub async fn forget(State(site): State<Arc<Site>>) -> Posted {
    let forgotten = site.state.home_assistant.forget().await;
    forgotten.map_err(|error| Refusal::from_part(&error).back("/admin/home-assistant"))?;
    Ok(Done::to("/admin/home-assistant?done=broker-forgotten"))
}
