//! Hostile and half-dead Cast devices over loopback. The friendly one is the simulator of the laboratory, on another
//! implementation of the protocol (tests/peers).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rcgen::generate_simple_self_signed;
use rust_cast::message_manager::{CastMessage, CastMessagePayload, MessageManager};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::wire::{DEFAULT_APP, HEARTBEAT, MEDIA, RECEIVER};
use super::{CastAccess, CastPlayer, Screen};
use crate::media::{MediaKind, PlayRequest, RenderError, TransportState};

type Tls = StreamOwned<ServerConnection, TcpStream>;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_secs(90);

/// A device that does `behave` on each connection.
fn device(behave: fn(Tls)) -> CastPlayer {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let tls = ServerConnection::new(tls_config()).expect("a TLS server");
            std::thread::spawn(move || behave(StreamOwned::new(tls, socket)));
        }
    });
    player(address)
}

fn player(address: SocketAddr) -> CastPlayer {
    let screen = Screen::Yes;
    CastPlayer::new("Evil TV".to_owned(), CastAccess { address, screen })
}

fn tls_config() -> Arc<ServerConfig> {
    let own = generate_simple_self_signed(vec!["cast".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.into()], key)
        .expect("a certificate and its key");
    Arc::new(config)
}

fn film() -> PlayRequest {
    PlayRequest {
        url: "http://127.0.0.1:1/media/abc.mp4".to_owned(),
        title: "Film".to_owned(),
        kind: MediaKind::Video,
        mime: "video/mp4".to_owned(),
        size_bytes: None,
        duration: Some(Duration::from_secs(42)),
    }
}

async fn refused(player: &CastPlayer) -> RenderError {
    let status = timeout(LONG, player.status()).await.expect("no hang");
    status.expect_err("nothing sound came")
}

#[tokio::test]
async fn an_oversized_message_is_not_read() {
    let player = device(|mut tls| {
        // 4 GiB are announced; nothing may be set aside for them.
        let _ = tls.write_all(&[0xff; 4]);
        let _ = tls.read_to_end(&mut Vec::new());
    });
    let error = refused(&player).await;
    assert!(matches!(error, RenderError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("too much"), "{error}");
}

#[tokio::test]
async fn endless_messages_are_cut_off() {
    let player = device(|tls| {
        let messages = MessageManager::new(tls);
        let idle = message(HEARTBEAT, &json!({"type": "PONG"}));
        while messages.send(idle.clone()).is_ok() {}
    });
    let error = refused(&player).await;
    assert!(matches!(error, RenderError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn junk_and_silence_end_in_plain_words() {
    let silent = device(|mut tls| {
        let _ = tls.read_to_end(&mut Vec::new());
    });
    let junk = device(|mut tls| {
        let _ = tls.write_all(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
        let _ = tls.read_to_end(&mut Vec::new());
    });
    let hung_up = device(drop);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    // Accepted by the system, never served: no TLS at all.
    let mute = player(listener.local_addr().expect("bound"));
    for (what, player) in [
        ("silent", silent),
        ("junk", junk),
        ("hung up", hung_up),
        ("mute", mute),
    ] {
        let error = refused(&player).await;
        assert!(
            matches!(error, RenderError::Unreachable { .. }),
            "{what}: {error:?}"
        );
    }
}

fn message(namespace: &str, payload: &Value) -> CastMessage {
    CastMessage {
        namespace: namespace.to_owned(),
        source: "receiver-0".to_owned(),
        destination: "*".to_owned(),
        payload: CastMessagePayload::String(payload.to_string()),
    }
}

/// Runs the default media receiver at once, cannot load anything, and asks for a heartbeat before each answer.
fn picky(tls: Tls) {
    let messages = MessageManager::new(tls);
    let app = json!({"appId": DEFAULT_APP, "sessionId": "s", "transportId": "web-1"});
    while let Ok(heard) = messages.receive() {
        let CastMessagePayload::String(text) = heard.payload else {
            return;
        };
        let question: Value = serde_json::from_str(&text).expect("JSON from us");
        let answer = match (heard.namespace.as_str(), question["type"].as_str()) {
            (RECEIVER, _) => json!({"type": "RECEIVER_STATUS", "status": {"applications": [app]}}),
            (MEDIA, Some("LOAD")) => json!({"type": "LOAD_FAILED", "detailedErrorCode": 104}),
            (MEDIA, _) => json!({"type": "MEDIA_STATUS", "status": []}),
            _ => continue,
        };
        let mut answer = answer;
        answer["requestId"] = question["requestId"].clone();
        let ping = message(HEARTBEAT, &json!({"type": "PING"}));
        let sent = messages.send(ping).is_ok()
            && messages.receive().is_ok_and(|pong| {
                matches!(&pong.payload, CastMessagePayload::String(text) if text.contains("PONG"))
            })
            && messages.send(message(&heard.namespace, &answer)).is_ok();
        if !sent {
            return;
        }
    }
}

#[tokio::test]
async fn a_format_that_it_cannot_play_is_said_so_and_heartbeats_are_answered() {
    let player = device(picky);
    let error = player.load(&film()).await.expect_err("not loaded");
    assert!(matches!(error, RenderError::Format { .. }), "{error:?}");
    let status = player.status().await.expect("a status");
    assert_eq!(status.state, TransportState::NoMedia);
    let error = player.play().await.expect_err("nothing is loaded");
    assert!(matches!(error, RenderError::NotNow { .. }), "{error:?}");
    assert!(matches!(
        player.volume().await,
        Err(RenderError::Unsupported { .. })
    ));
}

#[tokio::test]
async fn a_loudspeaker_gets_no_film() {
    let address = "127.0.0.1:9".parse().expect("an address");
    let screen = Screen::No;
    let speaker = CastPlayer::new("Speaker".to_owned(), CastAccess { address, screen });
    assert!(matches!(
        speaker.load(&film()).await,
        Err(RenderError::Format { .. })
    ));
    assert!(
        speaker
            .formats()
            .iter()
            .all(|mime| mime.starts_with("audio/"))
    );
}
