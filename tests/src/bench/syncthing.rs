//! A client of Syncthing's relay, as far as two ends need it to meet there: Relay Protocol v1
//! (docs.syncthing.net/specs/relay-v1). A message is magic, type and length, 32 bits each, and a body in XDR (RFC 4506).
//! The talk with the relay is TLS with client certificates; the session that it then joins is raw TCP.

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs as provider, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const MAGIC: u32 = 0x9E79_BC40;
const ALPN: &[u8] = b"bep-relay";
const PING: u32 = 0;
const PONG: u32 = 1;
const JOIN_RELAY: u32 = 2;
const JOIN_SESSION: u32 = 3;
const RESPONSE: u32 = 4;
const CONNECT: u32 = 5;
const INVITATION: u32 = 6;
/// No message of this talk is longer.
const MAX_BODY: u32 = 4_096;
const PATIENCE: Duration = Duration::from_secs(20);
/// When who was called joins the session, after the invitation ...
const CALLED_PAUSE: Duration = Duration::from_millis(100);
/// ... and when the caller does.
const CALLER_PAUSE: Duration = Duration::from_millis(400);

/// A device at the relay.
pub struct Guest {
    tls: TlsStream<TcpStream>,
    id: [u8; 32],
    port: u16,
}

impl Guest {
    async fn enter(port: u16) -> Result<Self> {
        let own = rcgen::generate_simple_self_signed(vec!["syncthing".to_owned()])?;
        let certificate = own.cert.der().clone();
        let id = digest(&SHA256, &certificate)
            .as_ref()
            .try_into()
            .context("SHA-256 has 32 bytes")?;
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())
            .map_err(|error| anyhow::anyhow!("a fresh key: {error}"))?;
        let algorithms = provider::default_provider().signature_verification_algorithms;
        let mut config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyRelay(algorithms)))
            .with_client_auth_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let raw = TcpStream::connect(("127.0.0.1", port))
            .await
            .context("reaching the relay")?;
        raw.set_nodelay(true)?;
        let name = ServerName::try_from("relay").context("a name")?;
        let tls = TlsConnector::from(Arc::new(config))
            .connect(name, raw)
            .await;
        Ok(Self {
            tls: tls.context("TLS with the relay")?,
            id,
            port,
        })
    }

    /// Joins the relay and waits there to be called.
    pub async fn join(port: u16) -> Result<Self> {
        let mut guest = Self::enter(port).await?;
        send(&mut guest.tls, JOIN_RELAY, &[]).await?;
        accepted(&mut guest.tls)
            .await
            .context("joining the relay")?;
        Ok(guest)
    }

    /// Its name there: the SHA-256 of its certificate.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    /// Waits for a caller and joins the session, which lasts as long as this guest stays.
    pub async fn invited(&mut self) -> Result<TcpStream> {
        session(&mut self.tls, self.port, CALLED_PAUSE).await
    }

    /// Calls the device `peer` at the relay and joins the session.
    pub async fn connect(port: u16, peer: [u8; 32]) -> Result<TcpStream> {
        let mut guest = Self::enter(port).await?;
        send(&mut guest.tls, CONNECT, &opaque(&peer)).await?;
        session(&mut guest.tls, port, CALLER_PAUSE).await
    }
}

/// Reads the invitation, and after `pause` shows its key at the session. The relay forgets a session to which a side
/// comes before it is ready, or while it takes in the other: so both come late, and one after the other.
async fn session(tls: &mut TlsStream<TcpStream>, port: u16, pause: Duration) -> Result<TcpStream> {
    let body = expect(tls, INVITATION)
        .await
        .context("waiting for an invitation")?;
    let mut rest = &body[..];
    let _from = take_opaque(&mut rest)?;
    let key = take_opaque(&mut rest)?.to_vec();
    tokio::time::sleep(pause).await;
    let mut raw = TcpStream::connect(("127.0.0.1", port)).await?;
    raw.set_nodelay(true)?;
    send(&mut raw, JOIN_SESSION, &opaque(&key)).await?;
    accepted(&mut raw).await.context("joining the session")?;
    Ok(raw)
}

async fn accepted(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
    let body = expect(stream, RESPONSE).await?;
    let mut rest = &body[..];
    let code = take_u32(&mut rest)?;
    let text = String::from_utf8_lossy(take_opaque(&mut rest)?).into_owned();
    ensure!(code == 0, "the relay says {code}: {text}");
    Ok(())
}

async fn send(to: &mut (impl AsyncWrite + Unpin), kind: u32, body: &[u8]) -> Result<()> {
    let mut message = Vec::with_capacity(12 + body.len());
    for word in [MAGIC, kind, body.len() as u32] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend_from_slice(body);
    to.write_all(&message).await?;
    to.flush().await.context("talking to the relay")
}

/// Waits for a message of one kind, answering pings meanwhile.
async fn expect(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), kind: u32) -> Result<Vec<u8>> {
    loop {
        let (got, body) = tokio::time::timeout(PATIENCE, receive(stream))
            .await
            .context("the relay is silent")??;
        match got {
            PING => send(stream, PONG, &[]).await?,
            got if got == kind => return Ok(body),
            RESPONSE => {
                let mut rest = &body[..];
                let code = take_u32(&mut rest)?;
                bail!(
                    "the relay says {code}: {}",
                    String::from_utf8_lossy(take_opaque(&mut rest)?)
                );
            }
            other => bail!("the relay sent a message of type {other}"),
        }
    }
}

async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Result<(u32, Vec<u8>)> {
    ensure!(
        from.read_u32().await? == MAGIC,
        "this is no relay of Syncthing"
    );
    let kind = from.read_u32().await?;
    let len = from.read_u32().await?;
    ensure!(len <= MAX_BODY, "the relay sent a message of {len} bytes");
    let mut body = vec![0; len as usize];
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// XDR variable-length opaque (RFC 4506 §4.10): length, bytes, zeros up to a multiple of four.
fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(4 + bytes.len().next_multiple_of(4), 0);
    out
}

fn take_u32(from: &mut &[u8]) -> Result<u32> {
    let (word, rest) = from
        .split_first_chunk::<4>()
        .context("the message is too short")?;
    *from = rest;
    Ok(u32::from_be_bytes(*word))
}

fn take_opaque<'a>(from: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = take_u32(from)? as usize;
    let padded = len
        .checked_next_multiple_of(4)
        .context("the message is too short")?;
    let (bytes, rest) = from
        .split_at_checked(padded)
        .context("the message is too short")?;
    *from = rest;
    Ok(&bytes[..len])
}

/// Takes whatever relay listens at loopback: this run started it.
#[derive(Debug)]
struct AnyRelay(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyRelay {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_bytes_round_trip_with_padding() {
        for len in 0..9 {
            let bytes: Vec<u8> = (1..=len).collect();
            let written = opaque(&bytes);
            assert_eq!(written.len() % 4, 0);
            let mut rest = &written[..];
            assert_eq!(take_opaque(&mut rest).expect("whole"), bytes);
            assert!(rest.is_empty());
        }
        assert!(take_opaque(&mut &[0, 0, 0, 9, 1][..]).is_err());
        assert!(take_opaque(&mut &[0xff; 8][..]).is_err());
    }
}
