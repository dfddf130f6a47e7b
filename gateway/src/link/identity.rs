//! This device's keys, made at first start: `keys/{device,seal,store}.key`, mode 0600 (DESIGN §3).

use mantel_protocol::envelope::OpeningKey;
use mantel_protocol::key::SigningKey;
use mantel_protocol::seal::ContentKey;
use mantel_runtime::files::load_or_create_secret;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The three secrets of a gateway.
pub struct Identity {
    /// Who it is: signs log-ins, receipts and manifests.
    pub device: SigningKey,
    /// Opens envelopes: licenses and private shares.
    pub seal: OpeningKey,
    /// Seals keys and small files at rest.
    pub store: ContentKey,
}

/// Why the keys were not loaded.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or made.
    #[error(
        "cannot read or make the key file {path}; check the data directory's owner and free space"
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no key.
    #[error(
        "the key file {path} is damaged; restore it from a backup, or remove it to start as a new gateway"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

impl Identity {
    /// Loads the keys in `data_dir/keys`, or makes them.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, IdentityError> {
        let folder = data_dir.join("keys");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| IdentityError::Io {
                path: folder.clone(),
                source,
            })?;
        let load = |name: &str, make: fn() -> Vec<u8>| {
            let path = folder.join(name);
            match load_or_create_secret(&path, make) {
                Ok(bytes) => Ok((path, zeroize::Zeroizing::new(bytes))),
                Err(source) => Err(IdentityError::Io { path, source }),
            }
        };
        let (path, bytes) = load("device.key", || SigningKey::generate().seed().to_vec())?;
        let device = SigningKey::from_seed(&bytes).map_err(|_| IdentityError::Damaged { path })?;
        let (path, bytes) = load("seal.key", || OpeningKey::generate().to_bytes().to_vec())?;
        let seal = OpeningKey::from_bytes(&bytes).map_err(|_| IdentityError::Damaged { path })?;
        let (path, bytes) = load("store.key", || ContentKey::generate().expose().to_vec())?;
        let store = ContentKey::from_bytes(&bytes).map_err(|_| IdentityError::Damaged { path })?;
        Ok(Self {
            device,
            seal,
            store,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_damage_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Identity::load_or_create(folder.path()).expect("made");
        let second = Identity::load_or_create(folder.path()).expect("loaded");
        assert_eq!(first.device.device_id(), second.device.device_id());
        assert_eq!(first.seal.seal_key(), second.seal.seal_key());
        assert!(first.store == second.store);
        std::fs::write(folder.path().join("keys/device.key"), b"short").expect("written");
        let error = Identity::load_or_create(folder.path())
            .err()
            .expect("refused");
        assert!(error.to_string().contains("device.key"), "{error}");
    }
}
