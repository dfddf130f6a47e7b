//! The operator's log-in: a one-time setup link, a password (argon2id), sessions hashed at rest.

use crate::db::{ms, one, run, time};
use crate::error::{CoreError, Result, bad, broken, conflict, refused};
use crate::limit::Limit;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use data_encoding::BASE32_NOPAD;
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::ProblemCode;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use rusqlite::Connection;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// The shortest password, characters.
pub const MIN_PASSWORD_CHARS: usize = 10;
/// The longest password, bytes: it is hashed, which costs time.
pub const MAX_PASSWORD_BYTES: usize = 256;
/// How long a session lasts after its last use.
pub const SESSION_HOURS: i64 = 12;
/// Log-ins that one address may try in a minute.
pub const LOG_INS_PER_MINUTE: u32 = 10;
/// Log-ins that all addresses together may try in a minute.
pub const ALL_LOG_INS_PER_MINUTE: u32 = 60;
/// Passwords hashed at once: each takes 19 MiB and a core for a moment.
const HASHES_AT_ONCE: usize = 2;
/// A session's end moves on when it has moved by this much, so that not every page writes.
const SLIDE: SignedDuration = SignedDuration::from_mins(10);

/// An operator's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// When it ends unless used.
    pub expires: Timestamp,
}

/// The operator's log-in; cheap to clone.
#[derive(Clone)]
pub struct Operator {
    db: Db,
    clock: Clock,
    hashing: Arc<Semaphore>,
    each: Limit<IpAddr>,
    together: Limit<()>,
}

impl Operator {
    /// Over an open database.
    pub fn new(db: Db, clock: Clock) -> Self {
        let minute = Duration::from_mins(1);
        Self {
            each: Limit::new(clock.clone(), LOG_INS_PER_MINUTE, minute),
            together: Limit::new(clock.clone(), ALL_LOG_INS_PER_MINUTE, minute),
            hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            db,
            clock,
        }
    }

    /// Whether no password was set yet.
    pub async fn needs_setup(&self) -> Result<bool> {
        Ok(self.password_hash().await?.is_none())
    }

    /// Makes a new setup token, in place of any older one; `None`: a password is set already. Called at every start.
    pub async fn new_setup_token(&self) -> Result<Option<String>> {
        if !self.needs_setup().await? {
            return Ok(None);
        }
        let token = random_text();
        let hash = hash_of(&token);
        self.db
            .write(move |tx| {
                let sql = "INSERT INTO operator (id, setup_hash) VALUES (1, $1)
                     ON CONFLICT (id) DO UPDATE SET setup_hash = excluded.setup_hash";
                run(tx, sql, [hash])
            })
            .await?;
        Ok(Some(token))
    }

    /// Sets the password with the token of the setup link, and logs in: the cookie's value comes back.
    pub async fn set_up(&self, token: &str, password: &str, from: IpAddr) -> Result<String> {
        self.allow(from)?;
        let given = hash_of(token);
        let stored = self
            .db
            .read(|c| {
                one(
                    c,
                    "SELECT setup_hash FROM operator WHERE id = 1",
                    (),
                    |row| row.get::<_, Option<String>>(0),
                )
            })
            .await?
            .flatten();
        if !stored.is_some_and(|stored| bool::from(stored.as_bytes().ct_eq(given.as_bytes()))) {
            let detail = "this setup link was used or replaced";
            let next = "take the newest link from the server's log or from the file setup-link in its data directory";
            return Err(refused(ProblemCode::BadToken, detail, next));
        }
        let hash = self.hash(good_password(password)?).await?;
        self.db
            .write(move |tx| {
                let sql = "UPDATE operator SET setup_hash = NULL, password_hash = $1
                     WHERE id = 1 AND setup_hash = $2";
                match run(tx, sql, (hash, given))? {
                    1 => Ok(()),
                    _ => Err(conflict("the password was set just now", "log in with it")),
                }
            })
            .await?;
        self.start_session().await
    }

    /// Logs in: the cookie's value comes back.
    pub async fn log_in(&self, password: &str, from: IpAddr) -> Result<String> {
        self.check(password, from).await?;
        self.start_session().await
    }

    /// Changes the password; all sessions end.
    pub async fn change_password(&self, old: &str, new: &str, from: IpAddr) -> Result<()> {
        self.check(old, from).await?;
        let hash = self.hash(good_password(new)?).await?;
        self.db
            .write(move |tx| {
                run(
                    tx,
                    "UPDATE operator SET password_hash = $1 WHERE id = 1",
                    [hash],
                )?;
                run(tx, "DELETE FROM operator_sessions", ())?;
                Ok(())
            })
            .await
    }

    /// The session of a cookie; `None`: log in again.
    pub async fn session(&self, cookie: &str) -> Result<Option<Session>> {
        if cookie.len() > 100 {
            return Ok(None);
        }
        let (hash, now) = (hash_of(cookie), self.clock.now());
        let find = hash.clone();
        let expires = self.db.read(move |c| session_end(c, &find)).await?;
        let Some(expires) = expires.filter(|expires| now < *expires) else {
            return Ok(None);
        };
        let fresh = session_end_from(now);
        if fresh.duration_since(expires) > SLIDE {
            let sql = "UPDATE operator_sessions SET expires_ms = $2 WHERE cookie_hash = $1";
            self.db
                .write(move |tx| run(tx, sql, (hash, ms(fresh))))
                .await?;
        }
        Ok(Some(Session { expires }))
    }

    /// Ends a session.
    pub async fn log_out(&self, cookie: &str) -> Result<()> {
        let hash = hash_of(cookie);
        self.db
            .write(move |tx| {
                run(
                    tx,
                    "DELETE FROM operator_sessions WHERE cookie_hash = $1",
                    [hash],
                )
            })
            .await?;
        Ok(())
    }

    fn allow(&self, from: IpAddr) -> Result<()> {
        if self.each.allow(from) && self.together.allow(()) {
            return Ok(());
        }
        Err(refused(
            ProblemCode::TooMany,
            "too many log-ins were tried",
            "wait a minute and try again",
        ))
    }

    async fn check(&self, password: &str, from: IpAddr) -> Result<()> {
        self.allow(from)?;
        let stored = self.password_hash().await?;
        let Some(stored) = stored else {
            let next = "open the setup link from the server's log or from the file setup-link in its data directory";
            return Err(refused(
                ProblemCode::BadToken,
                "no password was set yet",
                next,
            ));
        };
        let password = Zeroizing::new(
            password
                .as_bytes()
                .iter()
                .copied()
                .take(MAX_PASSWORD_BYTES + 1)
                .collect::<Vec<u8>>(),
        );
        let fits = self
            .blocking(move || {
                let hash = PasswordHash::new(&stored).map_err(|_| CoreError::Broken {
                    what: "the operator's password hash is damaged",
                    source: None,
                })?;
                Ok(Argon2::default().verify_password(&password, &hash).is_ok())
            })
            .await?;
        if fits {
            Ok(())
        } else {
            Err(refused(
                ProblemCode::BadToken,
                "this is not the password",
                "try again",
            ))
        }
    }

    async fn password_hash(&self) -> Result<Option<String>> {
        let sql = "SELECT password_hash FROM operator WHERE id = 1";
        let found = self
            .db
            .read(move |c| one(c, sql, (), |row| row.get::<_, Option<String>>(0)))
            .await?;
        Ok(found.flatten())
    }

    async fn hash(&self, password: Zeroizing<Vec<u8>>) -> Result<String> {
        self.blocking(move || {
            let hash = Argon2::default().hash_password(&password);
            hash.map(|hash| hash.to_string())
                .map_err(|_| CoreError::Broken {
                    what: "the password cannot be hashed",
                    source: None,
                })
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.hashing.acquire().await;
        let _place = place.map_err(broken("the server is stopping"))?;
        tokio::task::spawn_blocking(job)
            .await
            .map_err(broken("the password hash was not finished"))?
    }

    async fn start_session(&self) -> Result<String> {
        let (cookie, now) = (random_text(), self.clock.now());
        let (hash, expires) = (hash_of(&cookie), session_end_from(now));
        self.db
            .write(move |tx| {
                run(tx, "DELETE FROM operator_sessions WHERE expires_ms <= $1", [ms(now)])?;
                let sql = "INSERT INTO operator_sessions (cookie_hash, created_ms, expires_ms) VALUES ($1, $2, $3)";
                run(tx, sql, (hash, ms(now), ms(expires)))
            })
            .await?;
        Ok(cookie)
    }
}

fn session_end_from(now: Timestamp) -> Timestamp {
    now.saturating_add(SignedDuration::from_hours(SESSION_HOURS))
        .unwrap_or(now)
}

fn session_end(c: &Connection, hash: &str) -> Result<Option<Timestamp>> {
    let sql = "SELECT expires_ms FROM operator_sessions WHERE cookie_hash = $1";
    one(c, sql, [hash], |row| time(row, "expires_ms"))
}

fn good_password(password: &str) -> Result<Zeroizing<Vec<u8>>> {
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err(bad(format!(
            "the password needs at least {MIN_PASSWORD_CHARS} characters"
        )));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(bad(format!(
            "the password is longer than {MAX_PASSWORD_BYTES} bytes"
        )));
    }
    Ok(Zeroizing::new(password.as_bytes().to_vec()))
}

/// 32 random bytes as text: a cookie or a setup token.
fn random_text() -> String {
    BASE32_NOPAD
        .encode(&rand::random::<[u8; 32]>())
        .to_ascii_lowercase()
}

/// How secrets with full entropy are kept: the database alone opens nothing.
fn hash_of(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}
