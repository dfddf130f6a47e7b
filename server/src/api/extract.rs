//! What handlers take from a request: who calls, and bodies, paths and queries that failed to parse as [`Problem`]s.

use crate::customers::Caller;
use crate::error::{CoreError, bad, refused};
use crate::state::Core;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mantel_protocol::api::{Problem, ProblemCode};
use mantel_protocol::token::DeviceLogin;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a request's body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// The longest log-in token, bytes.
const MAX_LOGIN_BYTES: usize = 2 * 1024;

/// An error as an answer.
pub struct Failure(pub Problem);

/// What a handler returns.
pub type Answer<T> = std::result::Result<T, Failure>;

impl From<CoreError> for Failure {
    fn from(error: CoreError) -> Self {
        Self(error.problem())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// The home that calls, proved by its log-in token.
pub struct Login(pub Caller);

impl FromRequestParts<Core> for Login {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, core: &Core) -> Answer<Self> {
        let value = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let token = value
            .and_then(|value| value.strip_prefix("Bearer "))
            .filter(|t| t.len() <= MAX_LOGIN_BYTES);
        let Some(token) = token else {
            let detail = "this request needs a gateway's log-in";
            return Err(refused(
                ProblemCode::BadToken,
                detail,
                "sign a log-in with the device key",
            )
            .into());
        };
        let (core, token) = (core.clone(), token.to_owned());
        Ok(Self(core.homes.authenticate(&token).await?))
    }
}

/// A JSON body within its limits.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Core> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, core: &Core) -> Answer<Self> {
        let read = tokio::time::timeout(BODY_LIMIT, Json::<T>::from_request(request, core));
        match read.await {
            Ok(Ok(Json(value))) => Ok(Self(value)),
            Ok(Err(rejection)) => Err(Failure(unreadable(&rejection))),
            Err(_) => Err(bad("the request took too long to arrive").into()),
        }
    }
}

fn unreadable(rejection: &JsonRejection) -> Problem {
    let status = rejection.status().as_u16();
    let detail = match rejection {
        JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => shortened(&format!(
            "the request cannot be read: {}",
            rejection.body_text()
        )),
        JsonRejection::MissingJsonContentType(_) => {
            "a request's content type is application/json".to_owned()
        }
        _ => "the request's body is too large or was cut off".to_owned(),
    };
    Problem {
        code: ProblemCode::BadRequest,
        status,
        detail,
        next: "nothing was changed".into(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(400).collect()
}

/// Path parameters that parse.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Core> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, core: &Core) -> Answer<Self> {
        match axum::extract::Path::<T>::from_request_parts(parts, core).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection @ PathRejection::FailedToDeserializePathParams(_)) => {
                Err(bad(shortened(&rejection.body_text())).into())
            }
            Err(_) => Err(bad("the path cannot be read").into()),
        }
    }
}

/// Query parameters that parse.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Core> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, core: &Core) -> Answer<Self> {
        let read: std::result::Result<_, QueryRejection> =
            axum::extract::Query::<T>::from_request_parts(parts, core).await;
        match read {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(bad(shortened(&rejection.body_text())).into()),
        }
    }
}

/// The token's kind, for the OpenAPI description.
pub const LOGIN_FORMAT: &str = <DeviceLogin as mantel_protocol::token::Claims>::KIND;
