//! Hostile RTSP cameras over loopback: each does one thing that a broken or malicious camera does, and the test shows
//! what the caller gets. The camera writes raw bytes, since no decent library sends such answers.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::meter::{MAX_PENDING_BYTES, MAX_SETUP_BYTES};
use super::{RtspAccess, RtspCamera, RtspUrl, Transport};
use crate::live::{Codec, LiveError, Login};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const GIB: u64 = 1 << 30;
/// What the sockets on the way may hold beyond a limit.
const IN_SOCKETS: u64 = 24 << 20;
/// One H.264 stream, with parameter sets of a 320 × 240 picture.
const SDP: &str = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n\
a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;\
sprop-parameter-sets=Z0LAFNoFB+yEAAADAAQAAAMA8DxQqSA=,aM4G4g==\r\na=control:0\r\n";

/// What a camera does once it was told to play.
#[derive(Clone)]
enum Plays {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends one picture in fragments until 1 GiB or until nobody listens.
    EndlessPicture,
    /// Sends nothing and stays.
    Nothing,
}

/// How a camera answers.
#[derive(Clone)]
enum Camera {
    /// As it should, until it plays.
    Plays(Plays),
    /// The first request with these bytes, then closes.
    Raw(Vec<u8>),
    /// The first request with these bytes, then the others over and over.
    RawEndless(Vec<u8>, Vec<u8>),
    /// Each request with 401.
    Unauthorized,
}

struct Hostile {
    port: u16,
    sent: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Hostile {
    async fn start(camera: Camera) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(stream, camera.clone(), Arc::clone(&count)));
            }
        });
        Self {
            port,
            sent,
            _tasks: tasks,
        }
    }

    fn camera(&self, login: Option<Login>) -> RtspCamera {
        let url = RtspUrl::parse(&format!("rtsp://127.0.0.1:{}/x", self.port), LOOPBACK);
        let access = RtspAccess {
            url: url.expect("its own"),
            transport: Transport::Interleaved,
        };
        RtspCamera::new("Cam".to_owned(), access, login)
    }
}

async fn endless(stream: &mut BufReader<TcpStream>, piece: &[u8], sent: &AtomicU64) {
    while sent.load(Ordering::SeqCst) < GIB && stream.write_all(piece).await.is_ok() {
        sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
}

/// The beginning of a fragmented unit (RFC 6184 §5.8), then its middle, always at the same time.
async fn endless_picture(stream: &mut BufReader<TcpStream>, sent: &AtomicU64) {
    let mut head = 0x85;
    for sequence in (0..=u16::MAX).cycle() {
        let fragment = [&[0x7c, head][..], &[7; 1400]].concat();
        let packet = packet(sequence, 0, false, &fragment);
        if sent.load(Ordering::SeqCst) > GIB || stream.write_all(&packet).await.is_err() {
            return;
        }
        sent.fetch_add(packet.len() as u64, Ordering::SeqCst);
        head = 0x05;
    }
}

async fn converse(stream: TcpStream, camera: Camera, sent: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    while let Some((method, sequence)) = request(&mut stream).await {
        let ok = format!("RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n");
        let answer = match (&camera, method.as_str()) {
            (Camera::Raw(bytes), _) => {
                let _ = stream.write_all(bytes).await;
                return;
            }
            (Camera::RawEndless(first, more), _) => {
                let _ = stream.write_all(first).await;
                return endless(&mut stream, more, &sent).await;
            }
            (Camera::Unauthorized, _) => format!(
                "RTSP/1.0 401 No\r\nCSeq: {sequence}\r\nWWW-Authenticate: Digest realm=\"c\", nonce=\"n\"\r\n\r\n"
            ),
            (_, "DESCRIBE") => format!(
                "{ok}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
                SDP.len()
            ),
            (_, "SETUP") => {
                format!("{ok}Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n")
            }
            (_, "PLAY") => format!("{ok}Session: 1\r\n\r\n"),
            _ => format!("{ok}\r\n"),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if let (Camera::Plays(plays), "PLAY") = (&camera, method.as_str()) {
            match plays {
                Plays::Bytes(bytes) => {
                    let _ = stream.write_all(bytes).await;
                    return;
                }
                Plays::EndlessPicture => return endless_picture(&mut stream, &sent).await,
                Plays::Nothing => {}
            }
        }
    }
}

/// Method and CSeq of the next request; `None` at the end.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let (mut method, mut sequence) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Some((method, sequence));
        }
        if method.is_empty() {
            method = line.split(' ').next()?.to_owned();
        }
        if let Some(number) = line.strip_prefix("CSeq: ") {
            number.clone_into(&mut sequence);
        }
    }
}

/// An RTP packet in its frame on channel 0.
fn packet(sequence: u16, time: u32, mark: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![b'$', 0];
    out.extend(((payload.len() + 12) as u16).to_be_bytes());
    out.extend([0x80, if mark { 0xe0 } else { 0x60 }]);
    out.extend(sequence.to_be_bytes());
    out.extend(time.to_be_bytes());
    out.extend([1, 2, 3, 4]);
    out.extend(payload);
    out
}

/// A key picture in one packet.
fn picture(sequence: u16, time: u32) -> Vec<u8> {
    packet(sequence, time, true, &[0x65, 0x88, 0x84, 0x21, 0x10])
}

async fn error_of(camera: Camera) -> (LiveError, u64) {
    let hostile = Hostile::start(camera).await;
    let error = match hostile.camera(None).live().await {
        Err(error) => error,
        Ok(mut stream) => loop {
            match stream.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("it ended without a word"),
            }
        },
    };
    (error, hostile.sent.load(Ordering::SeqCst))
}

fn whole(error: &LiveError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error} {}", source.unwrap_or_default())
}

#[tokio::test]
async fn a_sound_stream_gives_its_track_and_its_pictures() {
    let mut bytes = picture(1, 0);
    bytes.extend(picture(2, 9000));
    let hostile = Hostile::start(Camera::Plays(Plays::Bytes(bytes))).await;
    let mut stream = hostile.camera(None).live().await.expect("it plays");
    assert!(matches!(stream.tracks()[0].codec, Codec::H264 { .. }));
    let unit = stream.next().await.expect("one").expect("whole");
    assert!(unit.key);
    assert_eq!(
        unit.bytes.as_ref(),
        [0, 0, 0, 5, 0x65, 0x88, 0x84, 0x21, 0x10]
    );
    let unit = stream.next().await.expect("two").expect("whole");
    assert_eq!(unit.at.as_millis(), 100);
    let ended = stream.next().await.expect("a word");
    assert!(
        matches!(ended, Err(LiveError::Unreachable { .. })),
        "{ended:?}"
    );
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_description_without_end_is_cut() {
    let head = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: 4000000000\r\n\r\n";
    let endless = Camera::RawEndless(head.to_vec(), vec![b'a'; 65536]);
    let (error, sent) = error_of(endless).await;
    assert!(
        matches!(error, LiveError::BadStream { .. }),
        "{}",
        whole(&error)
    );
    assert!(sent < MAX_SETUP_BYTES + IN_SOCKETS, "{sent}");
    let headers = Camera::RawEndless(b"RTSP/1.0 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(1000));
    let (error, sent) = error_of(headers).await;
    assert!(
        matches!(error, LiveError::BadStream { .. }),
        "{}",
        whole(&error)
    );
    assert!(sent < MAX_SETUP_BYTES + IN_SOCKETS, "{sent}");
}

#[tokio::test]
async fn a_picture_without_end_is_cut() {
    let (error, sent) = error_of(Camera::Plays(Plays::EndlessPicture)).await;
    assert!(
        matches!(error, LiveError::BadStream { .. }),
        "{}",
        whole(&error)
    );
    assert!(sent < MAX_PENDING_BYTES + IN_SOCKETS, "{sent}");
}

#[tokio::test]
async fn truncated_and_broken_packets_give_a_clear_error() {
    let cut = [picture(1, 0), vec![b'$', 0, 4, 0, 1, 2, 3]].concat();
    let short = [picture(1, 0), vec![b'$', 0, 0, 4, 0x80, 0x60, 0, 2]].concat();
    let version = vec![b'$', 0, 0, 12, 0, 0x60, 0, 2, 0, 0, 0, 0, 1, 2, 3, 4];
    let version = [picture(1, 0), version].concat();
    let empty = [picture(1, 0), packet(2, 3000, true, &[])].concat();
    let rubbish = [picture(1, 0), vec![0xff; 100_000]].concat();
    for bytes in [cut, short, version, empty, rubbish] {
        let (error, _) = error_of(Camera::Plays(Plays::Bytes(bytes))).await;
        let clear = matches!(
            error,
            LiveError::BadStream { .. } | LiveError::Unreachable { .. }
        );
        assert!(clear, "{}", whole(&error));
    }
}

#[tokio::test]
async fn what_is_no_rtsp_is_refused() {
    for raw in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
        b"\0\0\0\0",
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Type: application/sdp\r\nContent-Length: 3\r\n\r\nv=9",
        b"RTSP/1.0 454 Gone\r\nCSeq: 1\r\n\r\n",
        b"",
    ] {
        let (error, _) = error_of(Camera::Raw(raw.to_vec())).await;
        let clear = matches!(
            error,
            LiveError::BadStream { .. } | LiveError::Unreachable { .. }
        );
        assert!(clear, "{}", whole(&error));
    }
}

#[tokio::test]
async fn a_refused_log_in_is_told() {
    let (error, _) = error_of(Camera::Unauthorized).await;
    assert!(
        matches!(error, LiveError::LogIn { .. }),
        "{}",
        whole(&error)
    );
    let hostile = Hostile::start(Camera::Unauthorized).await;
    let login = Login::new("ä\"\\user", "pass word");
    let error = hostile.camera(login).live().await.expect_err("refused");
    assert!(
        matches!(error, LiveError::LogIn { .. }),
        "{}",
        whole(&error)
    );
}

#[tokio::test(start_paused = true)]
async fn a_camera_that_says_nothing_is_given_up() {
    let (error, _) = error_of(Camera::Plays(Plays::Nothing)).await;
    assert!(
        matches!(error, LiveError::Unreachable { .. }),
        "{}",
        whole(&error)
    );
}
