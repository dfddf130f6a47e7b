//! What this gateway may play, send and receive: licenses (F25, F27) and restrictions (F17), judged here as at the server.
//!
//! A content key leaves this module only after the license's times were judged by the signed clock (DESIGN §3). A play
//! is counted durably before its first byte is shown. An expired set of restrictions stops sending and receiving, and
//! nothing else: what is here stays here and stays playable.

pub mod store;

use crate::library::{Library, LibraryError, Origin};
use crate::link::{ApiError, Link};
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::blob::BlobId;
use mantel_protocol::envelope::{self, EnvelopeError};
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::key::ServerKey;
use mantel_protocol::license::{License, LicenseRefusal, Use};
use mantel_protocol::manifest::{TitleKeys, license_context};
use mantel_protocol::restriction::{
    self, Denial, Exchange, MAX_RESTRICTIONS, Party, RestrictionSet,
};
use mantel_protocol::seal::ContentKey;
use mantel_protocol::token::{TokenError, verify_ignoring_time};
use mantel_runtime::db::{Db, DbError};
use std::sync::Arc;
use tokio::sync::watch;

pub use store::SCHEMA;

/// Why there is no key or no leave; Display is for a person.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// No license yet, or no such title.
    #[error(
        "there is no license for this title yet; it comes by itself after the title was paid and delivered"
    )]
    NoLicense,
    /// The license's time or plays are over.
    #[error(transparent)]
    Over(#[from] LicenseRefusal),
    /// A token that the server did not sign, or for another device.
    #[error("the license is not for this gateway; order the title again, and tell the operator")]
    Token(#[source] TokenError),
    /// A license for another device or title.
    #[error(
        "the license is for another device or title; order the title again, and tell the operator"
    )]
    Foreign,
    /// The keys do not open.
    #[error(
        "the license's keys do not open on this gateway; order the title again, and tell the operator"
    )]
    Keys(#[source] EnvelopeError),
    /// The keys are damaged or none is for this blob.
    #[error("the license holds no key for this part of the title; tell the operator")]
    NoKey,
    /// There is no server yet.
    #[error("this gateway is not enrolled with a server yet; enter the claim link first")]
    NotEnrolled,
    /// The server was not reached.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The library failed.
    #[error("the library could not be read")]
    Library(#[from] LibraryError),
    /// The database failed.
    #[error("the database could not be read or written; nothing was counted")]
    Db(#[from] DbError),
}

impl From<rusqlite::Error> for RightsError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Db(error.into())
    }
}

/// How a title stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This home's own.
    Own,
    /// Shared by another home, free (F64).
    Shared,
    /// Licensed.
    Licensed {
        /// The first play must begin before; `None`: no such limit, or begun.
        start_by: Option<Timestamp>,
        /// The viewing period, once begun, ends; `None`: no end.
        until: Option<Timestamp>,
        /// Plays left; `None`: any number.
        plays_left: Option<u32>,
    },
    /// The license is used up.
    Ended(LicenseRefusal),
    /// There is no license yet.
    Needs,
}

/// Why an exchange is refused here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalDenial {
    /// No set of restrictions was ever received.
    #[error(
        "the server's restrictions are not known yet; the transfer begins by itself when the server answers"
    )]
    Unknown,
    /// The last set is too old.
    #[error(
        "the server's restrictions on this gateway expired {0}; nothing is sent or received until the server \
             answers again. What is here is kept and can be played"
    )]
    Expired(Timestamp),
    /// A restriction.
    #[error(transparent)]
    Denied(#[from] Denial),
}

/// The restrictions known here.
#[derive(Debug, Clone, Default)]
pub struct LocalRules {
    /// As the server signed them; `None`: never received.
    pub set: Option<RestrictionSet>,
}

impl LocalRules {
    /// Judges an exchange at `now` (signed time). Quotas are counted by the server, which sees all of a home's
    /// deliveries; here they only refuse a title that is larger than the whole quota.
    pub fn judge(&self, exchange: &Exchange, now: Timestamp) -> Result<(), LocalDenial> {
        let set = self.set.as_ref().ok_or(LocalDenial::Unknown)?;
        if now >= set.validity.expires {
            return Err(LocalDenial::Expired(set.validity.expires));
        }
        let mut exchange = *exchange;
        for party in [&mut exchange.sender, &mut exchange.receiver] {
            if party.home == set.home {
                party.active &= set.active;
            }
        }
        restriction::judge(&set.restrictions, &exchange, |_, _, _| 0)?;
        Ok(())
    }

    /// Judges whether `sender`, this home, may give an update's bundle to another.
    pub fn judge_bundle(
        &self,
        sender: HomeId,
        receiver: HomeId,
        now: Timestamp,
    ) -> Result<(), LocalDenial> {
        let set = self.set.as_ref().ok_or(LocalDenial::Unknown)?;
        if now >= set.validity.expires {
            return Err(LocalDenial::Expired(set.validity.expires));
        }
        let party = |home| Party {
            home,
            active: home != set.home || set.active,
        };
        restriction::judge_bundle(&set.restrictions, party(sender), party(receiver))?;
        Ok(())
    }
}

/// What this gateway may play, send and receive; cheap to clone.
#[derive(Clone)]
pub struct Rights {
    db: Db,
    link: Link,
    library: Library,
    rules: Arc<watch::Sender<Arc<LocalRules>>>,
}

impl Rights {
    /// Loads the restrictions last received.
    pub async fn open(db: Db, link: Link, library: Library) -> Result<Self, RightsError> {
        let mut rules = LocalRules::default();
        if let (Some(enrolment), Some(token)) =
            (link.enrolment(), store::restriction_token(&db).await?)
        {
            rules.set = verified_set(&enrolment.server.key, &token)
                .inspect_err(
                    |error| tracing::warn!(%error, "the stored restrictions are not the server's"),
                )
                .ok();
        }
        Ok(Self {
            db,
            link,
            library,
            rules: Arc::new(watch::Sender::new(Arc::new(rules))),
        })
    }

    /// The restrictions as they change.
    pub fn restrictions(&self) -> watch::Receiver<Arc<LocalRules>> {
        self.rules.subscribe()
    }

    /// The time by which licenses are judged.
    pub fn now(&self) -> Timestamp {
        self.link.now_signed()
    }

    /// Fetches the restrictions from the server.
    pub async fn refresh(&self) -> Result<(), RightsError> {
        let enrolment = self.link.enrolment().ok_or(RightsError::NotEnrolled)?;
        let token = self.link.api()?.restrictions().await?.token;
        let set = verified_set(&enrolment.server.key, &token).map_err(RightsError::Token)?;
        if set.home != enrolment.home {
            return Err(RightsError::Token(TokenError::Claims));
        }
        let known = self
            .rules
            .borrow()
            .set
            .as_ref()
            .map(|known| known.validity.not_before);
        if known.is_some_and(|known| set.validity.not_before < known) {
            return Ok(());
        }
        store::put_restriction_token(&self.db, token).await?;
        self.rules
            .send_replace(Arc::new(LocalRules { set: Some(set) }));
        Ok(())
    }

    /// Judges an exchange by the restrictions known here, before a byte is sent or asked for.
    pub fn may_exchange(&self, exchange: &Exchange) -> Result<(), LocalDenial> {
        let rules = Arc::clone(&self.rules.borrow());
        rules.judge(exchange, self.link.now_signed())
    }

    /// Judges by the restrictions known here whether this home may give an update's bundle to another.
    pub fn may_give_bundle(&self, here: HomeId, receiver: HomeId) -> Result<(), LocalDenial> {
        let rules = Arc::clone(&self.rules.borrow());
        rules.judge_bundle(here, receiver, self.link.now_signed())
    }

    /// Verifies and stores a license from the vault.
    pub async fn store_license(&self, title: TitleId, token: String) -> Result<(), RightsError> {
        let license = self.verified(title, &token)?;
        self.keys_of(&license)?;
        store::put_license(&self.db, title, license.id, token).await?;
        Ok(())
    }

    /// Whether a license is stored.
    pub async fn has_license(&self, title: TitleId) -> Result<bool, RightsError> {
        Ok(store::license(&self.db, title).await?.is_some())
    }

    /// The key of one blob, for playing. Judges the license's times; plays are counted by [`Rights::begin_play`].
    pub async fn content_key(
        &self,
        title: TitleId,
        blob: BlobId,
    ) -> Result<ContentKey, RightsError> {
        if let Some(key) = self.library.own_key(title, blob).await? {
            return Ok(key);
        }
        let stored = store::license(&self.db, title)
            .await?
            .ok_or(RightsError::NoLicense)?;
        let license = self.verified(title, &stored.token)?;
        license.judge(
            Use {
                plays: 0,
                ..stored.used
            },
            self.link.now_signed(),
        )?;
        self.key_of(&license, blob)
    }

    /// Begins a viewing: judges the license and counts the play, durably. The viewing period's end, if it has one.
    pub async fn begin_play(&self, title: TitleId) -> Result<Option<Timestamp>, RightsError> {
        if self.is_free_here(title).await? {
            return Ok(None);
        }
        let now = self.link.now_signed();
        let this = self.clone();
        self.db
            .write(move |tx| {
                let stored = store::license_of(tx, title)?.ok_or(RightsError::NoLicense)?;
                let license = this.verified(title, &stored.token)?;
                license.judge(stored.used, now)?;
                store::count_play(tx, license.id, now)?;
                let first_play = stored.used.first_play.or(Some(now));
                Ok(license.judge(
                    Use {
                        first_play,
                        plays: 0,
                    },
                    now,
                )?)
            })
            .await
    }

    /// How a title stands.
    pub async fn standing(&self, title: TitleId) -> Result<Standing, RightsError> {
        if let Some(found) = self.library.title(title).await?
            && found.publisher == self.link.device()
        {
            return Ok(Standing::Own);
        }
        let Some(stored) = store::license(&self.db, title).await? else {
            let shared = self.is_free_here(title).await?;
            return Ok(if shared {
                Standing::Shared
            } else {
                Standing::Needs
            });
        };
        let license = self.verified(title, &stored.token)?;
        Ok(match license.judge(stored.used, self.link.now_signed()) {
            Err(refusal) => Standing::Ended(refusal),
            Ok(until) => Standing::Licensed {
                start_by: match stored.used.first_play {
                    Some(_) => None,
                    None => license
                        .terms
                        .start_within_s
                        .map(|s| after(license.granted, s)),
                },
                until,
                plays_left: license
                    .terms
                    .plays
                    .map(|plays| plays.saturating_sub(stored.used.plays)),
            },
        })
    }

    /// Whether the keys are in the library: this home's own, or shared with it.
    async fn is_free_here(&self, title: TitleId) -> Result<bool, RightsError> {
        let Some(found) = self.library.title(title).await? else {
            return Ok(false);
        };
        if matches!(found.origin, Origin::Own { .. }) {
            return Ok(true);
        }
        match found.main_asset() {
            Some(asset) => Ok(self.library.own_key(title, asset.blob).await?.is_some()),
            None => Ok(false),
        }
    }

    fn verified(&self, title: TitleId, token: &str) -> Result<License, RightsError> {
        let enrolment = self.link.enrolment().ok_or(RightsError::NotEnrolled)?;
        let license: License =
            verify_ignoring_time(&enrolment.server.key, token).map_err(RightsError::Token)?;
        if license.device != self.link.device() || license.title != title {
            return Err(RightsError::Foreign);
        }
        Ok(license)
    }

    fn keys_of(&self, license: &License) -> Result<TitleKeys, RightsError> {
        let context = license_context(license.title, license.device);
        let plain = envelope::open(&self.link.identity().seal, &context, &license.keys)
            .map_err(RightsError::Keys)?;
        TitleKeys::from_bytes(&plain).ok_or(RightsError::NoKey)
    }

    fn key_of(&self, license: &License, blob: BlobId) -> Result<ContentKey, RightsError> {
        let key = self
            .keys_of(license)?
            .key_of(blob)
            .ok_or(RightsError::NoKey)?;
        key.map_err(|_| RightsError::NoKey)
    }
}

fn after(from: Timestamp, seconds: u32) -> Timestamp {
    from.checked_add(SignedDuration::from_secs(i64::from(seconds)))
        .unwrap_or(Timestamp::MAX)
}

fn verified_set(server: &ServerKey, token: &str) -> Result<RestrictionSet, TokenError> {
    let set: RestrictionSet = verify_ignoring_time(server, token)?;
    if set.restrictions.len() > MAX_RESTRICTIONS {
        return Err(TokenError::Claims);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::ids::RestrictionId;
    use mantel_protocol::manifest::MediaKind;
    use mantel_protocol::restriction::{Initiative, Restriction, Rule};
    use mantel_protocol::token::Validity;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn an_expired_or_missing_set_stops_exchanges_and_says_so() {
        let (me, other) = (HomeId::generate(), HomeId::generate());
        let party = |home| Party { home, active: true };
        let exchange = Exchange {
            initiative: Initiative::Pull,
            sender: party(me),
            receiver: party(other),
            kind: MediaKind::Video,
            bytes: 10,
        };
        assert_eq!(
            LocalRules::default().judge(&exchange, at(5)),
            Err(LocalDenial::Unknown)
        );
        let mut set = RestrictionSet {
            home: me,
            active: true,
            restrictions: vec![],
            validity: Validity::from_now(at(0), 100),
        };
        let rules = |set: &RestrictionSet| LocalRules {
            set: Some(set.clone()),
        };
        assert_eq!(rules(&set).judge(&exchange, at(5)), Ok(()));
        assert_eq!(
            rules(&set).judge(&exchange, at(100)),
            Err(LocalDenial::Expired(at(100)))
        );
        set.active = false;
        assert!(matches!(
            rules(&set).judge(&exchange, at(5)),
            Err(LocalDenial::Denied(Denial::Suspended(_)))
        ));
        set.active = true;
        let rule = Rule::Block {
            peers: vec![other],
            initiative: None,
            side: None,
        };
        set.restrictions.push(Restriction {
            id: RestrictionId::generate(),
            home: Some(me),
            rule,
            note: "no".into(),
        });
        assert!(matches!(
            rules(&set).judge(&exchange, at(5)),
            Err(LocalDenial::Denied(Denial::Peer { .. }))
        ));
    }
}
