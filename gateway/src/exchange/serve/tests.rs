//! Sender and receiver over loopback, with real TLS and a real database.

use super::*;
use crate::exchange::dial::{ChunkSink, ChunkStream, FetchError, ReceiveError, connect_direct};
use crate::exchange::wire;
use mantel_protocol::blob::{BlobError, BlobHasher, CHUNK_BYTES, ChunkRange};
use mantel_protocol::chunk::{Answer, CHUNK_PROTOCOL, MAX_REQUEST_FRAME, Request, encode};
use mantel_protocol::grant::{Grant, SeedGrant};
use mantel_protocol::ids::TitleId;
use mantel_protocol::token::{self, Validity};
use mantel_runtime::clock::Clock;
use mantel_runtime::tls::{any_name, raw_key_client};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

const MIB: usize = CHUNK_BYTES as usize;

/// A blob in memory; what it sends may differ from what its hashes say.
#[derive(Clone)]
struct Memory {
    hashes: HashList,
    bytes: Bytes,
    read: Arc<AtomicU64>,
    hold: Option<Arc<Semaphore>>,
}

impl BlobSource for Memory {
    fn hashes(&self) -> &HashList {
        &self.hashes
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if let Some(hold) = &self.hold {
            hold.acquire().await.expect("open").forget();
        }
        self.read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(self.bytes.slice(offset as usize..offset as usize + len))
    }
}

struct Home {
    server: Option<ServerKey>,
    clock: Clock,
    blob: Mutex<Option<Memory>>,
    permit: Mutex<Result<(), Refusal>>,
}

impl Keeper for Home {
    type Blob = Memory;

    fn server_key(&self) -> Option<ServerKey> {
        self.server
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn permit(&self, _: &AnyGrant) -> Result<(), Refusal> {
        *self.permit.lock().expect("unpoisoned")
    }

    async fn blob(&self, blob: BlobId) -> Result<Option<Memory>, Refusal> {
        let here = self.blob.lock().expect("unpoisoned").clone();
        Ok(here.filter(|memory| memory.hashes.id() == blob))
    }
}

/// Verifies chunks and keeps them.
struct Shelf {
    hashes: HashList,
    chunks: HashMap<u64, Vec<u8>>,
}

impl ChunkSink for Shelf {
    type Error = BlobError;

    async fn write(&mut self, index: u64, bytes: Vec<u8>) -> Result<Vec<u8>, BlobError> {
        self.hashes.verify_chunk(index, &bytes)?;
        self.chunks.insert(index, bytes);
        Ok(Vec::new())
    }
}

impl Shelf {
    fn bytes(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.len() as u64).sum()
    }
}

struct Lab {
    server: SigningKey,
    sender: SigningKey,
    receiver: SigningKey,
    home: Arc<Home>,
    chunks: ChunkServer<Home>,
    address: SocketAddr,
    memory: Memory,
    db: Db,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn noise(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn memory(bytes: Bytes) -> Memory {
    let mut hasher = BlobHasher::new();
    hasher.update(&bytes);
    Memory {
        hashes: hasher.finish().expect("not empty"),
        bytes,
        read: Arc::default(),
        hold: None,
    }
}

impl Lab {
    async fn start(len: usize) -> Self {
        let [server, sender, receiver] = [(); 3].map(|()| SigningKey::generate());
        let memory = memory(noise(len));
        let clock = Clock::manual(Timestamp::from_second(1_800_000_000).expect("in range"));
        let home = Arc::new(Home {
            server: Some(server.server_key()),
            clock,
            blob: Mutex::new(Some(memory.clone())),
            permit: Mutex::new(Ok(())),
        });
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("gateway.db"), &[SCHEMA]).expect("opens");
        let tasks = Tasks::root();
        let chunks =
            ChunkServer::new(&sender, Arc::clone(&home), db.clone(), &tasks).expect("keys");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        chunks.listen(listener);
        Self {
            server,
            sender,
            receiver,
            home,
            chunks,
            address,
            memory,
            db,
            tasks,
            _folder: folder,
        }
    }

    fn grant(&self, chunks: &[(u64, u64)]) -> Grant {
        Grant {
            id: GrantId::generate(),
            order: OrderId::generate(),
            delivery: DeliveryId::generate(),
            title: TitleId::generate(),
            blob: self.memory.hashes.id(),
            blob_bytes: self.memory.hashes.size(),
            sender: self.sender.device_id(),
            receiver: self.receiver.device_id(),
            chunks: chunks
                .iter()
                .map(|&(start, count)| ChunkRange { start, count })
                .collect(),
            validity: Validity::from_now(self.home.clock.now(), 600),
        }
    }

    async fn dial(&self, key: &SigningKey) -> ChunkStream {
        connect_direct(key, self.sender.device_id(), &[self.address])
            .await
            .expect("connects")
    }

    /// Shows the grant and fetches all it names; returns what arrived, and how it ended.
    async fn fetch(&self, grant: &Grant) -> (u64, Result<(), ReceiveError<BlobError>>) {
        let token = token::sign(&self.server, grant);
        let mut stream = self.dial(&self.receiver).await;
        let hashes = match stream.hello(&token, grant).await {
            Ok(hashes) => hashes,
            Err(error) => return (0, Err(error.into())),
        };
        let mut shelf = Shelf {
            hashes,
            chunks: HashMap::new(),
        };
        let end = stream.receive(&grant.chunks, &mut shelf).await;
        stream.done().await;
        (shelf.bytes(), end)
    }

    fn seed_grant(&self) -> SeedGrant {
        SeedGrant {
            id: GrantId::generate(),
            version: "1.2.3".parse().expect("a version"),
            bundle: self.memory.hashes.id(),
            bundle_bytes: self.memory.hashes.size(),
            sender: self.sender.device_id(),
            receiver: self.receiver.device_id(),
            validity: Validity::from_now(self.home.clock.now(), 600),
        }
    }

    /// Shows a grant for a bundle; the open stream, or the refusal.
    async fn greet(&self, key: &SigningKey, token: &str) -> Result<ChunkStream, Refusal> {
        let mut stream = self.dial(key).await;
        let (bundle, size) = (self.memory.hashes.id(), self.memory.hashes.size());
        match stream.hello_for(token, bundle, size).await {
            Ok(_) => Ok(stream),
            Err(FetchError::Refused(refusal)) => Err(refusal),
            Err(other) => panic!("{other:?}"),
        }
    }

    async fn refused(&self, key: &SigningKey, token: &str, grant: &Grant) -> Refusal {
        let mut stream = self.dial(key).await;
        match stream.hello(token, grant).await {
            Err(FetchError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

fn refusal(end: &Result<(), ReceiveError<BlobError>>) -> Option<Refusal> {
    match end {
        Err(ReceiveError::Fetch(FetchError::Refused(refusal))) => Some(*refusal),
        _ => None,
    }
}

#[tokio::test]
async fn delivers_what_the_grant_names() {
    let lab = Lab::start(70 * MIB + 123).await;
    let grant = lab.grant(&[(0, 71)]);
    let token = token::sign(&lab.server, &grant);
    let mut stream = lab.dial(&lab.receiver).await;
    assert_eq!(stream.path(), Path::Direct);
    let hashes = stream.hello(&token, &grant).await.expect("accepted");
    let mut shelf = Shelf {
        hashes,
        chunks: HashMap::new(),
    };
    stream
        .receive(&grant.chunks, &mut shelf)
        .await
        .expect("all comes");
    stream.done().await;
    for (index, chunk) in lab.memory.bytes.chunks(MIB).enumerate() {
        assert!(shelf.chunks[&(index as u64)] == chunk, "chunk {index}");
    }
    assert_eq!(shelf.bytes(), lab.memory.hashes.size());
    let parts = lab.grant(&[(70, 1), (3, 2), (9, 1)]);
    let (bytes, end) = lab.fetch(&parts).await;
    end.expect("all comes");
    assert_eq!(bytes, 3 * CHUNK_BYTES + 123);
}

#[tokio::test]
async fn refuses_forged_expired_and_foreign_grants_without_a_byte() {
    let lab = Lab::start(3 * MIB).await;
    let grant = lab.grant(&[(0, 3)]);
    let good = token::sign(&lab.server, &grant);
    let forged = token::sign(&SigningKey::generate(), &grant);
    assert_eq!(
        lab.refused(&lab.receiver, &forged, &grant).await,
        Refusal::Forged
    );
    // The device itself cannot grant either.
    let own = token::sign(&lab.receiver, &grant);
    assert_eq!(
        lab.refused(&lab.receiver, &own, &grant).await,
        Refusal::Forged
    );
    // Another home with a sniffed grant.
    let thief = SigningKey::generate();
    assert_eq!(lab.refused(&thief, &good, &grant).await, Refusal::NotYours);
    let elsewhere = Grant {
        sender: thief.device_id(),
        ..lab.grant(&[(0, 3)])
    };
    let token = token::sign(&lab.server, &elsewhere);
    assert_eq!(
        lab.refused(&lab.receiver, &token, &elsewhere).await,
        Refusal::NotYours
    );
    let unknown = Grant {
        blob: BlobId([9; 32]),
        ..lab.grant(&[(0, 3)])
    };
    let token = token::sign(&lab.server, &unknown);
    assert_eq!(
        lab.refused(&lab.receiver, &token, &unknown).await,
        Refusal::NotHere
    );
    *lab.home.permit.lock().expect("unpoisoned") = Err(Refusal::Restricted);
    assert_eq!(
        lab.refused(&lab.receiver, &good, &grant).await,
        Refusal::Restricted
    );
    *lab.home.permit.lock().expect("unpoisoned") = Ok(());
    lab.home.clock.advance(Duration::from_mins(10));
    assert_eq!(
        lab.refused(&lab.receiver, &good, &grant).await,
        Refusal::Expired
    );
    assert_eq!(
        lab.memory.read.load(Ordering::Relaxed),
        0,
        "no media was read, let alone sent"
    );
}

#[tokio::test]
async fn a_replayed_grant_sends_nothing_more() {
    let lab = Lab::start(20 * MIB).await;
    let grant = lab.grant(&[(0, 20)]);
    let (bytes, end) = lab.fetch(&grant).await;
    end.expect("all comes");
    assert_eq!(bytes, 20 * CHUNK_BYTES);
    let read = lab.memory.read.load(Ordering::Relaxed);
    let (bytes, end) = lab.fetch(&grant).await;
    assert_eq!((bytes, refusal(&end)), (0, Some(Refusal::Used)));
    assert_eq!(lab.memory.read.load(Ordering::Relaxed), read);
}

#[tokio::test]
async fn a_grant_replayed_after_a_crash_sends_no_more_than_it_says() {
    let lab = Lab::start(40 * MIB).await;
    let grant = lab.grant(&[(0, 40)]);
    // A crash after a step was reserved: nothing is given back.
    let now = lab.home.clock.now();
    let got = grant_use::reserve(&lab.db, &grant.clone().into(), u64::MAX, now)
        .await
        .expect("counted");
    assert_eq!(got, grant.max_bytes());
    grant_use::give_back(&lab.db, grant.id, 24 * CHUNK_BYTES)
        .await
        .expect("counted");
    let (bytes, end) = lab.fetch(&grant).await;
    assert_eq!(refusal(&end), Some(Refusal::Used));
    assert!(
        (22 * CHUNK_BYTES..=24 * CHUNK_BYTES).contains(&bytes),
        "{bytes}"
    );
    let (bytes, end) = lab.fetch(&grant).await;
    assert_eq!((bytes, refusal(&end)), (0, Some(Refusal::Used)));
}

#[tokio::test]
async fn what_a_broken_stream_did_not_send_is_given_back() {
    let lab = Lab::start(40 * MIB).await;
    let grant = lab.grant(&[(0, 40)]);
    let token = token::sign(&lab.server, &grant);
    let mut stream = lab.dial(&lab.receiver).await;
    stream.hello(&token, &grant).await.expect("accepted");
    stream
        .want(&[ChunkRange { start: 0, count: 2 }])
        .await
        .expect("asked");
    stream.next(Vec::new()).await.expect("comes");
    stream.next(Vec::new()).await.expect("comes");
    stream.done().await;
    wait_until(async || lab.chunks.sending().is_empty()).await;
    let used = grant_use::used(&lab.db, grant.id).await.expect("counted");
    assert_eq!(used, 2 * CHUNK_BYTES);
    // The rest is still to be had.
    let rest = Grant {
        chunks: vec![ChunkRange {
            start: 2,
            count: 38,
        }],
        ..grant.clone()
    };
    let mut stream = lab.dial(&lab.receiver).await;
    let hashes = stream.hello(&token, &grant).await.expect("accepted");
    let mut shelf = Shelf {
        hashes,
        chunks: HashMap::new(),
    };
    stream
        .receive(&rest.chunks, &mut shelf)
        .await
        .expect("all comes");
    assert_eq!(shelf.bytes(), 38 * CHUNK_BYTES);
}

#[tokio::test]
async fn chunks_outside_the_grant_are_refused() {
    let lab = Lab::start(8 * MIB).await;
    let grant = lab.grant(&[(2, 2)]);
    let token = token::sign(&lab.server, &grant);
    for wanted in [(4, 1), (1, 1), (8, 1), (u64::MAX, u64::MAX), (0, u64::MAX)] {
        let mut stream = lab.dial(&lab.receiver).await;
        stream.hello(&token, &grant).await.expect("accepted");
        let want = ChunkRange {
            start: wanted.0,
            count: wanted.1,
        };
        stream.want(&[want]).await.expect("asked");
        let got = stream.next(Vec::new()).await;
        assert!(
            matches!(got, Err(FetchError::Refused(Refusal::NotYours))),
            "{wanted:?}: {got:?}"
        );
    }
}

#[tokio::test]
async fn a_revocation_cuts_at_once_and_stays() {
    let mut lab = Lab::start(60 * MIB).await;
    let gate = Arc::new(Semaphore::new(5));
    lab.memory.hold = Some(Arc::clone(&gate));
    *lab.home.blob.lock().expect("unpoisoned") = Some(lab.memory.clone());
    let grant = lab.grant(&[(0, 60)]);
    let revoking = async {
        wait_until(async || lab.chunks.sending().iter().any(|one| one.bytes > 0)).await;
        lab.chunks.revoke(grant.delivery).await.expect("noted");
        gate.add_permits(1_000);
    };
    let ((bytes, end), ()) = tokio::join!(lab.fetch(&grant), revoking);
    assert!(
        matches!(end, Err(ReceiveError::Fetch(FetchError::Lost(_)))),
        "{end:?}"
    );
    assert!(bytes <= 5 * CHUNK_BYTES, "{bytes}");
    let (bytes, end) = lab.fetch(&grant).await;
    assert_eq!((bytes, refusal(&end)), (0, Some(Refusal::Revoked)));
}

#[tokio::test]
async fn time_and_restrictions_are_judged_again_on_the_way() {
    let mut lab = Lab::start(60 * MIB).await;
    let gate = Arc::new(Semaphore::new(5));
    lab.memory.hold = Some(Arc::clone(&gate));
    *lab.home.blob.lock().expect("unpoisoned") = Some(lab.memory.clone());
    let grant = lab.grant(&[(0, 60)]);
    let passing = async {
        wait_until(async || lab.chunks.sending().iter().any(|one| one.bytes > 0)).await;
        lab.home.clock.advance(Duration::from_mins(10));
        gate.add_permits(1_000);
    };
    let ((bytes, end), ()) = tokio::join!(lab.fetch(&grant), passing);
    assert_eq!(refusal(&end), Some(Refusal::Expired));
    assert!(bytes <= 2 * STEP_BYTES, "{bytes}");
}

#[tokio::test]
async fn wrong_bytes_are_found_and_not_kept() {
    let lab = Lab::start(6 * MIB).await;
    let mut bytes = lab.memory.bytes.to_vec();
    bytes[3 * MIB + 17] ^= 1;
    let bad = Memory {
        bytes: bytes.into(),
        ..lab.memory.clone()
    };
    *lab.home.blob.lock().expect("unpoisoned") = Some(bad);
    let (bytes, end) = lab.fetch(&lab.grant(&[(0, 6)])).await;
    assert!(
        matches!(end, Err(ReceiveError::Sink(BlobError::WrongBytes(3)))),
        "{end:?}"
    );
    assert_eq!(bytes, 3 * CHUNK_BYTES);
}

#[tokio::test]
async fn hostile_receivers_get_nothing() {
    let lab = Lab::start(2 * MIB).await;
    let grant = lab.grant(&[(0, 2)]);
    let token = token::sign(&lab.server, &grant);
    let hello = encode(&Request::Hello {
        version: CHUNK_PROTOCOL,
        grant: token,
    });
    let too_many: Vec<_> = (0..9_000)
        .map(|_| ChunkRange { start: 0, count: 1 })
        .collect();
    let openings = [
        (MAX_REQUEST_FRAME as u32 + 1).to_le_bytes().to_vec(),
        0u32.to_le_bytes().to_vec(),
        vec![3, 0, 0, 0, 0xff, 0xff, 0xff],
        encode(&Request::Want {
            ranges: vec![ChunkRange { start: 0, count: 2 }],
        }),
        encode(&Request::Hello {
            version: 99,
            grant: String::new(),
        }),
        [hello.clone(), hello.clone()].concat(),
        [hello, encode(&Request::Want { ranges: too_many })].concat(),
    ];
    for (number, opening) in openings.into_iter().enumerate() {
        let config = raw_key_client(&lab.receiver, lab.sender.device_id().0, CHUNK_ALPN);
        let raw = TcpStream::connect(lab.address).await.expect("connects");
        let connector = TlsConnector::from(Arc::new(config.expect("keys")));
        let mut tls = BufReader::new(connector.connect(any_name(), raw).await.expect("secure"));
        tls.write_all(&opening).await.expect("sent");
        tls.flush().await.expect("sent");
        let mut frames = wire::Frames::new(1 << 20);
        let mut last = None;
        while let Ok(answer) = frames.read::<Answer, _>(&mut tls).await {
            last = Some(answer);
        }
        assert_eq!(
            last,
            Some(Answer::Refuse(Refusal::Protocol)),
            "opening {number}"
        );
    }
    let mut garbage = TcpStream::connect(lab.address).await.expect("connects");
    garbage.write_all(&noise(3_000)).await.expect("sent");
    let mut rest = Vec::new();
    // Closed or reset; either way no more than an alert comes.
    let _ = garbage.read_to_end(&mut rest).await;
    assert!(rest.len() < 100);
    assert_eq!(lab.memory.read.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn hostile_senders_are_found() {
    let receiver = SigningKey::generate();
    let sender = SigningKey::generate();
    let memory = memory(noise(2 * MIB));
    let hashes = memory.hashes.hashes().to_vec();
    let accept = encode(&Answer::Accept {
        hashes: hashes.clone(),
    });
    let chunk = |index, len| encode(&Answer::Chunk { index, len });
    let scripts = [
        vec![0xff; 8],
        encode(&Answer::Accept {
            hashes: vec![[0; 32]; 2],
        }),
        chunk(0, 1),
        [accept.clone(), chunk(1, MIB as u32)].concat(),
        [accept.clone(), chunk(0, MIB as u32 + 1)].concat(),
        [accept.clone(), chunk(0, u32::MAX)].concat(),
        [accept.clone(), accept.clone()].concat(),
        [accept, chunk(0, MIB as u32), vec![0; 1_000]].concat(),
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let acceptor =
            TlsAcceptor::from(Arc::new(raw_key_server(&sender, CHUNK_ALPN).expect("keys")));
        let serving = async {
            let (raw, _) = listener.accept().await.expect("a caller");
            let mut tls = acceptor.accept(raw).await.expect("secure");
            tls.write_all(&script).await.expect("sent");
            tls.shutdown().await.expect("closed");
            let mut rest = Vec::new();
            let _ = tls.read_to_end(&mut rest).await;
        };
        let grant = Grant {
            id: GrantId::generate(),
            order: OrderId::generate(),
            delivery: DeliveryId::generate(),
            title: TitleId::generate(),
            blob: memory.hashes.id(),
            blob_bytes: memory.hashes.size(),
            sender: sender.device_id(),
            receiver: receiver.device_id(),
            chunks: vec![ChunkRange { start: 0, count: 2 }],
            validity: Validity::from_now(Timestamp::UNIX_EPOCH, 600),
        };
        let fetching = async {
            let stream = connect_direct(&receiver, sender.device_id(), &[address]).await;
            let mut stream = stream.expect("connects");
            let hashes = stream.hello("token", &grant).await?;
            let mut shelf = Shelf {
                hashes,
                chunks: HashMap::new(),
            };
            stream.receive(&grant.chunks, &mut shelf).await
        };
        let (end, ()) = tokio::join!(fetching, serving);
        assert!(
            matches!(end, Err(ReceiveError::Fetch(_))),
            "script {number}: {end:?}"
        );
    }
}

#[tokio::test]
async fn only_the_holder_of_the_senders_key_is_accepted() {
    let lab = Lab::start(MIB).await;
    let other = SigningKey::generate().device_id();
    assert!(
        connect_direct(&lab.receiver, other, &[lab.address])
            .await
            .is_err()
    );
    // Of two addresses the one with the right key wins.
    let wrong = Lab::start(MIB).await;
    let both = [wrong.address, lab.address];
    let stream = connect_direct(&lab.receiver, lab.sender.device_id(), &both).await;
    let grant = lab.grant(&[(0, 1)]);
    let token = token::sign(&lab.server, &grant);
    let hashes = stream
        .expect("connects")
        .hello(&token, &grant)
        .await
        .expect("accepted");
    assert_eq!(hashes, lab.memory.hashes);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_told_to_wait() {
    let lab = Lab::start(MIB).await;
    let mut open = Vec::new();
    for _ in 0..MAX_STREAMS {
        let grant = lab.grant(&[(0, 1)]);
        let mut stream = lab.dial(&lab.receiver).await;
        stream
            .hello(&token::sign(&lab.server, &grant), &grant)
            .await
            .expect("accepted");
        open.push(stream);
    }
    assert_eq!(lab.chunks.sending().len(), MAX_STREAMS);
    let grant = lab.grant(&[(0, 1)]);
    let token = token::sign(&lab.server, &grant);
    assert_eq!(
        lab.refused(&lab.receiver, &token, &grant).await,
        Refusal::Busy
    );
    drop(open);
    wait_until(async || lab.chunks.sending().is_empty()).await;
    let (bytes, end) = lab.fetch(&grant).await;
    end.expect("there is room again");
    assert_eq!(bytes, CHUNK_BYTES);
}

#[tokio::test]
async fn a_bundle_is_given_once_under_its_own_grant_and_no_other() {
    let lab = Lab::start(3 * MIB + 9).await;
    let grant = lab.seed_grant();
    let good = token::sign(&lab.server, &grant);
    let thief = SigningKey::generate();
    let elsewhere = SeedGrant {
        sender: thief.device_id(),
        ..lab.seed_grant()
    };
    let unknown = SeedGrant {
        bundle: BlobId([9; 32]),
        ..lab.seed_grant()
    };
    let larger = SeedGrant {
        bundle_bytes: grant.bundle_bytes + 1,
        ..lab.seed_grant()
    };
    let by_server = |grant: &SeedGrant| token::sign(&lab.server, grant);
    let refused = [
        (&lab.receiver, token::sign(&thief, &grant), Refusal::Forged),
        (
            &lab.receiver,
            token::sign(&lab.receiver, &grant),
            Refusal::Forged,
        ),
        (&lab.receiver, String::new(), Refusal::Forged),
        (&thief, good.clone(), Refusal::NotYours),
        (&lab.receiver, by_server(&elsewhere), Refusal::NotYours),
        (&lab.receiver, by_server(&unknown), Refusal::NotHere),
        (&lab.receiver, by_server(&larger), Refusal::NotHere),
    ];
    for (number, (key, token, why)) in refused.into_iter().enumerate() {
        let got = lab.greet(key, &token).await.map(drop);
        assert_eq!(got, Err(why), "{number}");
    }
    *lab.home.permit.lock().expect("unpoisoned") = Err(Refusal::Busy);
    let got = lab.greet(&lab.receiver, &good).await.map(drop);
    assert_eq!(got, Err(Refusal::Busy), "something plays there");
    *lab.home.permit.lock().expect("unpoisoned") = Ok(());
    assert_eq!(lab.memory.read.load(Ordering::Relaxed), 0);

    let mut stream = lab.greet(&lab.receiver, &good).await.expect("accepted");
    assert!(lab.chunks.sending().is_empty(), "it is no delivery");
    let mut shelf = Shelf {
        hashes: lab.memory.hashes.clone(),
        chunks: HashMap::new(),
    };
    let all = [ChunkRange { start: 0, count: 4 }];
    stream.receive(&all, &mut shelf).await.expect("all comes");
    stream.done().await;
    assert_eq!(shelf.bytes(), grant.bundle_bytes);
    let got = lab.greet(&lab.receiver, &good).await.map(drop);
    assert_eq!(got, Err(Refusal::Used));

    let late = by_server(&lab.seed_grant());
    lab.home.clock.advance(Duration::from_mins(10));
    let got = lab.greet(&lab.receiver, &late).await.map(drop);
    assert_eq!(got, Err(Refusal::Expired));
}

#[tokio::test]
async fn two_homes_are_given_a_bundle_at_once_and_leave_room_for_deliveries() {
    let lab = Lab::start(MIB).await;
    let one = || token::sign(&lab.server, &lab.seed_grant());
    let mut open = Vec::new();
    for _ in 0..MAX_BUNDLE_STREAMS {
        open.push(lab.greet(&lab.receiver, &one()).await.expect("accepted"));
    }
    let third = lab.greet(&lab.receiver, &one()).await.map(drop);
    assert_eq!(third, Err(Refusal::Busy));
    let (bytes, end) = lab.fetch(&lab.grant(&[(0, 1)])).await;
    end.expect("a delivery has its place");
    assert_eq!(bytes, CHUNK_BYTES);
    drop(open);
    wait_until(async || lab.greet(&lab.receiver, &one()).await.is_ok()).await;
}

async fn wait_until(mut is: impl AsyncFnMut() -> bool) {
    let polling = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), polling)
        .await
        .expect("it happens in time");
}
