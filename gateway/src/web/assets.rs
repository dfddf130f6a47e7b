//! Style sheet, scripts and icons, built into the program. Addresses carry a hash, so that browsers keep them for good.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use std::sync::OnceLock;

struct Asset {
    name: &'static str,
    mime: &'static str,
    bytes: &'static [u8],
}

macro_rules! asset {
    ($name:literal, $path:literal, $mime:literal) => {
        Asset {
            name: $name,
            mime: $mime,
            bytes: include_bytes!(concat!("../../assets/", $path)),
        }
    };
}

const ASSETS: &[Asset] = &[
    asset!("mantel.css", "dist/mantel.css", "text/css; charset=utf-8"),
    asset!("live.js", "dist/live.js", "text/javascript; charset=utf-8"),
    asset!(
        "upload.js",
        "dist/upload.js",
        "text/javascript; charset=utf-8"
    ),
    asset!("tv.css", "dist/tv.css", "text/css; charset=utf-8"),
    asset!("tv.js", "dist/tv.js", "text/javascript; charset=utf-8"),
    asset!("icons.svg", "icons.svg", "image/svg+xml"),
    asset!("favicon.svg", "favicon.svg", "image/svg+xml"),
];

/// The address of an asset, with its hash. An unknown name is a mistake in a template: its address answers 404.
pub fn asset(name: &str) -> &'static str {
    static PATHS: OnceLock<Vec<(&'static str, String)>> = OnceLock::new();
    let paths = PATHS.get_or_init(|| {
        let path = |asset: &Asset| {
            let hash = blake3::hash(asset.bytes).to_hex();
            (
                asset.name,
                format!("/static/{}?v={}", asset.name, &hash[..10]),
            )
        };
        ASSETS.iter().map(path).collect()
    });
    paths
        .iter()
        .find(|(known, _)| *known == name)
        .map_or("/static/", |(_, path)| path)
}

/// `GET /static/{name}`
pub async fn serve(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.mime),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.bytes).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_stay_light() {
        let size = |name: &str| {
            ASSETS
                .iter()
                .find(|a| a.name == name)
                .expect("an asset")
                .bytes
                .len()
        };
        let first_page = size("mantel.css") + size("live.js") + size("icons.svg");
        assert!(
            first_page <= 26_000,
            "style, script and icons of the first page: {first_page} bytes"
        );
        let tv_shell = size("tv.css") + size("tv.js") + size("icons.svg");
        assert!(
            tv_shell <= 60_000,
            "the shell on the television: {tv_shell} bytes"
        );
    }
}
