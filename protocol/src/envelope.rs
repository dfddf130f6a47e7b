//! HPKE envelopes (RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305): a content key or
//! a private manifest, sealed so that only one device, or the vault, can open it (F25, F64).

use crate::key::{KeyError, SealKey};
use data_encoding::BASE64;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

type Secret = <X25519HkdfSha256 as Kem>::PrivateKey;
type Public = <X25519HkdfSha256 as Kem>::PublicKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Domain separation (RFC 9180 §5.1 `info`).
const INFO: &[u8] = b"mantel/envelope/1";
/// The largest envelope accepted, base64 characters: a private manifest fits.
pub const MAX_ENVELOPE_CHARS: usize = 256 * 1024;

/// An X25519 key pair that opens envelopes.
#[derive(Clone)]
pub struct OpeningKey {
    secret: Secret,
    public: SealKey,
}

impl OpeningKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0u8; 32]);
        aws_lc_rs::rand::fill(&mut bytes[..]).expect("the operating system gives random bytes");
        Self::from_bytes(&bytes[..]).expect("32 bytes are an X25519 key")
    }

    /// The key of stored bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let secret = Secret::from_bytes(bytes).map_err(|_| KeyError::Damaged)?;
        let public = X25519HkdfSha256::sk_to_pk(&secret);
        let public = SealKey(
            public
                .to_bytes()
                .as_slice()
                .try_into()
                .map_err(|_| KeyError::Damaged)?,
        );
        Ok(Self { secret, public })
    }

    /// The bytes, to be stored (mode 0600, or sealed to the TPM).
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        bytes.copy_from_slice(&self.secret.to_bytes());
        bytes
    }

    /// The public half, which others seal to.
    pub fn seal_key(&self) -> SealKey {
        self.public
    }
}

/// Sealed bytes: encapsulated key and ciphertext in base64 (RFC 4648 §4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String)]
pub struct Envelope(String);

/// Why an envelope was not made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The receiver's key is no usable X25519 key.
    #[error("the receiver's key cannot be sealed to")]
    Receiver,
    /// Not an envelope, or too long.
    #[error("this is not an envelope")]
    Malformed,
    /// Sealed to another key, for another use, or altered.
    #[error("the envelope does not open: it is meant for another device or use, or was altered")]
    Refused,
}

/// Seals `plain` to `to`. `context` says what for (title, blob, device); opening needs the same.
pub fn seal(to: &SealKey, context: &[u8], plain: &[u8]) -> Result<Envelope, EnvelopeError> {
    let public = Public::from_bytes(&to.0).map_err(|_| EnvelopeError::Receiver)?;
    let (encapped, sealed) =
        hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            plain,
            context,
        )
        .map_err(|_| EnvelopeError::Receiver)?;
    let mut bytes = encapped.to_bytes().to_vec();
    bytes.extend_from_slice(&sealed);
    Ok(Envelope(BASE64.encode(&bytes)))
}

/// Opens an envelope.
pub fn open(
    key: &OpeningKey,
    context: &[u8],
    envelope: &Envelope,
) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    if envelope.0.len() > MAX_ENVELOPE_CHARS {
        return Err(EnvelopeError::Malformed);
    }
    let bytes = BASE64
        .decode(envelope.0.as_bytes())
        .map_err(|_| EnvelopeError::Malformed)?;
    let (encapped, sealed) = bytes.split_at_checked(32).ok_or(EnvelopeError::Malformed)?;
    let encapped = Encapped::from_bytes(encapped).map_err(|_| EnvelopeError::Malformed)?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &key.secret,
        &encapped,
        INFO,
        sealed,
        context,
    )
    .map(Zeroizing::new)
    .map_err(|_| EnvelopeError::Refused)
}

impl Envelope {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An envelope from stored text; judged when it is opened.
    pub fn from_text(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_for_its_key_and_context_only() {
        let key = OpeningKey::generate();
        let envelope = seal(&key.seal_key(), b"title", b"secret").expect("a good key");
        assert_eq!(
            open(&key, b"title", &envelope).as_deref(),
            Ok(&b"secret".to_vec())
        );
        assert_eq!(open(&key, b"other", &envelope), Err(EnvelopeError::Refused));
        assert_eq!(
            open(&OpeningKey::generate(), b"title", &envelope),
            Err(EnvelopeError::Refused)
        );
        let again = OpeningKey::from_bytes(&key.to_bytes()[..]).expect("stored bytes");
        assert_eq!(again.seal_key(), key.seal_key());
        for text in [
            "",
            "AAAA",
            "not base64!",
            &"A".repeat(MAX_ENVELOPE_CHARS + 4),
        ] {
            let broken = Envelope::from_text(text.to_owned());
            assert_eq!(open(&key, b"title", &broken), Err(EnvelopeError::Malformed));
        }
        assert!(
            seal(&SealKey([0; 32]), b"", b"x").is_err(),
            "the all-zero point"
        );
    }
}
