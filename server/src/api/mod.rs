//! The HTTPS API for gateways, described at `/openapi.json`. The table of endpoints is in [`mantel_protocol::api`].

pub mod deliveries;
pub mod extract;
pub mod homes;
pub mod orders;
pub mod server;
pub mod titles;
pub mod updates;

use crate::error::refused;
use crate::state::Core;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use extract::Failure;
use mantel_protocol::api::{MAX_BODY_BYTES, ProblemCode};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The description's head.
#[derive(OpenApi)]
#[openapi(
    info(title = "Mantel server", description = "What a gateway asks its server. Errors are RFC 9457 problems."),
    modifiers(&DeviceLogins)
)]
struct Description;

struct DeviceLogins;

impl utoipa::Modify for DeviceLogins {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format(extract::LOGIN_FORMAT)
            .description(Some(
                "A PASETO v4.public token, signed by the device key, valid for a minute",
            ))
            .build();
        let components = description.components.get_or_insert_with(Default::default);
        components.add_security_scheme("device", SecurityScheme::Http(scheme));
    }
}

/// All endpoints, with their description.
fn endpoints() -> OpenApiRouter<Core> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(server::card))
        .routes(routes!(server::time))
        .routes(routes!(server::enrol))
        .routes(routes!(server::health))
        .routes(routes!(homes::presence))
        .routes(routes!(homes::homes))
        .routes(routes!(homes::directory))
        .routes(routes!(homes::restrictions))
        .routes(routes!(homes::account))
        .routes(routes!(titles::publish, titles::list))
        .routes(routes!(titles::withdraw))
        .routes(routes!(orders::place, orders::list))
        .routes(routes!(orders::find, orders::cancel))
        .routes(routes!(deliveries::grant))
        .routes(routes!(deliveries::relay))
        .routes(routes!(deliveries::problem))
        .routes(routes!(deliveries::to_send))
        .routes(routes!(deliveries::receipts))
        .routes(routes!(deliveries::licenses))
        .routes(routes!(updates::ask))
        .routes(routes!(updates::bundle))
        .routes(routes!(updates::seeds))
        .routes(routes!(updates::outcome))
}

/// The API as a router.
pub fn router(core: Core) -> Router {
    let (router, description) = endpoints().split_for_parts();
    router
        .route(
            "/openapi.json",
            get(move || std::future::ready(Json(description.clone()).into_response())),
        )
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .with_state(core)
}

async fn wrong_method() -> Failure {
    let error = refused(
        ProblemCode::BadRequest,
        "this path does not take this method",
        "see /openapi.json",
    );
    let mut problem = error.problem();
    problem.status = 405;
    Failure(problem)
}

/// The answer to any path that there is not.
pub async fn nothing_here() -> Failure {
    Failure(
        refused(
            ProblemCode::NotFound,
            "there is nothing at this path",
            "see /openapi.json",
        )
        .problem(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_of_the_protocol_is_described() {
        let (_, description) = endpoints().split_for_parts();
        let described = serde_json::to_value(&description).expect("JSON");
        let table = include_str!("../../../protocol/src/api.rs");
        let rows: Vec<(String, String)> = table
            .lines()
            .filter_map(|line| {
                line.strip_prefix("//! | `")?
                    .split('`')
                    .next()?
                    .split_once(' ')
            })
            .map(|(method, path)| {
                (
                    method.to_lowercase(),
                    path.split('?').next().expect("a path").to_owned(),
                )
            })
            .collect();
        assert!(rows.len() >= 20, "the table was found");
        for (method, path) in rows {
            assert!(
                !described["paths"][&path][&method].is_null(),
                "{method} {path}"
            );
        }
    }
}
