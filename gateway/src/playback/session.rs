//! Media sessions: one title for one viewer at one address, named by a 128-bit random token in the media URL.
//! In memory only: after a restart a viewer opens the title again.

use mantel_protocol::blob::BlobId;
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::MediaKind;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// How long a media URL works.
pub const SESSION_LIFE: Duration = Duration::from_hours(12);
/// Sessions at the same time; past that the oldest ends.
pub const MAX_SESSIONS: usize = 512;

/// Who may use a session.
#[derive(Debug)]
pub(super) enum Addresses {
    /// The first address that asks.
    First(OnceLock<IpAddr>),
    /// A device's addresses.
    Only(Vec<IpAddr>),
    /// A player that browses the library; the household may put it out at any time.
    Browsing(IpAddr),
}

impl Addresses {
    /// Whether `address` may use the session; the first one claims it.
    fn admit(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        match self {
            Self::First(first) => *first.get_or_init(|| address) == address,
            Self::Browsing(only) => only.to_canonical() == address,
            Self::Only(all) => all.iter().any(|one| one.to_canonical() == address),
        }
    }
}

/// One session.
pub(super) struct Session {
    pub(super) title: TitleId,
    pub(super) blob: BlobId,
    pub(super) name: String,
    pub(super) kind: MediaKind,
    pub(super) mime: String,
    pub(super) addresses: Addresses,
    /// How long it plays, where known.
    pub(super) lasts: Duration,
    expires: Duration,
    /// Set once the play was judged and counted.
    pub(super) begun: OnceCell<()>,
    /// Cancelled when the session ends: bodies under way end too.
    pub(super) ended: CancellationToken,
}

impl Session {
    pub(super) fn new(
        title: &crate::library::Title,
        asset: &mantel_protocol::manifest::Asset,
        addresses: Addresses,
        now: Duration,
    ) -> Self {
        Self {
            title: title.id,
            blob: asset.blob,
            name: title.name.clone(),
            kind: title.kind,
            mime: asset.mime.clone(),
            addresses,
            lasts: Duration::from_millis(asset.duration_ms.unwrap_or_default()),
            expires: now + SESSION_LIFE,
            begun: OnceCell::new(),
            ended: CancellationToken::new(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// Why a request is not for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSession {
    /// No such token, or its time is over.
    Unknown,
    /// Another address's.
    Foreign,
}

/// A token's hash: the table is searched by it, so that timing tells nothing about tokens.
type TokenHash = [u8; 32];

/// All sessions.
#[derive(Default)]
pub(super) struct Sessions {
    table: Mutex<HashMap<TokenHash, Arc<Session>>>,
}

fn hash(token: &str) -> TokenHash {
    *blake3::hash(token.as_bytes()).as_bytes()
}

impl Sessions {
    /// Takes a session in; its token.
    pub(super) fn add(&self, session: Session, now: Duration) -> String {
        let mut random = [0u8; 16];
        aws_lc_rs::rand::fill(&mut random).expect("the operating system gives random bytes");
        let token = data_encoding::HEXLOWER.encode(&random);
        self.add_as(&token, session, now);
        token
    }

    /// Takes a session in under a token that is known already; the one that has it, if there is one.
    pub(super) fn add_as(&self, token: &str, session: Session, now: Duration) -> Arc<Session> {
        let mut table = self.table.lock().expect("no holder of this lock panics");
        table.retain(|_, session| session.expires > now);
        if table.len() >= MAX_SESSIONS
            && let Some(oldest) = table
                .iter()
                .min_by_key(|(_, session)| session.expires)
                .map(|(hash, _)| *hash)
            && let Some(ended) = table.remove(&oldest)
        {
            ended.ended.cancel();
        }
        let place = table.entry(hash(token));
        Arc::clone(place.or_insert_with(|| Arc::new(session)))
    }

    /// The session of a token, for a viewer at `address`.
    pub(super) fn find(
        &self,
        token: &str,
        address: IpAddr,
        now: Duration,
    ) -> Result<Arc<Session>, NoSession> {
        let table = self.table.lock().expect("no holder of this lock panics");
        let session = table
            .get(&hash(token))
            .filter(|session| session.expires > now)
            .ok_or(NoSession::Unknown)?;
        if session.addresses.admit(address) {
            Ok(Arc::clone(session))
        } else {
            Err(NoSession::Foreign)
        }
    }

    /// Ends a session; what is being sent for it stops.
    pub(super) fn end(&self, token: &str) {
        if let Some(ended) = self
            .table
            .lock()
            .expect("no holder of this lock panics")
            .remove(&hash(token))
        {
            ended.ended.cancel();
        }
    }
}
