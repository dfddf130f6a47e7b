//! `POST /library/upload`: a file of the browser's as a source (F2: phone and PC, F3: any kind of file).

use super::Site;
use super::respond::{Done, Posted, Refusal};
use crate::library::ImportSource;
use axum::extract::{Multipart, State};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

/// Pieces of a file between browser and disk.
const QUEUE: usize = 8;
/// The longest that a browser may be silent in the middle of a file.
const SILENCE: Duration = Duration::from_mins(1);
/// The longest file name kept, characters.
const MAX_NAME_CHARS: usize = 150;

/// Streams the first file of the form into the library; nothing is kept of a broken upload.
pub async fn receive(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    mut form: Multipart,
) -> Posted {
    let unreadable = |what: String| {
        Refusal::field(format!("The file did not arrive whole: {what}.")).back("/library")
    };
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
    let mut field = loop {
        match form
            .next_field()
            .await
            .map_err(|e| unreadable(e.body_text()))?
        {
            Some(field) if field.name() == Some("file") => break field,
            Some(_) => {}
            None => return Err(Refusal::field("Choose a file first.").back("/library")),
        }
    };
    let name: String = field
        .file_name()
        .unwrap_or_default()
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_NAME_CHARS)
        .collect();
    if name.trim().is_empty() {
        return Err(Refusal::field("Choose a file first.").back("/library"));
    }
    let mime = field.content_type().map(str::to_owned);
    let (send, receive) = mpsc::channel::<Result<Bytes, io::Error>>(QUEUE);
    // The form is a little longer than the file: a bound for the space, not the size.
    tracing::debug!(name, ?length, "a browser sends a file");
    let source = ImportSource::upload(&name, mime.as_deref(), None, ReceiverStream::new(receive));
    let pump = async move {
        loop {
            let piece = match timeout(SILENCE, field.chunk()).await {
                Ok(Ok(Some(bytes))) => Ok(bytes),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(broken)) => Err(broken.body_text()),
                Err(_) => Err("nothing came for a minute".to_owned()),
            };
            let broken = piece.as_ref().err().cloned();
            if send.send(piece.map_err(io::Error::other)).await.is_err() {
                return Ok(()); // the library refused it; its word counts
            }
            if let Some(why) = broken {
                return Err(why);
            }
        }
    };
    let (pumped, imported) = tokio::join!(pump, site.state.library.import(source));
    pumped.map_err(unreadable)?;
    let title = imported.map_err(|e| Refusal::from_part(&e).back("/library"))?;
    Ok(Done::to(format!("/library/{title}?done=imported")).fact("title", title.to_string()))
}
