//! PASETO v4.public tokens: one format for all that is signed (grants, passes, licenses, receipts, restrictions,
//! server time, device log-ins). The message is the claims' JSON; the claim's kind is the implicit assertion, so that
//! a token signed for one purpose verifies for no other.

use crate::key::{DeviceId, ServerKey, SigningKey};
use jiff::Timestamp;
use pasetors::Public;
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest token accepted, bytes. The largest, a set of restrictions, may hold 1,000 rules.
pub const MAX_TOKEN_BYTES: usize = 512 * 1024;

/// How long a device log-in is valid. Long enough for a slow link, short enough that a leaked one is worth little.
pub const DEVICE_LOGIN_S: i64 = 60;

/// How far apart the clocks of signer and verifier may be for not-before, seconds.
pub const CLOCK_SKEW_S: i64 = 120;

/// What is signed. `KIND` separates the purposes.
pub trait Claims: Serialize + DeserializeOwned {
    /// The purpose, e.g. `mantel/grant/1`; bound into the signature.
    const KIND: &'static str;
    /// From when and until when the claims hold; `None` where they have no end (a receipt).
    fn validity(&self) -> Option<Validity>;
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Validity {
    /// First second in which the claims hold.
    #[schema(value_type = String)]
    pub not_before: Timestamp,
    /// First second in which they no longer hold.
    #[schema(value_type = String)]
    pub expires: Timestamp,
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a PASETO v4.public token, or too long.
    #[error("this is not a Mantel token")]
    Malformed,
    /// Signed by another key, for another purpose, or altered.
    #[error(
        "the signature does not fit: the token is forged, altered, or meant for something else"
    )]
    Signature,
    /// The claims inside are not of this kind.
    #[error("the token's claims cannot be read")]
    Claims,
    /// Its time has not come.
    #[error("the token is not valid yet; is this clock right?")]
    NotYetValid,
    /// Its time is over.
    #[error("the token has expired; ask for a new one")]
    Expired,
}

/// Signs claims. Used by the server for grants and the like, by a device for log-ins, receipts and manifests.
pub fn sign<C: Claims>(key: &SigningKey, claims: &C) -> String {
    let secret = AsymmetricSecretKey::<V4>::from(&key.paserk_secret()[..])
        .expect("seed and public key of one pair are a PASETO secret");
    let message = serde_json::to_vec(claims).expect("claims are plain data");
    PublicToken::sign(&secret, &message, None, Some(C::KIND.as_bytes()))
        .expect("signing a non-empty message succeeds")
}

/// Verifies a token that a server signed. `now` judges its validity.
pub fn verify<C: Claims>(key: &ServerKey, token: &str, now: Timestamp) -> Result<C, TokenError> {
    verify_raw(&key.0, token, Some(now))
}

/// Verifies a token that a device signed. `now` judges its validity.
pub fn verify_device<C: Claims>(
    key: &DeviceId,
    token: &str,
    now: Timestamp,
) -> Result<C, TokenError> {
    verify_raw(&key.0, token, Some(now))
}

/// Verifies the signature alone; the caller judges time (a license is judged by the gateway's signed clock).
pub fn verify_ignoring_time<C: Claims>(key: &ServerKey, token: &str) -> Result<C, TokenError> {
    verify_raw(&key.0, token, None)
}

/// The claims of a token whose signer is named inside it; nothing is verified yet.
pub fn peek_unverified<C: Claims>(token: &str) -> Result<C, TokenError> {
    serde_json::from_slice(parse(token)?.untrusted_payload()).map_err(|_| TokenError::Claims)
}

fn parse(token: &str) -> Result<UntrustedToken<Public, V4>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed);
    }
    UntrustedToken::try_from(token).map_err(|_| TokenError::Malformed)
}

fn verify_raw<C: Claims>(
    key: &[u8; 32],
    token: &str,
    now: Option<Timestamp>,
) -> Result<C, TokenError> {
    let untrusted = parse(token)?;
    let key = AsymmetricPublicKey::<V4>::from(&key[..]).map_err(|_| TokenError::Signature)?;
    let trusted = PublicToken::verify(&key, &untrusted, None, Some(C::KIND.as_bytes()))
        .map_err(|_| TokenError::Signature)?;
    let claims: C = serde_json::from_str(trusted.payload()).map_err(|_| TokenError::Claims)?;
    if let (Some(now), Some(validity)) = (now, claims.validity()) {
        if now.as_second() + CLOCK_SKEW_S < validity.not_before.as_second() {
            return Err(TokenError::NotYetValid);
        }
        if now >= validity.expires {
            return Err(TokenError::Expired);
        }
    }
    Ok(claims)
}

/// A device's log-in to API and broker: a short-lived word signed by its own key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceLogin {
    /// Who logs in; the token is signed by this key.
    pub device: DeviceId,
    /// The server it is meant for, so that another server cannot use it.
    pub server: ServerKey,
    /// When it was made and when it ends.
    pub validity: Validity,
}

impl Claims for DeviceLogin {
    const KIND: &'static str = "mantel/device-login/1";
    fn validity(&self) -> Option<Validity> {
        Some(self.validity)
    }
}

impl DeviceLogin {
    /// Signs a log-in that holds for [`DEVICE_LOGIN_S`].
    pub fn sign(key: &SigningKey, server: ServerKey, now: Timestamp) -> String {
        sign(
            key,
            &Self {
                device: key.device_id(),
                server,
                validity: Validity::from_now(now, DEVICE_LOGIN_S),
            },
        )
    }

    /// Verifies a log-in; a device's clock may be off by [`CLOCK_SKEW_S`] to either side.
    pub fn verify(token: &str, server: &ServerKey, now: Timestamp) -> Result<DeviceId, TokenError> {
        let device = peek_unverified::<Self>(token)?.device;
        let slack = jiff::SignedDuration::from_secs(CLOCK_SKEW_S);
        let claims: Self = verify_device(&device, token, now.saturating_sub(slack).unwrap_or(now))
            .or_else(|_| verify_device(&device, token, now))?;
        if claims.server != *server {
            return Err(TokenError::Signature);
        }
        Ok(device)
    }
}

/// The server's signed word on what time it is (DESIGN §3): licenses are judged by it, not by the box's clock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerTime {
    /// The time at which the server signed.
    pub now: Timestamp,
    /// The asker's random words, so that an old answer cannot be played again.
    pub nonce: String,
}

impl Claims for ServerTime {
    const KIND: &'static str = "mantel/time/1";
    fn validity(&self) -> Option<Validity> {
        None
    }
}

impl Validity {
    /// From `now` for `seconds`.
    pub fn from_now(now: Timestamp, seconds: i64) -> Self {
        let expires = now
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX);
        Self {
            not_before: now,
            expires,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn verifies_for_its_purpose_signer_and_time_only() {
        let server = SigningKey::generate();
        let time = ServerTime {
            now: at(1_000),
            nonce: "n".into(),
        };
        let token = sign(&server, &time);
        assert!(verify::<ServerTime>(&server.server_key(), &token, at(5)).is_ok());
        assert_eq!(
            verify::<DeviceLogin>(&server.server_key(), &token, at(5)).err(),
            Some(TokenError::Signature)
        );
        let other = SigningKey::generate();
        assert_eq!(
            verify::<ServerTime>(&other.server_key(), &token, at(5)).err(),
            Some(TokenError::Signature)
        );
    }

    #[test]
    fn device_login_expires_and_names_its_server() {
        let device = SigningKey::generate();
        let server = SigningKey::generate().server_key();
        let token = DeviceLogin::sign(&device, server, at(10_000));
        assert_eq!(
            DeviceLogin::verify(&token, &server, at(10_030)),
            Ok(device.device_id())
        );
        assert_eq!(
            DeviceLogin::verify(&token, &server, at(10_000 - 100)),
            Ok(device.device_id())
        );
        assert_eq!(
            DeviceLogin::verify(&token, &server, at(10_000 + 600)),
            Err(TokenError::Expired)
        );
        let elsewhere = SigningKey::generate().server_key();
        assert_eq!(
            DeviceLogin::verify(&token, &elsewhere, at(10_030)),
            Err(TokenError::Signature)
        );
    }

    proptest::proptest! {
        #[test]
        fn hostile_text_never_panics(text in ".{0,200}") {
            let key = SigningKey::from_seed(&[7; 32]).expect("a seed");
            let _ = verify::<ServerTime>(&key.server_key(), &text, at(0));
            let _ = DeviceLogin::verify(&format!("v4.public.{text}"), &key.server_key(), at(0));
        }
    }
}
