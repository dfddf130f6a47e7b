//! Secrets at rest: content keys and thumbnails sealed under the store key (F26, DESIGN §4).
//!
//! Each secret gets a wrapping key of its own, derived from the store key, a fresh 128-bit salt and the place where
//! the secret is stored. So no AEAD key is ever used twice, and a row moved to another place does not open.

use mantel_protocol::seal::{Cipher, ContentKey, SealError, open, seal};
use zeroize::Zeroizing;

/// Salt before each sealed secret, bytes.
const SALT_BYTES: usize = 16;
/// BLAKE3 derive_key context of wrapping keys.
const WRAP: &str = "mantel 2026-11-21 gateway store key: wrapping key of one secret";
/// BLAKE3 derive_key context of the key that marks content.
const MARK: &str = "mantel 2026-11-21 gateway store key: content marks";

/// The store key in use; no `Debug`, zeroized on drop.
pub(crate) struct StoreKey(ContentKey);

impl StoreKey {
    pub(crate) fn new(key: ContentKey) -> Self {
        Self(key)
    }

    /// Seals `secret` for `place`, e.g. `key ttl_… <blob>`.
    pub(crate) fn wrap(&self, place: &str, secret: &[u8]) -> Vec<u8> {
        let mut salt = [0u8; SALT_BYTES];
        aws_lc_rs::rand::fill(&mut salt).expect("the operating system gives random bytes");
        let mut out = salt.to_vec();
        out.extend_from_slice(&seal(
            &self.wrapping_key(place, &salt),
            Cipher::default(),
            secret,
        ));
        out
    }

    /// Opens what [`StoreKey::wrap`] sealed for the same place.
    pub(crate) fn unwrap(
        &self,
        place: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (salt, sealed) = sealed
            .split_at_checked(SALT_BYTES)
            .ok_or(SealError::Header)?;
        open(&self.wrapping_key(place, salt), sealed).map(Zeroizing::new)
    }

    /// A hasher that marks content: equal for equal plaintext in this home, meaningless without the store key.
    pub(crate) fn mark_hasher(&self) -> blake3::Hasher {
        let key = Zeroizing::new(blake3::derive_key(MARK, self.0.expose()));
        blake3::Hasher::new_keyed(&key)
    }

    /// A key for one purpose; `context` names it.
    pub(crate) fn derive(&self, context: &'static str) -> [u8; 32] {
        blake3::derive_key(context, self.0.expose())
    }

    fn wrapping_key(&self, place: &str, salt: &[u8]) -> ContentKey {
        let mut hasher = blake3::Hasher::new_derive_key(WRAP);
        hasher
            .update(self.0.expose())
            .update(salt)
            .update(place.as_bytes());
        let derived = Zeroizing::new(*hasher.finalize().as_bytes());
        ContentKey::from_bytes(derived.as_slice()).expect("a BLAKE3 hash has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_in_its_own_place_only() {
        let key = StoreKey::new(ContentKey::generate());
        let sealed = key.wrap("key a b", b"secret");
        assert_eq!(
            key.unwrap("key a b", &sealed).expect("opens").as_slice(),
            b"secret"
        );
        assert!(key.unwrap("key a c", &sealed).is_err());
        assert!(
            StoreKey::new(ContentKey::generate())
                .unwrap("key a b", &sealed)
                .is_err()
        );
        assert!(key.unwrap("key a b", &sealed[..10]).is_err());
        assert_ne!(
            key.wrap("key a b", b"secret")[..16],
            sealed[..16],
            "a salt of its own each time"
        );
    }
}
