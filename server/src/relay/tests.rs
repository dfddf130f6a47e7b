//! The relay over loopback, with gateways' ends written out by hand.

use super::*;
use jiff::Timestamp;
use mantel_protocol::blob::{BlobId, CHUNK_BYTES, ChunkRange};
use mantel_protocol::chunk::{decode, encode};
use mantel_protocol::ids::{OrderId, TitleId};
use mantel_protocol::relay::{self, GO, MAX_ADMISSION_FRAME, RELAY_PROTOCOL, Welcome};
use mantel_protocol::token::{self, Validity};
use mantel_runtime::clock::Clock;
use mantel_runtime::tls::{any_name, raw_key_client};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(30);

struct Lab {
    relay: Relay,
    admission: Arc<KeyOnly>,
    server: SigningKey,
    clock: Clock,
    tasks: Tasks,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// Two homes and a grant between them.
struct Pair {
    sender: SigningKey,
    receiver: SigningKey,
    grant: Grant,
    token: String,
}

impl Lab {
    async fn start() -> Self {
        Self::with(RelayConfig::default(), ADMISSION_LIMIT).await
    }

    async fn with(config: RelayConfig, limit: Duration) -> Self {
        let server = SigningKey::generate();
        let clock = Clock::manual(Timestamp::from_second(1_800_000_000).expect("in range"));
        let admission = Arc::new(KeyOnly::new(server.server_key(), clock.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let tasks = Tasks::root();
        let relay = start_with(
            listener,
            &server,
            Arc::clone(&admission),
            config,
            limit,
            &tasks,
        );
        Self {
            relay: relay.expect("starts"),
            admission,
            server,
            clock,
            tasks,
        }
    }

    fn pair(&self, chunks: u64) -> Pair {
        let (sender, receiver) = (SigningKey::generate(), SigningKey::generate());
        let grant = Grant {
            id: GrantId::generate(),
            order: OrderId::generate(),
            delivery: DeliveryId::generate(),
            title: TitleId::generate(),
            blob: BlobId([7; 32]),
            blob_bytes: chunks * CHUNK_BYTES,
            sender: sender.device_id(),
            receiver: receiver.device_id(),
            chunks: vec![ChunkRange {
                start: 0,
                count: chunks,
            }],
            validity: Validity::from_now(self.clock.now(), 600),
        };
        let token = token::sign(&self.server, &grant);
        Pair {
            sender,
            receiver,
            grant,
            token,
        }
    }

    async fn secure(&self, key: &SigningKey) -> io::Result<TlsStream<TcpStream>> {
        let config = raw_key_client(key, self.server.device_id().0, RELAY_ALPN).expect("keys");
        let raw = TcpStream::connect(self.relay.local_addr()).await?;
        raw.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config))
            .connect(any_name(), raw)
            .await
    }

    async fn show(&self, key: &SigningKey, token: &str) -> io::Result<TlsStream<TcpStream>> {
        let mut tls = self.secure(key).await?;
        let admission = relay::Admission {
            version: RELAY_PROTOCOL,
            grant: token.to_owned(),
        };
        tls.write_all(&encode(&admission)).await?;
        tls.flush().await?;
        Ok(tls)
    }

    async fn enter(&self, key: &SigningKey, token: &str) -> Result<TcpStream, RelayRefusal> {
        let mut tls = self.show(key, token).await.expect("the relay is there");
        match welcome(&mut tls).await.expect("an answer") {
            Welcome::Refused(refusal) => Err(refusal),
            Welcome::Joined => Ok(go(tls).await),
        }
    }

    async fn join(&self, pair: &Pair) -> (TcpStream, TcpStream) {
        let (sender, receiver) = tokio::join!(
            self.enter(&pair.sender, &pair.token),
            self.enter(&pair.receiver, &pair.token)
        );
        (sender.expect("joined"), receiver.expect("joined"))
    }

    async fn until(&self, what: &str, mut is: impl FnMut(RelayFigures) -> bool) {
        let polling = async {
            while !is(self.relay.figures()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, polling).await;
        assert!(came.is_ok(), "{what}; it is {:?}", self.relay.figures());
    }
}

async fn welcome(tls: &mut TlsStream<TcpStream>) -> io::Result<Welcome> {
    let len = tls.read_u32_le().await? as usize;
    let mut frame = vec![0; len];
    tls.read_exact(&mut frame).await?;
    Ok(decode(&frame).expect("a welcome"))
}

async fn go(tls: TlsStream<TcpStream>) -> TcpStream {
    let (mut raw, _) = tls.into_inner();
    raw.write_u8(GO).await.expect("sent");
    raw
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Reads to the end, however it comes.
async fn drain(stream: &mut TcpStream) -> u64 {
    let (mut buffer, mut count) = (vec![0; 64 * 1024], 0);
    while let Ok(got) = stream.read(&mut buffer).await
        && got > 0
    {
        count += got as u64;
    }
    count
}

/// Writes until the relay ends it.
async fn flood(stream: &mut TcpStream) {
    let piece = vec![1; 64 * 1024];
    while stream.write_all(&piece).await.is_ok() {}
}

#[tokio::test]
async fn carries_bytes_both_ways_and_counts_them() {
    let lab = Lab::start().await;
    let pair = lab.pair(24);
    let (mut sender, mut receiver) = lab.join(&pair).await;
    let (media, requests) = (noise(24 * CHUNK_BYTES as usize + 77), noise(300_000));
    let sending = async {
        let (mut from, mut to) = sender.split();
        let write = async {
            to.write_all(&media).await?;
            to.shutdown().await
        };
        let mut got = Vec::new();
        tokio::try_join!(write, from.read_to_end(&mut got)).expect("carried");
        got
    };
    let receiving = async {
        let (mut from, mut to) = receiver.split();
        let mut got = Vec::new();
        let write = async {
            to.write_all(&requests).await?;
            to.shutdown().await
        };
        tokio::try_join!(from.read_to_end(&mut got), write).expect("carried");
        got
    };
    let (at_sender, at_receiver) = tokio::join!(sending, receiving);
    assert!(at_sender == requests, "requests arrive whole");
    assert!(at_receiver == media, "media arrives whole");
    lab.until("the stream ends", |now| now.joined == 0).await;
    assert_eq!(
        lab.admission.relayed_bytes(pair.grant.id),
        media.len() as u64
    );
}

#[tokio::test]
async fn a_paced_stream_arrives_whole() {
    let config = RelayConfig {
        rate_limit: Some(20_000_000),
        ..RelayConfig::default()
    };
    let lab = Lab::with(config, ADMISSION_LIMIT).await;
    let pair = lab.pair(3);
    let (mut sender, mut receiver) = lab.join(&pair).await;
    let media = noise(3 * CHUNK_BYTES as usize);
    let mut got = Vec::new();
    let write = async {
        sender.write_all(&media).await?;
        sender.shutdown().await
    };
    let read = async {
        receiver.read_to_end(&mut got).await?;
        receiver.shutdown().await
    };
    tokio::try_join!(write, read).expect("carried");
    assert!(got == media);
}

#[tokio::test]
async fn refuses_forged_expired_strange_and_used_grants_without_a_byte() {
    let lab = Lab::start().await;
    let pair = lab.pair(2);
    let forged = token::sign(&SigningKey::generate(), &pair.grant);
    assert_eq!(
        lab.enter(&pair.sender, &forged).await.err(),
        Some(RelayRefusal::Forged)
    );
    let mut altered = pair.token.clone();
    altered.replace_range(30..31, if &altered[30..31] == "A" { "B" } else { "A" });
    assert_eq!(
        lab.enter(&pair.sender, &altered).await.err(),
        Some(RelayRefusal::Forged)
    );
    let stranger = SigningKey::generate();
    assert_eq!(
        lab.enter(&stranger, &pair.token).await.err(),
        Some(RelayRefusal::NotYours)
    );
    lab.admission.revoke(pair.grant.delivery);
    assert_eq!(
        lab.enter(&pair.sender, &pair.token).await.err(),
        Some(RelayRefusal::Revoked)
    );
    let used = lab.pair(2);
    lab.admission
        .admit(&used.token, used.sender.device_id())
        .await
        .expect("good so far");
    lab.admission
        .relayed(used.grant.id, allowance(&used.grant, 0));
    assert_eq!(
        lab.enter(&used.sender, &used.token).await.err(),
        Some(RelayRefusal::Used)
    );
    let late = lab.pair(2);
    lab.clock.advance(Duration::from_mins(10));
    assert_eq!(
        lab.enter(&late.receiver, &late.token).await.err(),
        Some(RelayRefusal::Expired)
    );
    assert_eq!(lab.admission.relayed_bytes(pair.grant.id), 0);
    assert_eq!(lab.admission.relayed_bytes(late.grant.id), 0);
    assert_eq!(lab.relay.figures(), RelayFigures::default());
}

#[tokio::test]
async fn a_grant_carries_its_bytes_and_no_more_however_often_it_is_shown() {
    let lab = Lab::start().await;
    let pair = lab.pair(2);
    let mut arrived = 0;
    for _ in 0..2 {
        let (mut sender, mut receiver) = lab.join(&pair).await;
        // The first stream breaks off half-way, the second goes on until it is cut.
        if arrived == 0 {
            sender
                .write_all(&noise(CHUNK_BYTES as usize))
                .await
                .expect("sent");
            sender.shutdown().await.expect("shut");
            arrived += drain(&mut receiver).await;
            drop(sender);
            drop(receiver);
        } else {
            let ((), got) = tokio::join!(flood(&mut sender), drain(&mut receiver));
            arrived += got;
        }
        lab.until("the stream ends", |now| now.joined == 0).await;
    }
    let allowed = allowance(&pair.grant, 0);
    assert!(
        arrived >= CHUNK_BYTES && arrived <= allowed,
        "{arrived} of {allowed}"
    );
    assert_eq!(lab.admission.relayed_bytes(pair.grant.id), allowed);
    let replayed = lab.enter(&pair.sender, &pair.token).await;
    assert_eq!(replayed.err(), Some(RelayRefusal::Used));
}

#[tokio::test]
async fn a_receiver_cannot_send_media_backwards() {
    let lab = Lab::start().await;
    let pair = lab.pair(2);
    let (mut sender, mut receiver) = lab.join(&pair).await;
    let ((), got) = tokio::join!(flood(&mut receiver), drain(&mut sender));
    assert!(got <= 2 * CHUNK_BYTES, "{got}");
    assert_eq!(lab.admission.relayed_bytes(pair.grant.id), 0);
}

#[tokio::test]
async fn revocation_cuts_streams_and_those_who_wait() {
    let lab = Lab::start().await;
    let pair = lab.pair(10_000);
    let (mut sender, mut receiver) = lab.join(&pair).await;
    let reading = async {
        let mut buffer = vec![0; 64 * 1024];
        let first = receiver.read(&mut buffer).await.expect("bytes come");
        assert!(first > 0);
        lab.admission.revoke(pair.grant.delivery);
        drain(&mut receiver).await
    };
    tokio::join!(flood(&mut sender), reading);
    lab.until("the stream is cut", |now| now.joined == 0).await;
    assert!(lab.admission.relayed_bytes(pair.grant.id) < pair.grant.max_bytes());

    let waiting = lab.pair(1);
    let mut tls = lab
        .show(&waiting.receiver, &waiting.token)
        .await
        .expect("shown");
    lab.until("it waits", |now| now.waiting == 1).await;
    lab.admission.revoke(waiting.grant.delivery);
    let told = welcome(&mut tls).await.expect("told");
    assert_eq!(told, Welcome::Refused(RelayRefusal::Revoked));
    drop(tls);
    lab.until("it is gone", |now| now.waiting == 0).await;
}

#[tokio::test]
async fn a_side_that_dies_frees_the_other_and_its_place() {
    let lab = Lab::start().await;
    let pair = lab.pair(1_000);
    let (mut sender, receiver) = lab.join(&pair).await;
    drop(receiver);
    flood(&mut sender).await;
    lab.until("the stream ends", |now| now.joined == 0).await;
    let (sender, mut receiver) = lab.join(&pair).await;
    drop(sender);
    assert_eq!(drain(&mut receiver).await, 0);
    drop(receiver);
    lab.until("the stream ends", |now| now.joined == 0).await;
    let waiting = lab.show(&pair.sender, &pair.token).await.expect("shown");
    lab.until("it waits", |now| now.waiting == 1).await;
    drop(waiting);
    lab.until("its place is free", |now| now.waiting == 0).await;
}

#[tokio::test]
async fn the_newest_connection_of_a_side_counts() {
    let lab = Lab::start().await;
    let pair = lab.pair(1_000);
    let mut older = lab.show(&pair.sender, &pair.token).await.expect("shown");
    lab.until("it waits", |now| now.waiting == 1).await;
    let newer = lab.show(&pair.sender, &pair.token).await.expect("shown");
    // The older one is let go without an answer.
    assert!(welcome(&mut older).await.is_err());
    let joining = async {
        let mut newer = newer;
        assert_eq!(welcome(&mut newer).await.expect("told"), Welcome::Joined);
        go(newer).await
    };
    let (mut sender, receiver) = tokio::join!(joining, lab.enter(&pair.receiver, &pair.token));
    let mut receiver = receiver.expect("joined");
    sender.write_all(b"hello").await.expect("sent");
    let mut five = [0; 5];
    receiver.read_exact(&mut five).await.expect("carried");
    assert_eq!(&five, b"hello");
    // A newer pair for the same blob ends the stream under way.
    let (mut again, mut there) = lab.join(&pair).await;
    assert_eq!(drain(&mut receiver).await, 0);
    again.write_all(b"again").await.expect("sent");
    there.read_exact(&mut five).await.expect("carried");
    assert_eq!(&five, b"again");
}

#[tokio::test]
async fn survives_hostile_callers() {
    let lab = Lab::with(RelayConfig::default(), Duration::from_millis(300)).await;
    let address = lab.relay.local_addr();
    // Garbage instead of a handshake, and nothing at all: closed.
    let mut garbage = TcpStream::connect(address).await.expect("connects");
    garbage.write_all(&noise(4_000)).await.expect("sent");
    drain(&mut garbage).await;
    let mut silent = TcpStream::connect(address).await.expect("connects");
    assert_eq!(drain(&mut silent).await, 0);
    // After the handshake: too long a frame, half a frame, a frame that is none.
    let key = SigningKey::generate();
    for (head, body) in [
        (u32::MAX, 0),
        (MAX_ADMISSION_FRAME as u32 + 1, 10),
        (5_000, 10),
    ] {
        let mut tls = lab.secure(&key).await.expect("secure");
        tls.write_all(&head.to_le_bytes()).await.expect("sent");
        tls.write_all(&noise(body)).await.expect("sent");
        tls.flush().await.expect("sent");
        assert!(welcome(&mut tls).await.is_err());
    }
    let mut tls = lab.secure(&key).await.expect("secure");
    tls.write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff])
        .await
        .expect("sent");
    let told = welcome(&mut tls).await.expect("told");
    assert_eq!(told, Welcome::Refused(RelayRefusal::Protocol));
    // Talking while waiting.
    let pair = lab.pair(1);
    let mut tls = lab.show(&pair.sender, &pair.token).await.expect("shown");
    lab.until("it waits", |now| now.waiting == 1).await;
    tls.write_all(b"?").await.expect("sent");
    let told = welcome(&mut tls).await.expect("told");
    assert_eq!(told, Welcome::Refused(RelayRefusal::Protocol));
    // And the relay still works.
    let pair = lab.pair(1);
    let (mut sender, mut receiver) = lab.join(&pair).await;
    sender.write_all(b"x").await.expect("sent");
    assert_eq!(receiver.read_u8().await.expect("carried"), b'x');
}

#[tokio::test]
async fn a_side_that_does_not_say_go_gets_nothing() {
    let lab = Lab::start().await;
    let pair = lab.pair(1);
    let rude = async {
        let mut tls = lab.show(&pair.receiver, &pair.token).await.expect("shown");
        assert_eq!(welcome(&mut tls).await.expect("told"), Welcome::Joined);
        let (mut raw, _) = tls.into_inner();
        raw.write_all(b"no").await.expect("sent");
        drain(&mut raw).await
    };
    let polite = async {
        let mut raw = lab.enter(&pair.sender, &pair.token).await.expect("joined");
        raw.write_all(b"media").await.expect("sent");
        drain(&mut raw).await
    };
    assert_eq!(tokio::join!(rude, polite), (0, 0));
    assert_eq!(lab.admission.relayed_bytes(pair.grant.id), 0);
}

#[tokio::test]
async fn those_who_wait_are_bounded() {
    let config = RelayConfig {
        max_waiting: 10,
        ..RelayConfig::default()
    };
    let lab = Lab::with(config, ADMISSION_LIMIT).await;
    let mut waiting = Vec::new();
    for number in 0..100 {
        let pair = lab.pair(1);
        let mut tls = lab.show(&pair.sender, &pair.token).await.expect("shown");
        if number < 10 {
            lab.until("it waits", |now| now.waiting == number + 1).await;
            waiting.push(tls);
        } else {
            let told = welcome(&mut tls).await.expect("told");
            assert_eq!(told, Welcome::Refused(RelayRefusal::Busy));
        }
    }
    assert_eq!(lab.relay.figures().waiting, 10);
    drop(waiting);
    lab.until("all places are free", |now| now.waiting == 0)
        .await;
}
