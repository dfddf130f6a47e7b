//! A device's keys. The Ed25519 public key *is* the device ID (DESIGN §3); an X25519 key beside it receives HPKE
//! envelopes (the "public key for encryption" of F12).

use crate::token::TokenError;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, example = "mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2q")]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                if text.len() != 52 {
                    return Err(KeyError::NotAKey);
                }
                BASE32_NOPAD
                    .decode(text.to_ascii_uppercase().as_bytes())
                    .ok()
                    .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                    .map(Self)
                    .ok_or(KeyError::NotAKey)
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;
            fn try_from(text: String) -> Result<Self, KeyError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> String {
                key.to_string()
            }
        }
    };
}

public_key!(/// A device's identity: its Ed25519 public key, written as 52 base32 characters (RFC 4648 §6, lower case).
    DeviceId);
public_key!(/// An X25519 public key that receives HPKE envelopes, written like a [`DeviceId`].
    SealKey);
public_key!(/// The Ed25519 public key with which a server signs grants, passes, licenses and time.
    ServerKey);

/// Why bytes or text are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Wrong length or alphabet.
    #[error("this is not a key: 52 characters a-z and 2-7 were expected")]
    NotAKey,
    /// A stored secret that is no Ed25519 or X25519 key.
    #[error("the stored secret key is damaged")]
    Damaged,
}

/// An Ed25519 key pair: a device's identity, or a server's signing key. 32-byte seed (RFC 8032 §5.1.5).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SigningKey {
    seed: [u8; 32],
    #[zeroize(skip)]
    public: [u8; 32],
}

impl SigningKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut seed = [0u8; 32];
        aws_lc_rs::rand::fill(&mut seed).expect("the operating system gives random bytes");
        Self::from_seed(&seed).expect("every 32-byte seed is an Ed25519 key")
    }

    /// The key of a stored seed.
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let seed = <[u8; 32]>::try_from(seed).map_err(|_| KeyError::Damaged)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Damaged)?;
        let public = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyError::Damaged)?;
        Ok(Self { seed, public })
    }

    /// The seed, to be stored (mode 0600, or sealed to the TPM).
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.seed)
    }

    /// The public half as a device's name.
    pub fn device_id(&self) -> DeviceId {
        DeviceId(self.public)
    }

    /// The public half as a server's key.
    pub fn server_key(&self) -> ServerKey {
        ServerKey(self.public)
    }

    /// PKCS#8 version 1 (RFC 8410 §7), the form that rustls loads.
    pub fn pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        // SEQUENCE { 0, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING seed } }
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        der.extend_from_slice(&self.seed);
        Zeroizing::new(der)
    }

    pub(crate) fn paserk_secret(&self) -> Zeroizing<[u8; 64]> {
        let mut both = Zeroizing::new([0u8; 64]);
        both[..32].copy_from_slice(&self.seed);
        both[32..].copy_from_slice(&self.public);
        both
    }
}

/// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 §4): 12 bytes of header, then the key.
pub const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

impl DeviceId {
    /// This key as SubjectPublicKeyInfo, as TLS raw public keys (RFC 7250) carry it.
    pub fn spki_der(&self) -> [u8; 44] {
        let mut der = [0u8; 44];
        der[..12].copy_from_slice(&ED25519_SPKI_PREFIX);
        der[12..].copy_from_slice(&self.0);
        der
    }

    /// The device whose key a raw public key is; `None` for any other kind of key.
    pub fn from_spki_der(der: &[u8]) -> Option<Self> {
        let key = der.strip_prefix(&ED25519_SPKI_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }

    /// Checks a signature over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .map_err(|_| TokenError::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spki_and_text_round_trip() {
        let key = SigningKey::generate();
        let id = key.device_id();
        assert_eq!(DeviceId::from_spki_der(&id.spki_der()), Some(id));
        assert_eq!(id.to_string().parse::<DeviceId>(), Ok(id));
        let again = SigningKey::from_seed(&key.seed()[..]).expect("a stored seed");
        assert_eq!(again.device_id(), id);
        assert!(Ed25519KeyPair::from_pkcs8(&key.pkcs8_der()).is_ok());
        assert_eq!(
            "x".repeat(52).parse::<DeviceId>().is_ok(),
            BASE32_NOPAD.decode("X".repeat(52).as_bytes()).is_ok()
        );
        assert_eq!("".parse::<DeviceId>(), Err(KeyError::NotAKey));
    }
}
