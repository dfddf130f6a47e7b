//! Who this server is: its signing key, its vault key and its TLS certificate, made at the first start.
//!
//! In `data_dir/keys`, mode 0600: `server.key` (Ed25519 seed), `vault.key` (X25519), `tls.key.pem` (ECDSA P-256),
//! `tls.crt.pem`. Gateways pin the certificate's key, so that a certificate may be made anew from the same key.

use crate::error::{CoreError, Result, broken};
use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mantel_protocol::envelope::OpeningKey;
use mantel_protocol::key::SigningKey;
use mantel_runtime::files::{Mode, load_or_create_secret, write_atomic};
use mantel_runtime::tls::{Pin, pin_of, provider};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How long the certificate is valid, years.
const CERTIFICATE_YEARS: i16 = 10;

/// The server's keys and certificate.
pub struct Identity {
    folder: PathBuf,
    signing: SigningKey,
    vault: OpeningKey,
    certificate: CertificateDer<'static>,
    pin: Pin,
}

impl Identity {
    /// Loads the keys of `data_dir`, or makes them. `public_name` goes into a new certificate.
    pub fn load_or_create(
        data_dir: &Path,
        public_name: Option<&str>,
        now: Timestamp,
    ) -> Result<Self> {
        let folder = data_dir.join("keys");
        make_private_folder(&folder)?;
        let secret = |name: &str, make: &dyn Fn() -> Vec<u8>| {
            load_or_create_secret(&folder.join(name), make)
                .map(Zeroizing::new)
                .map_err(broken("a key in the data directory cannot be read or made"))
        };
        let seed = secret("server.key", &|| SigningKey::generate().seed().to_vec())?;
        let signing = SigningKey::from_seed(&seed).map_err(broken("keys/server.key is damaged"))?;
        let vault = secret("vault.key", &|| OpeningKey::generate().to_bytes().to_vec())?;
        let vault = OpeningKey::from_bytes(&vault).map_err(broken("keys/vault.key is damaged"))?;
        let pem = secret("tls.key.pem", &|| {
            let pair = rcgen::KeyPair::generate().expect("the crypto library makes P-256 keys");
            pair.serialize_pem().into_bytes()
        })?;
        let pem = std::str::from_utf8(&pem).map_err(broken("keys/tls.key.pem is damaged"))?;
        let pair = rcgen::KeyPair::from_pem(pem).map_err(broken("keys/tls.key.pem is damaged"))?;
        let certificate =
            load_or_make_certificate(&folder.join("tls.crt.pem"), &pair, public_name, now)?;
        let pin = pin_of(&certificate).map_err(broken("keys/tls.crt.pem is damaged"))?;
        Ok(Self {
            folder,
            signing,
            vault,
            certificate,
            pin,
        })
    }

    /// The key that signs grants, passes, licenses and time.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The key that opens content keys sealed to the vault.
    pub fn vault(&self) -> &OpeningKey {
        &self.vault
    }

    /// SHA-256 of the certificate's public key.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The pin as a claim link carries it: 52 base32 characters, lower case.
    pub fn pin_text(&self) -> String {
        BASE32_NOPAD.encode(&self.pin).to_ascii_lowercase()
    }

    /// The certificate's PEM file.
    pub fn certificate_path(&self) -> PathBuf {
        self.folder.join("tls.crt.pem")
    }

    /// The certificate's private key, PEM (PKCS#8).
    pub fn certificate_key_path(&self) -> PathBuf {
        self.folder.join("tls.key.pem")
    }

    /// TLS 1.3 for the API: HTTP/2 and HTTP/1.1.
    pub fn tls_config(&self) -> Result<ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(self.certificate_key_path())
            .map_err(broken("keys/tls.key.pem is damaged"))?;
        let tls = |error: rustls::Error| broken("the certificate and its key do not fit")(error);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn make_private_folder(folder: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(broken(
            "the data directory cannot be made; check its place and owner",
        ))
}

/// What this machine is called, as the kernel knows it.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty() && name.is_ascii() && name.len() <= 253).then(|| name.to_owned())
}

fn load_or_make_certificate(
    path: &Path,
    pair: &rcgen::KeyPair,
    public_name: Option<&str>,
    now: Timestamp,
) -> Result<CertificateDer<'static>> {
    if let Ok(certificate) = CertificateDer::from_pem_file(path) {
        return Ok(certificate);
    }
    let mut names = vec!["localhost".to_owned()];
    names.extend(host_name());
    names.extend(public_name.map(str::to_owned));
    names.extend(
        if_addrs::get_if_addrs()
            .unwrap_or_default()
            .iter()
            .map(|face| face.ip().to_string()),
    );
    names.sort();
    names.dedup();
    let made = |error: rcgen::Error| {
        broken("the certificate cannot be made; is public_name a host name?")(error)
    };
    let mut params = rcgen::CertificateParams::new(names).map_err(made)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Mantel server");
    let today = now.to_zoned(TimeZone::UTC).date();
    let day = |year: i16| {
        rcgen::date_time_ymd(
            i32::from(year),
            today.month() as u8,
            today.day().min(28) as u8,
        )
    };
    // A day in the past: a gateway's clock may be behind before it has asked the server for the time.
    params.not_before = day(today.year() - 1);
    params.not_after = day(today.year() + CERTIFICATE_YEARS);
    let certificate = params.self_signed(pair).map_err(made)?;
    write_atomic(path, certificate.pem().as_bytes(), Mode::Ordinary).map_err(broken(
        "the certificate cannot be written to the data directory",
    ))?;
    Ok(certificate.der().clone())
}

impl From<mantel_runtime::tls::TlsError> for CoreError {
    fn from(error: mantel_runtime::tls::TlsError) -> Self {
        broken("the certificate and its key do not fit")(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_pin_stay_the_same_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let load = || {
            Identity::load_or_create(folder.path(), Some("media.example"), Timestamp::UNIX_EPOCH)
        };
        let first = load().expect("made");
        std::fs::remove_file(first.certificate_path()).expect("removed");
        let second = load().expect("loaded");
        assert_eq!(
            first.pin(),
            second.pin(),
            "the certificate was made anew from the same key"
        );
        assert_eq!(first.signing().server_key(), second.signing().server_key());
        assert_eq!(first.vault().seal_key(), second.vault().seal_key());
        assert_eq!(first.pin_text().len(), 52);
        assert!(second.tls_config().is_ok());
    }
}
