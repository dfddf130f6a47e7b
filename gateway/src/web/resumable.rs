//! Uploads that are taken up again, for the page and for any program that speaks tus 1.0 (<https://tus.io>): extensions
//! creation, termination and expiration. The page's own client is `web/src/upload.ts`.
//!
//! An acknowledged `Upload-Offset` is durable and a multiple of 64 KiB until the file's end: a server may acknowledge
//! less than it was sent. With the last byte the answer names the title: `Mantel-Title`, and `Mantel-Was-There: 1`
//! where the library had the same content before.

use super::Site;
use super::respond::Refusal;
use crate::library::{KEEP_UPLOADS, SourceError, UploadError, UploadId, UploadState};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use data_encoding::BASE64;
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::sync::Arc;

/// The version of the protocol.
const VERSION: &str = "1.0.0";
/// The longest `Upload-Metadata` read, bytes.
const MAX_METADATA_BYTES: usize = 4_096;
/// The type of a piece.
const PIECE: &str = "application/offset+octet-stream";

const TUS: HeaderName = HeaderName::from_static("tus-resumable");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");

/// What these handlers answer.
pub type Answer = Result<Response, Refusal>;

fn refused(error: &UploadError) -> Refusal {
    use crate::library::ImportError as I;
    let status = match error {
        UploadError::NoSuchUpload => StatusCode::NOT_FOUND,
        UploadError::Offset { .. } | UploadError::Changed => StatusCode::CONFLICT,
        UploadError::TooMuch | UploadError::Import(I::TooLarge { .. }) => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        UploadError::BrokenOff { .. } | UploadError::Import(I::Empty { .. }) => {
            StatusCode::BAD_REQUEST
        }
        UploadError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        UploadError::Import(I::DiskFull { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        UploadError::Import(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal {
        status,
        ..Refusal::from_part(error).back("/library")
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<u64, Refusal> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| Refusal::field(format!("The header {name} is missing or not a number.")))
}

fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get(&TUS).is_some_and(|told| told == VERSION) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::PRECONDITION_FAILED,
        "This address speaks tus 1.0.0.",
        "Nothing was changed.",
    ))
}

/// A value of `Upload-Metadata`: `key base64, key base64`.
fn told(headers: &HeaderMap, key: &str) -> Option<String> {
    let line = headers.get("upload-metadata")?.to_str().ok()?;
    let pairs = line.get(..line.len().min(MAX_METADATA_BYTES))?.split(',');
    let coded = pairs
        .filter_map(|pair| pair.trim().split_once(' '))
        .find(|(name, _)| *name == key)?
        .1;
    String::from_utf8(BASE64.decode(coded.trim().as_bytes()).ok()?).ok()
}

fn answer(status: StatusCode, state: Option<&UploadState>) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(TUS, HeaderValue::from_static(VERSION));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(state) = state {
        headers.insert(OFFSET, state.offset.into());
        headers.insert(LENGTH, state.size.into());
        if let Some(title) = state.title {
            let title = HeaderValue::from_str(&title.to_string()).expect("a title id is ASCII");
            headers.insert("mantel-title", title);
            headers.insert("mantel-was-there", u64::from(state.was_there).into());
        }
    }
    response
}

/// `OPTIONS /library/uploads`
pub async fn options() -> Response {
    let mut response = answer(StatusCode::NO_CONTENT, None);
    let headers = response.headers_mut();
    headers.insert("tus-version", HeaderValue::from_static(VERSION));
    headers.insert(
        "tus-extension",
        HeaderValue::from_static("creation,termination,expiration"),
    );
    response
}

/// `POST /library/uploads`
pub async fn begin(State(site): State<Arc<Site>>, headers: HeaderMap) -> Answer {
    check_version(&headers)?;
    let size = number(&headers, &LENGTH)?;
    let name = told(&headers, "filename").unwrap_or_default();
    let mime = told(&headers, "filetype").filter(|mime| !mime.is_empty());
    let library = &site.state.library;
    let id = library
        .begin_upload(&name, mime.as_deref(), size)
        .await
        .map_err(|error| refused(&error))?;
    let mut response = answer(StatusCode::CREATED, None);
    let location = HeaderValue::from_str(&format!("/library/uploads/{id}")).expect("hex digits");
    response.headers_mut().insert(header::LOCATION, location);
    let until = site.state.clock.now() + KEEP_UPLOADS;
    let until = until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(until) = HeaderValue::from_str(&until) {
        response.headers_mut().insert("upload-expires", until);
    }
    Ok(response)
}

fn id_of(text: &str) -> Result<UploadId, Refusal> {
    text.parse().map_err(|error| refused(&error))
}

/// `HEAD /library/uploads/{upload}`
pub async fn state(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Answer {
    let state = site.state.library.upload_state(id_of(&id)?).await;
    Ok(answer(
        StatusCode::OK,
        Some(&state.map_err(|error| refused(&error))?),
    ))
}

/// `PATCH /library/uploads/{upload}`
pub async fn append(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Answer {
    let headers = request.headers();
    check_version(headers)?;
    if headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|told| told != PIECE)
    {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("A piece is sent as {PIECE}."),
            "Nothing was changed.",
        ));
    }
    let (id, offset) = (id_of(&id)?, number(headers, &OFFSET)?);
    let bytes = request.into_body().into_data_stream();
    let bytes = bytes
        .map_err(|error| Box::new(error) as SourceError)
        .boxed();
    match site.state.library.append_upload(id, offset, bytes).await {
        Ok(state) => Ok(answer(StatusCode::NO_CONTENT, Some(&state))),
        Err(error) => Err(refused(&error)),
    }
}

/// `DELETE /library/uploads/{upload}`
pub async fn end(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Answer {
    let ended = site.state.library.drop_upload(id_of(&id)?).await;
    ended.map_err(|error| refused(&error))?;
    Ok(answer(StatusCode::NO_CONTENT, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_with_limits() {
        let mut headers = HeaderMap::new();
        assert_eq!(told(&headers, "filename"), None);
        let line = "filetype aW1hZ2UvanBlZw==, filename U29tbWVyLmpwZw==,empty";
        headers.insert("upload-metadata", HeaderValue::from_static(line));
        assert_eq!(told(&headers, "filename").as_deref(), Some("Sommer.jpg"));
        assert_eq!(told(&headers, "filetype").as_deref(), Some("image/jpeg"));
        headers.insert("upload-metadata", HeaderValue::from_static("filename %%%"));
        assert_eq!(told(&headers, "filename"), None);
    }
}
