//! WebDAV (RFC 4918) below `/dav`, by crate dav-server over the sender's folder: PUT, MKCOL, PROPFIND, MOVE, DELETE.
//! Basic log-in (RFC 7617) for each request. GET and COPY are refused: an account sends and never reads.

use super::folder::{Entry, Folder, FolderError, SILENCE};
use super::{Inner, Refused};
use crate::library::SourceError;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use bytes::{Buf, Bytes};
use data_encoding::BASE64;
use dav_server::davpath::DavPath;
use dav_server::fakels::FakeLs;
use dav_server::fs::{
    DavDirEntry, DavFile, DavFileSystem, DavMetaData, FsError, FsFuture, FsResult, FsStream,
    OpenOptions, ReadDirMeta,
};
use dav_server::{DavHandler, DavMethod, DavMethodSet};
use futures_util::{StreamExt as _, stream};
use mantel_runtime::http::Peer;
use std::io::SeekFrom;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{mpsc, oneshot};

/// Where it is.
const PREFIX: &str = "/dav";
/// Pieces between the network and the sealer.
const QUEUE: usize = 8;

pub(super) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/dav", any(serve))
        .route("/dav/", any(serve))
        .route("/dav/{*path}", any(serve))
        .with_state(inner)
}

fn plain(status: StatusCode, words: &'static str) -> Response {
    (status, words).into_response()
}

async fn serve(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    if inner.rows.borrow().is_empty() {
        return plain(StatusCode::NOT_FOUND, "There is no such page here.\n");
    }
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(Peer(at))| {
        at.ip().to_canonical()
    });
    let Some((user, password)) = basic(request.headers().get(header::AUTHORIZATION)) else {
        return ask();
    };
    let folder = match inner.log_in(peer, &user, &password, "WebDAV").await {
        Ok(folder) => folder,
        Err(Refused::Wrong) => return ask(),
        Err(Refused::Wait(wait)) => {
            let words = "Too many wrong passwords. Wait, then try again.\n";
            let mut answer = plain(StatusCode::TOO_MANY_REQUESTS, words);
            let after = HeaderValue::from(wait.as_secs() + 1);
            answer.headers_mut().insert(header::RETRY_AFTER, after);
            return answer;
        }
        Err(Refused::Later) => {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "Try again in a moment.\n");
        }
    };
    let mut methods = DavMethodSet::WEBDAV_RW;
    methods.remove(DavMethod::Copy);
    methods.remove(DavMethod::Patch);
    let handler = DavHandler::builder()
        .filesystem(Box::new(View { folder }))
        .locksystem(FakeLs::new())
        .strip_prefix(PREFIX)
        .methods(methods)
        .principal(user)
        .build_handler();
    // A client that falls silent must not hold its place for good.
    let request = request.map(|body| Body::from_stream(patient(body)));
    let (head, body) = handler.handle(request).await.into_parts();
    Response::from_parts(head, Body::from_stream(body))
}

fn patient(body: Body) -> impl futures_util::Stream<Item = Result<Bytes, axum::BoxError>> + Send {
    stream::unfold(Some(body.into_data_stream()), |body| async move {
        let mut body = body?;
        match tokio::time::timeout(SILENCE, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error.into()), None)),
            Err(silent) => Some((Err(silent.into()), None)),
        }
    })
}

fn ask() -> Response {
    let mut answer = plain(
        StatusCode::UNAUTHORIZED,
        "Log in with the name from the page.\n",
    );
    let realm = HeaderValue::from_static("Basic realm=\"Mantel\", charset=\"UTF-8\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    answer
}

fn basic(header: Option<&HeaderValue>) -> Option<(String, String)> {
    let line = header?.to_str().ok()?;
    let (scheme, coded) = line.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || coded.len() > 1_024 {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(coded.trim().as_bytes()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn refused(error: &FolderError) -> FsError {
    use crate::library::ImportError as I;
    match error {
        error if error.is_full() => FsError::InsufficientStorage,
        FolderError::NotFound | FolderError::NoFolder => FsError::NotFound,
        FolderError::Exists | FolderError::NotEmpty => FsError::Exists,
        FolderError::BadName => FsError::PathTooLong,
        FolderError::Import(I::TooLarge { .. }) => FsError::TooLarge,
        FolderError::Import(_) | FolderError::Db(_) | FolderError::Stopping => {
            FsError::GeneralFailure
        }
        _ => FsError::Forbidden,
    }
}

#[derive(Debug, Clone)]
struct View {
    folder: Folder,
}

fn text(path: &DavPath) -> FsResult<String> {
    String::from_utf8(path.as_bytes().to_vec()).map_err(|_| FsError::Forbidden)
}

impl DavMetaData for Entry {
    fn len(&self) -> u64 {
        self.size
    }
    fn modified(&self) -> FsResult<SystemTime> {
        Ok(self.modified.into())
    }
    fn is_dir(&self) -> bool {
        self.folder
    }
}

struct Listed(Entry);

impl DavDirEntry for Listed {
    fn name(&self) -> Vec<u8> {
        self.0.name().as_bytes().to_vec()
    }
    fn metadata(&'_ self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let entry: Box<dyn DavMetaData> = Box::new(self.0.clone());
        Box::pin(std::future::ready(Ok(entry)))
    }
}

impl DavFileSystem for View {
    fn open<'a>(
        &'a self,
        path: &'a DavPath,
        options: OpenOptions,
    ) -> FsFuture<'a, Box<dyn DavFile>> {
        Box::pin(async move {
            let path = text(path)?;
            if !options.write || options.append || !options.truncate {
                return Err(FsError::Forbidden);
            }
            let parent = path
                .trim_end_matches('/')
                .rsplit_once('/')
                .map_or("", |(at, _)| at);
            self.folder
                .entry(parent)
                .await
                .map_err(|error| refused(&error))?;
            if options.create_new && self.folder.entry(&path).await.is_ok() {
                return Err(FsError::Exists);
            }
            Ok(Box::new(self.receive(path, options.size)) as Box<dyn DavFile>)
        })
    }

    fn read_dir<'a>(
        &'a self,
        path: &'a DavPath,
        _: ReadDirMeta,
    ) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        Box::pin(async move {
            let entries = self
                .folder
                .list(&text(path)?)
                .await
                .map_err(|error| refused(&error))?;
            let entries = entries.into_iter().map(|entry| {
                let entry: Box<dyn DavDirEntry> = Box::new(Listed(entry));
                Ok(entry)
            });
            Ok(Box::pin(stream::iter(entries)) as FsStream<Box<dyn DavDirEntry>>)
        })
    }

    fn metadata<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, Box<dyn DavMetaData>> {
        Box::pin(async move {
            let entry = self
                .folder
                .entry(&text(path)?)
                .await
                .map_err(|error| refused(&error))?;
            Ok(Box::new(entry) as Box<dyn DavMetaData>)
        })
    }

    fn create_dir<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        Box::pin(async move {
            self.folder
                .make(&text(path)?)
                .await
                .map_err(|error| refused(&error))
        })
    }

    fn remove_dir<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        Box::pin(async move {
            self.folder
                .delete(&text(path)?, true)
                .await
                .map_err(|error| refused(&error))
        })
    }

    fn remove_file<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        Box::pin(async move {
            self.folder
                .delete(&text(path)?, false)
                .await
                .map_err(|error| refused(&error))
        })
    }

    fn rename<'a>(&'a self, from: &'a DavPath, to: &'a DavPath) -> FsFuture<'a, ()> {
        Box::pin(async move {
            let (from, to) = (text(from)?, text(to)?);
            self.folder
                .rename(&from, &to)
                .await
                .map_err(|error| refused(&error))
        })
    }
}

impl View {
    /// Begins to take a file: a task puts what comes into the library.
    fn receive(&self, path: String, size: Option<u64>) -> Arriving {
        let (feed, mut pieces) = mpsc::channel::<Piece>(QUEUE);
        let (tell, told) = oneshot::channel();
        let folder = self.folder.clone();
        let tasks = folder.inner.tasks.clone();
        tasks.spawn("dav-put", async move {
            // Only the word that it is whole ends the file: a request that broke off closes the queue without it.
            let bytes = stream::poll_fn(move |cx| {
                pieces.poll_recv(cx).map(|piece| match piece {
                    Some(Piece::Bytes(bytes)) => Some(Ok(bytes)),
                    Some(Piece::End) => None,
                    None => Some(Err(SourceError::from("the request broke off"))),
                })
            });
            let _ = tell.send(folder.put(&path, size, bytes.boxed()).await);
        });
        Arriving {
            feed: Some(feed),
            told: Some(told),
            size,
            sent: 0,
            entry: None,
        }
    }
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// A file that is being put.
struct Arriving {
    feed: Option<mpsc::Sender<Piece>>,
    told: Option<oneshot::Receiver<Result<Entry, FolderError>>>,
    size: Option<u64>,
    sent: u64,
    entry: Option<Entry>,
}

impl std::fmt::Debug for Arriving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arriving")
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

impl Arriving {
    async fn feed(&mut self, piece: Piece) -> FsResult<()> {
        let fed = match &self.feed {
            Some(feed) => feed.send(piece).await.is_ok(),
            None => false,
        };
        if fed { Ok(()) } else { self.outcome().await }
    }

    /// What became of it; waits for the library.
    async fn outcome(&mut self) -> FsResult<()> {
        self.feed = None;
        let Some(told) = self.told.take() else {
            return if self.entry.is_some() {
                Ok(())
            } else {
                Err(FsError::GeneralFailure)
            };
        };
        match told.await {
            Ok(Ok(entry)) => {
                self.entry = Some(entry);
                Ok(())
            }
            Ok(Err(error)) => Err(refused(&error)),
            Err(_) => Err(FsError::GeneralFailure),
        }
    }
}

impl DavFile for Arriving {
    fn metadata(&'_ mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let entry = self.entry.clone().ok_or(FsError::NotFound);
        Box::pin(std::future::ready(
            entry.map(|entry| Box::new(entry) as Box<dyn DavMetaData>),
        ))
    }

    fn write_buf(&'_ mut self, mut buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        let bytes = buf.copy_to_bytes(buf.remaining());
        self.write_bytes(bytes)
    }

    fn write_bytes(&'_ mut self, bytes: Bytes) -> FsFuture<'_, ()> {
        Box::pin(async move {
            self.sent += bytes.len() as u64;
            if bytes.is_empty() {
                return Ok(());
            }
            self.feed(Piece::Bytes(bytes)).await
        })
    }

    fn read_bytes(&'_ mut self, _: usize) -> FsFuture<'_, Bytes> {
        Box::pin(std::future::ready(Err(FsError::Forbidden)))
    }

    fn seek(&'_ mut self, _: SeekFrom) -> FsFuture<'_, u64> {
        Box::pin(std::future::ready(Err(FsError::Forbidden)))
    }

    fn flush(&'_ mut self) -> FsFuture<'_, ()> {
        Box::pin(async move {
            if self.size.is_none_or(|size| size == self.sent) {
                self.feed(Piece::End).await?;
            }
            self.outcome().await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_log_in_is_read_as_it_was_written(user in "[^:]{0,40}", password: String, noise: String) {
            let coded = BASE64.encode(format!("{user}:{password}").as_bytes());
            let header = HeaderValue::from_str(&format!("basic {coded}")).expect("ASCII");
            let read = basic(Some(&header));
            assert!(read == Some((user, password)) || coded.len() > 1_024);
            if let Ok(header) = HeaderValue::from_str(&noise) {
                let _ = basic(Some(&header));
            }
        }
    }
}
