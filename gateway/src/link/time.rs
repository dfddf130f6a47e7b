//! The signed clock (DESIGN §3): the server's word on the time, a monotonic clock, and a mark in the database.
//!
//! Licenses are judged by it. The box's own clock plays no part once the server has spoken: setting it back buys
//! nothing, and a dead battery locks no paying household out. After a restart without network, time goes on from the
//! mark; what passed while the box was off is not counted until the server is heard again.

use super::store;
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::key::ServerKey;
use mantel_protocol::token::{ServerTime, TokenError, verify};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often the mark is written.
pub const KEEP_EVERY: Duration = Duration::from_mins(1);

/// The signed clock; cheap to clone.
#[derive(Clone)]
pub struct SignedClock {
    db: Db,
    clock: Clock,
    base: Arc<Mutex<Base>>,
}

/// A known moment: `time` was the time at `at` of the monotonic clock. `None`: no server was ever heard.
#[derive(Clone, Copy)]
struct Base {
    known: Option<(Timestamp, Duration)>,
    stored: Option<Timestamp>,
}

impl SignedClock {
    /// Goes on from the stored mark.
    pub async fn open(db: Db, clock: Clock) -> Result<Self, DbError> {
        let stored = store::signed_mark(&db).await?;
        let known = stored.map(|mark| (mark, clock.monotonic()));
        Ok(Self {
            db,
            clock,
            base: Arc::new(Mutex::new(Base { known, stored })),
        })
    }

    /// The time; never goes back. Before any server was heard: the box's own clock (nothing is judged by it then).
    pub fn now(&self) -> Timestamp {
        self.known().unwrap_or_else(|| self.clock.now())
    }

    fn known(&self) -> Option<Timestamp> {
        let base = self.base.lock().expect("no holder of this lock panics");
        base.known
            .map(|(time, at)| later(time, self.clock.monotonic().saturating_sub(at)))
    }

    /// Takes the server's word. `nonce` is what was asked with, `asked` when (monotonic); an answer is at most as old
    /// as the question.
    pub fn set(
        &self,
        server: &ServerKey,
        token: &str,
        nonce: &str,
        asked: Duration,
    ) -> Result<(), TokenError> {
        let claims: ServerTime = verify(server, token, Timestamp::UNIX_EPOCH)?;
        if claims.nonce != nonce {
            return Err(TokenError::Claims);
        }
        let now = self.clock.monotonic();
        // Signed between question and answer: half the round trip is the best guess.
        let said = later(claims.now, now.saturating_sub(asked) / 2);
        let mut base = self.base.lock().expect("no holder of this lock panics");
        let ours = base
            .known
            .map(|(time, at)| later(time, now.saturating_sub(at)));
        let best = ours.map_or(said, |ours| ours.max(said));
        base.known = Some((best, now));
        Ok(())
    }

    /// Writes the mark, if it has moved by a second.
    pub async fn keep(&self) -> Result<(), DbError> {
        let Some(now) = self.known() else {
            return Ok(());
        };
        let stored = self
            .base
            .lock()
            .expect("no holder of this lock panics")
            .stored;
        if stored.is_some_and(|stored| now.as_second() <= stored.as_second()) {
            return Ok(());
        }
        self.db
            .write::<_, DbError, _>(move |tx| Ok(store::raise_mark(tx, now)?))
            .await?;
        self.base
            .lock()
            .expect("no holder of this lock panics")
            .stored = Some(now);
        Ok(())
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::key::SigningKey;
    use mantel_protocol::token::sign;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn word(server: &SigningKey, second: i64) -> String {
        sign(
            server,
            &ServerTime {
                now: at(second),
                nonce: "n".into(),
            },
        )
    }

    #[tokio::test]
    async fn never_goes_back_and_survives_a_restart_with_a_wrong_clock() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("t.db"), &[store::SCHEMA]).expect("opens");
        let server = SigningKey::generate();
        let key = server.server_key();

        let clock = Clock::manual(at(4_000_000_000)); // a box whose battery says 2096
        let signed = SignedClock::open(db.clone(), clock.clone())
            .await
            .expect("opens");
        signed
            .set(&key, &word(&server, 1_000_000), "n", clock.monotonic())
            .expect("the server's word");
        assert_eq!(signed.now(), at(1_000_000));
        clock.advance(Duration::from_secs(50));
        assert_eq!(signed.now(), at(1_000_050));
        signed
            .set(&key, &word(&server, 900_000), "n", clock.monotonic())
            .expect("an older word");
        assert_eq!(signed.now(), at(1_000_050), "never back");
        assert_eq!(
            signed.set(&key, &word(&server, 2_000_000), "other", clock.monotonic()),
            Err(TokenError::Claims),
            "an old answer played again"
        );
        let forged = word(&SigningKey::generate(), 2_000_000);
        assert_eq!(
            signed.set(&key, &forged, "n", clock.monotonic()),
            Err(TokenError::Signature)
        );
        signed.keep().await.expect("stored");

        let rtc_dead = Clock::manual(at(0));
        let again = SignedClock::open(db, rtc_dead.clone())
            .await
            .expect("opens");
        assert_eq!(again.now(), at(1_000_050));
        rtc_dead.advance(Duration::from_secs(5));
        assert_eq!(again.now(), at(1_000_055));
        again
            .set(&key, &word(&server, 1_100_000), "n", rtc_dead.monotonic())
            .expect("the server's word");
        assert_eq!(again.now(), at(1_100_000));
    }
}
