//! The operator's console: pages under `/console` on the API's HTTPS port, and the public page of a claim link.
//!
//! Server-rendered (askama, `templates/console`), one style sheet, no function that needs a script; `console.js` renews
//! the deliveries under way and reads the setup link's `#` part. The pages ask [`Core`], as the API does; there is no
//! SQL and no rule here.
//!
//! A request passes, from outside in: `protect` (content security policy and the like), `explain` (failures become
//! pages), `require_own_page` (a form must come from our own page), `require_login`. Setup, log-in, claim page and
//! assets need no log-in.

mod access;
mod customers;
mod deliveries;
mod form;
mod guard;
mod homes;
mod ledger;
mod overview;
mod qr;
mod releases;
mod restrictions;
mod settings;
mod shell;
#[cfg(test)]
mod tests;
mod titles;
mod view;

use crate::state::Core;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::http::{HeaderName, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Redirect;
use axum::routing::{get, post};
use std::sync::LazyLock;
use tokio_util::sync::CancellationToken;

const STYLE: &str = include_str!("../../assets/console.css");
const SCRIPT: &str = include_str!("../../assets/console.js");
const ICON: &str = include_str!("../../assets/icon.svg");

/// What the pages share.
#[derive(Clone)]
struct Console {
    core: Core,
    stopping: CancellationToken,
}

impl FromRef<Console> for Core {
    fn from_ref(console: &Console) -> Self {
        console.core.clone()
    }
}

/// The console's routes, `/`, and `/claim/{code}`. Needs `ConnectInfo<mantel_runtime::http::Peer>`. `stopping` ends the
/// live pages, which would otherwise outlast a graceful stop.
pub fn router(core: Core, stopping: CancellationToken) -> Router {
    let pages = Router::new()
        .route("/console", get(overview::page))
        .route(
            "/console/customers",
            get(customers::list).post(customers::create),
        )
        .route("/console/customers/{id}", get(customers::page))
        .route("/console/customers/{id}/edit", post(customers::edit))
        .route("/console/customers/{id}/credit", post(customers::credit))
        .route("/console/customers/{id}/suspend", post(customers::suspend))
        .route("/console/customers/{id}/reopen", post(customers::reopen))
        .route("/console/customers/{id}/codes", post(customers::make_code))
        .route("/console/customers/{id}/codes/{code}", get(customers::code))
        .route(
            "/console/customers/{id}/codes/{code}/revoke",
            post(customers::revoke_code),
        )
        .route("/console/homes", get(homes::list))
        .route("/console/homes/{id}", get(homes::page))
        .route("/console/homes/{id}/rename", post(homes::rename))
        .route("/console/homes/{id}/remove", post(homes::remove))
        .route("/console/titles", get(titles::list))
        .route("/console/titles/{id}", get(titles::page))
        .route("/console/titles/{id}/poster", get(titles::poster))
        .route("/console/titles/{id}/price", post(titles::price))
        .route("/console/titles/{id}/terms", post(titles::terms))
        .route("/console/titles/{id}/withdraw", post(titles::withdraw))
        .route("/console/titles/{id}/reoffer", post(titles::reoffer))
        .route("/console/restrictions", get(restrictions::list))
        .route("/console/restrictions/block", post(restrictions::block))
        .route("/console/restrictions/allow", post(restrictions::allow))
        .route("/console/restrictions/kinds", post(restrictions::kinds))
        .route("/console/restrictions/size", post(restrictions::size))
        .route("/console/restrictions/quota", post(restrictions::quota))
        .route(
            "/console/restrictions/{id}/remove",
            post(restrictions::remove),
        )
        .route(
            "/console/updates",
            get(releases::list)
                .post(releases::upload)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/console/updates/{version}", get(releases::page))
        .route(
            "/console/updates/{version}/rollout",
            post(releases::set_rollout),
        )
        .route(
            "/console/updates/{version}/withdraw",
            post(releases::withdraw),
        )
        .route("/console/ledger", get(ledger::page))
        .route("/console/deliveries", get(deliveries::list))
        .route("/console/deliveries/events", get(deliveries::events))
        .route("/console/deliveries/{order}", get(deliveries::page))
        .route(
            "/console/deliveries/{order}/cancel",
            post(deliveries::cancel),
        )
        .route("/console/settings", get(settings::page))
        .route(
            "/console/settings/password",
            post(settings::change_password),
        )
        .route("/console/{*rest}", get(nowhere))
        .route_layer(from_fn_with_state(core.clone(), guard::require_login));
    let open = Router::new()
        .route(
            "/console/setup",
            get(access::setup_page).post(access::setup),
        )
        .route(
            "/console/login",
            get(access::login_page).post(access::login),
        )
        .route("/console/logout", post(access::logout))
        .route("/claim/{code}", get(homes::claim_page))
        .route(
            "/console/assets/console.css",
            get(async || asset("text/css; charset=utf-8", STYLE)),
        )
        .route(
            "/console/assets/console.js",
            get(async || asset("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route(
            "/console/assets/icon.svg",
            get(async || asset("image/svg+xml", ICON)),
        )
        .route("/console/", get(async || Redirect::permanent("/console")))
        .route("/", get(async || Redirect::to("/console")));
    pages
        .merge(open)
        .layer(DefaultBodyLimit::max(form::MAX_FORM_BYTES))
        .layer(from_fn(guard::require_own_page))
        .layer(from_fn_with_state(core.clone(), shell::explain))
        .layer(from_fn(guard::protect))
        .with_state(Console { core, stopping })
}

async fn nowhere() -> shell::Failure {
    shell::missing("page")
}

fn asset(
    kind: &'static str,
    text: &'static str,
) -> ([(HeaderName, &'static str); 2], &'static str) {
    // A new version has a new address, see `assets_version`.
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "max-age=31536000, immutable"),
        ],
        text,
    )
}

/// What the pages append to the addresses of style and script, so that browsers may keep them.
fn assets_version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let hash = blake3::hash([STYLE, SCRIPT].concat().as_bytes()).to_hex();
        hash[..16].to_owned()
    });
    &VERSION
}
