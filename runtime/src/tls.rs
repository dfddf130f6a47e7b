//! TLS 1.3, two ways. Between gateways, and from gateway to relay: raw public keys (RFC 7250), each side named by its
//! Ed25519 key. From gateway to API and broker: the server's X.509 certificate, pinned by its public key, since a home's
//! server has no public certificate authority behind it.

use mantel_protocol::key::{DeviceId, SigningKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use std::sync::Arc;

/// A pin: the SHA-256 of a certificate's SubjectPublicKeyInfo.
pub type Pin = [u8; 32];

/// The one crypto provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes [`provider`] the process's default, for libraries that ask for one. Call it first in `main`.
pub fn install_provider() {
    // A second call (two daemons in one test process) finds it installed already.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// Why keys do not make a TLS configuration.
#[derive(Debug, thiserror::Error)]
#[error("the keys do not make a TLS configuration")]
pub struct TlsError(#[from] Error);

/// Accepts any peer with an Ed25519 raw public key; ask [`peer_device`] who it is, and judge it by its grant.
pub fn raw_key_server(key: &SigningKey, alpn: &[u8]) -> Result<ServerConfig, TlsError> {
    let own = certified(key)?;
    let resolver = rustls::server::AlwaysResolvesServerRawPublicKeys::new(own);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(RawKeyVerifier::new(None)))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    // No tickets: nothing may follow the handshake but what this side writes (see `mantel_protocol::relay`).
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Connects to the one peer that holds `peer`.
pub fn raw_key_client(
    key: &SigningKey,
    peer: [u8; 32],
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    let own = certified(key)?;
    let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(own);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RawKeyVerifier::new(Some(DeviceId(peer)))))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Connects to a server whose certificate has the public key of `pin`, whatever its name or issuer.
pub fn pinned_client(pin: Pin) -> Result<ClientConfig, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier {
            pin,
            algorithms: algorithms(),
        }))
        .with_no_client_auth())
}

/// The pin of a certificate.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, TlsError> {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
    let spki = parsed.subject_public_key_info();
    let hash = provider_sha256(spki.as_ref());
    Ok(hash)
}

fn provider_sha256(bytes: &[u8]) -> [u8; 32] {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let hash = suite
        .tls13()
        .expect("a TLS 1.3 suite")
        .common
        .hash_provider
        .hash(bytes);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A server name for connections where only the key counts.
pub fn any_name() -> ServerName<'static> {
    ServerName::try_from("mantel.invalid").expect("a syntactically valid name")
}

/// Who the peer of a raw-key connection is; `None` before the handshake is done.
pub fn peer_device(connection: &rustls::CommonState) -> Option<DeviceId> {
    DeviceId::from_spki_der(connection.peer_certificates()?.first()?.as_ref())
}

fn certified(key: &SigningKey) -> Result<Arc<CertifiedKey>, TlsError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()));
    let signing = aws_lc_rs::sign::any_eddsa_type(match &der {
        PrivateKeyDer::Pkcs8(der) => der,
        _ => return Err(TlsError(Error::General("not PKCS#8".into()))),
    })?;
    let spki = CertificateDer::from(key.device_id().spki_der().to_vec());
    Ok(Arc::new(CertifiedKey::new(vec![spki], signing)))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// Verifies that the peer holds an Ed25519 key, and, where one is wanted, that key.
#[derive(Debug)]
struct RawKeyVerifier {
    wanted: Option<DeviceId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl RawKeyVerifier {
    fn new(wanted: Option<DeviceId>) -> Self {
        Self {
            wanted,
            algorithms: algorithms(),
        }
    }

    fn check(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        let device = DeviceId::from_spki_der(end_entity.as_ref())
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        match self.wanted {
            Some(wanted) if wanted != device => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            _ => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &spki, dss, &self.algorithms)
    }
}

impl ServerCertVerifier for RawKeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOffered,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOffered,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Verifies that the server holds the pinned key.
#[derive(Debug)]
struct PinVerifier {
    pin: Pin,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match pin_of(end_entity) {
            Ok(pin) if pin == self.pin => Ok(ServerCertVerified::assertion()),
            Ok(_) => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            Err(TlsError(error)) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOffered,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    async fn handshake(
        wanted: [u8; 32],
        server: &SigningKey,
        client: &SigningKey,
    ) -> Option<(DeviceId, DeviceId)> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let accept = TlsAcceptor::from(Arc::new(raw_key_server(server, b"t").expect("keys")));
        let connect = TlsConnector::from(Arc::new(
            raw_key_client(client, wanted, b"t").expect("keys"),
        ));
        let (at_server, at_client) = tokio::join!(
            async {
                let mut stream = accept.accept(far).await.ok()?;
                stream.write_all(b"x").await.ok()?;
                stream.flush().await.ok()?;
                peer_device(stream.get_ref().1)
            },
            async {
                let mut stream = connect.connect(any_name(), near).await.ok()?;
                stream.read_u8().await.ok()?;
                peer_device(stream.get_ref().1)
            }
        );
        Some((at_server?, at_client?))
    }

    #[tokio::test]
    async fn each_side_learns_the_other_and_a_wrong_key_is_refused() {
        let (server, client) = (SigningKey::generate(), SigningKey::generate());
        let met = handshake(server.device_id().0, &server, &client).await;
        assert_eq!(met, Some((client.device_id(), server.device_id())));
        let other = SigningKey::generate().device_id().0;
        assert_eq!(handshake(other, &server, &client).await, None);
    }
}
