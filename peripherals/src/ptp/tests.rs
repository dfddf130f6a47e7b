//! Against a camera on loopback that speaks PTP/IP: written for these tests from the standards, with nothing of the
//! code that it tests. It can misbehave in the ways that [`Fault`] names.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::MediaSource;
use crate::media::WalkLimits;

/// What is wrong with the camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Every folder holds a new folder and a new picture.
    EndlessFolders,
    /// The folder holds itself.
    Cycle,
    /// Files are longer than it says.
    MoreThanTold,
    /// Files are shorter than it says.
    LessThanTold,
    /// It hangs up once, in the middle of a file.
    HangsUpOnce,
    /// A list claims four thousand million entries.
    HugeList,
    /// A list never ends.
    EndlessData,
    /// It answers another question.
    WrongTransaction,
    /// It refuses to be paired.
    Rejects,
    /// No card is in it.
    NoCard,
    /// It knows GetObject only.
    OldModel,
}

struct Object {
    parent: u32,
    name: String,
    /// `None`: a folder.
    bytes: Option<Vec<u8>>,
}

/// A camera that serves until it is dropped.
struct Camera {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

const STORAGE: u32 = 0x0001_0001;

fn picture(seed: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, seed];
    bytes.extend((4..size).map(|n| (n as u8).wrapping_mul(seed)));
    bytes
}

fn card() -> BTreeMap<u32, Object> {
    let object = |parent, name: &str, bytes| Object {
        parent,
        name: name.to_owned(),
        bytes,
    };
    BTreeMap::from([
        (1, object(0, "DCIM", None)),
        (2, object(1, "100TEST", None)),
        (3, object(2, "IMG_0001.JPG", Some(picture(3, 2_500_000)))),
        (4, object(2, "IMG_0002.NEF", Some(picture(5, 1000)))),
        (5, object(2, "SETTINGS.DAT", Some(vec![1; 10]))),
        (6, object(0, ".hidden", None)),
    ])
}

impl Camera {
    async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("bound");
        let address = listener.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut hung_up = false;
            let mut talks = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let fault = match fault {
                    Fault::HangsUpOnce if hung_up => Fault::Nothing,
                    fault => fault,
                };
                let mut stream = stream;
                let Some((kind, _)) = receive(&mut stream).await else {
                    continue;
                };
                if kind == 1 {
                    hung_up = true;
                    talks.spawn(command(stream, fault));
                } else {
                    send(&mut stream, 4, &[]).await;
                    talks.spawn(async move {
                        let mut stream = stream;
                        // Asks whether the gateway is still there, and waits for its yes.
                        send(&mut stream, 13, &[]).await;
                        while receive(&mut stream).await.is_some() {}
                    });
                }
            }
        });
        Self {
            address,
            _tasks: tasks,
        }
    }

    fn source(&self) -> PtpSource {
        let access = PtpAccess::Ip(PtpIpAccess {
            address: self.address,
        });
        PtpSource::new("Camera".to_owned(), access)
    }
}

async fn receive(stream: &mut TcpStream) -> Option<(u32, Vec<u8>)> {
    let length = stream.read_u32_le().await.ok()?;
    let kind = stream.read_u32_le().await.ok()?;
    let mut body = vec![0; length as usize - 8];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

async fn send(stream: &mut TcpStream, kind: u32, body: &[u8]) {
    let mut packet = (body.len() as u32 + 8).to_le_bytes().to_vec();
    packet.extend(kind.to_le_bytes());
    packet.extend(body);
    // The gateway may have gone; then the next receive ends this talk.
    let _ = stream.write_all(&packet).await;
}

fn text(text: &str) -> Vec<u8> {
    if text.is_empty() {
        return vec![0];
    }
    let units: Vec<u16> = text.encode_utf16().chain([0]).collect();
    let mut bytes = vec![units.len() as u8];
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes
}

fn words(numbers: &[u32]) -> Vec<u8> {
    let mut bytes = (numbers.len() as u32).to_le_bytes().to_vec();
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

fn device(fault: Fault) -> Vec<u8> {
    let mut operations = vec![
        0x1001_u16, 0x1002, 0x1003, 0x1004, 0x1005, 0x1007, 0x1008, 0x1009,
    ];
    if fault != Fault::OldModel {
        operations.push(0x101b);
    }
    let mut bytes = vec![100, 0, 6, 0, 0, 0, 100, 0];
    bytes.extend(text(""));
    bytes.extend([0, 0]);
    bytes.extend((operations.len() as u32).to_le_bytes());
    bytes.extend(operations.iter().flat_map(|code| code.to_le_bytes()));
    bytes.extend([0; 16]);
    for words in ["Testers", "Camera 1", "1.0", "SN-77"] {
        bytes.extend(text(words));
    }
    bytes
}

fn object(handle: u32, object: &Object, fault: Fault) -> Vec<u8> {
    let size = object.bytes.as_ref().map_or(0, |bytes| bytes.len() as u32);
    let told = match fault {
        Fault::MoreThanTold => size - size / 2,
        Fault::LessThanTold => size * 2,
        _ => size,
    };
    // As one independent responder does: not the storage that was asked for.
    let mut bytes = 0x1000_0001_u32.to_le_bytes().to_vec();
    let format: u16 = match (&object.bytes, handle) {
        (None, _) => 0x3001,
        (Some(_), 3) => 0x3801,
        (Some(_), _) => 0x3000,
    };
    bytes.extend(format.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(told.to_le_bytes());
    bytes.extend([0; 14]);
    for number in [640_u32, 480, 24, object.parent] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend([0; 10]);
    bytes.extend(text(&object.name));
    bytes.extend(text("20260704T123059"));
    bytes.extend(text(""));
    bytes.extend(text(""));
    bytes
}

/// Data and code of an answer.
fn answer(
    card: &mut BTreeMap<u32, Object>,
    code: u16,
    asked: &[u32],
    fault: Fault,
) -> (Option<Vec<u8>>, u16) {
    let at = |index: usize| asked.get(index).copied().unwrap_or(0);
    let ok = |bytes| (Some(bytes), 0x2001);
    match code {
        0x1001 => ok(device(fault)),
        0x1002 | 0x1003 => (None, 0x2001),
        0x1004 if fault == Fault::NoCard => ok(words(&[0x0001_0000])),
        0x1004 => ok(words(&[STORAGE])),
        0x1007 if fault == Fault::HugeList => ok(vec![0xff; 4]),
        0x1007 => {
            let parent = if at(2) == u32::MAX { 0 } else { at(2) };
            if fault == Fault::EndlessFolders {
                let next = card.keys().max().copied().unwrap_or(0) + 1;
                let new = |name: String, bytes| Object {
                    parent,
                    name,
                    bytes,
                };
                card.insert(next, new(format!("F{next}"), None));
                card.insert(next + 1, new(format!("P{next}.JPG"), Some(picture(1, 100))));
            }
            let mut inside: Vec<u32> = card
                .iter()
                .filter(|(_, object)| object.parent == parent)
                .map(|(handle, _)| *handle)
                .collect();
            if fault == Fault::Cycle && parent == 2 {
                inside.extend([1, 2]);
            }
            ok(words(&inside))
        }
        0x1008 => match card.get(&at(0)) {
            Some(found) if fault == Fault::Cycle && found.bytes.is_none() => {
                let looped = Object {
                    parent: 0,
                    name: found.name.clone(),
                    bytes: None,
                };
                ok(object(at(0), &looped, fault))
            }
            Some(found) => ok(object(at(0), found, fault)),
            None => (None, 0x2009),
        },
        0x1009 | 0x101b => match card.get(&at(0)).and_then(|object| object.bytes.as_ref()) {
            Some(bytes) if code == 0x1009 => ok(bytes.clone()),
            Some(bytes) => {
                let from = (at(1) as usize).min(bytes.len());
                let to = (from + at(2) as usize).min(bytes.len());
                ok(bytes[from..to].to_vec())
            }
            None => (None, 0x2009),
        },
        _ => (None, 0x2005),
    }
}

async fn command(mut stream: TcpStream, fault: Fault) {
    if fault == Fault::Rejects {
        send(&mut stream, 5, &1_u32.to_le_bytes()).await;
        return;
    }
    let mut hello = 77_u32.to_le_bytes().to_vec();
    hello.extend([9; 16]);
    hello.extend([b'C', 0, 0, 0, 0, 0, 1, 0]);
    send(&mut stream, 2, &hello).await;
    let mut card = card();
    let mut pieces = 0;
    while let Some((kind, body)) = receive(&mut stream).await {
        assert_eq!(kind, 6, "questions only");
        let code = u16::from_le_bytes([body[4], body[5]]);
        let transaction = [body[6], body[7], body[8], body[9]];
        let asked: Vec<u32> = body[10..]
            .chunks(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let (data, code_out) = answer(&mut card, code, &asked, fault);
        if let Some(data) = data {
            pieces += u32::from(code == 0x101b);
            if fault == Fault::HangsUpOnce && pieces == 2 {
                return;
            }
            transfer(&mut stream, transaction, &data, fault, code).await;
        }
        let mut end = code_out.to_le_bytes().to_vec();
        let wrong = fault == Fault::WrongTransaction && code == 0x1007;
        end.extend(if wrong { [9; 4] } else { transaction });
        send(&mut stream, 7, &end).await;
    }
}

async fn transfer(
    stream: &mut TcpStream,
    transaction: [u8; 4],
    data: &[u8],
    fault: Fault,
    code: u16,
) {
    let endless = fault == Fault::EndlessData && code == 0x1007;
    let total = if endless { u64::MAX } else { data.len() as u64 };
    let mut start = transaction.to_vec();
    start.extend(total.to_le_bytes());
    send(stream, 9, &start).await;
    let packet = |piece: &[u8]| [&transaction[..], piece].concat();
    // An event may come in between on this connection of some cameras.
    send(stream, 8, &[0x02, 0x40, 0, 0, 0, 0]).await;
    if endless {
        while stream.write_all(&endless_packet(transaction)).await.is_ok() {}
        return;
    }
    let cut = data.len() / 3;
    send(stream, 10, &packet(&data[..cut])).await;
    send(stream, 12, &packet(&data[cut..])).await;
}

fn endless_packet(transaction: [u8; 4]) -> Vec<u8> {
    let mut packet = (12 + 4000_u32).to_le_bytes().to_vec();
    packet.extend(10_u32.to_le_bytes());
    packet.extend(transaction);
    packet.extend([1; 4000]);
    packet
}

async fn walk(source: PtpSource, limits: WalkLimits) -> (Vec<Item>, crate::WalkSummary) {
    let mut walk = MediaSource::Ptp(source).walk(limits);
    let mut items = Vec::new();
    while let Some(item) = walk.next().await.expect("walked") {
        items.push(item);
    }
    (items, walk.summary())
}

async fn read(source: &PtpSource, item: &Item, from: u64) -> Result<Vec<u8>, FetchError> {
    let request = FetchRequest {
        from,
        ..FetchRequest::whole(1 << 30)
    };
    let mut fetched = source.fetch(&item.resources[0], request).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = fetched.body.next().await {
        bytes.extend(piece?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_card_is_walked_and_its_pictures_come_whole() {
    let camera = Camera::start(Fault::Nothing).await;
    let source = camera.source();
    let (items, summary) = walk(source.clone(), WalkLimits::default()).await;
    let names: Vec<&str> = items.iter().map(|item| item.title.as_str()).collect();
    assert_eq!(names, ["IMG_0001", "IMG_0002"]);
    assert_eq!(items[1].resources[0].mime, "image/x-nikon-nef");
    assert_eq!(items[0].resources[0].resolution, Some((640, 480)));
    assert_eq!(items[0].date.map(jiff::civil::DateTime::year), Some(2026));
    assert_eq!((summary.containers, summary.cut), (3, false));
    let whole = picture(3, 2_500_000);
    assert!(read(&source, &items[0], 0).await.expect("read") == whole);
    let rest = read(&source, &items[0], 2_000_000).await.expect("read");
    assert!(rest == whole[2_000_000..]);
    let again = source.item(&items[0].id).await.expect("still there");
    assert_eq!(again, items[0]);
}

#[tokio::test]
async fn an_old_camera_gives_files_as_a_whole_only() {
    let camera = Camera::start(Fault::OldModel).await;
    let source = camera.source();
    let (items, _) = walk(source.clone(), WalkLimits::default()).await;
    let bytes = read(&source, &items[0], 2_000_000).await.expect("read");
    assert!(bytes == picture(3, 2_500_000), "from the beginning");
    // Left in the middle, the link is made anew.
    let request = FetchRequest::whole(1 << 30);
    let mut fetched = source
        .fetch(&items[0].resources[0], request)
        .await
        .expect("begun");
    fetched.body.next().await.expect("a piece").expect("data");
    drop(fetched);
    assert!(source.item(&items[0].id).await.is_ok());
}

#[tokio::test]
async fn a_camera_that_hangs_up_is_interrupted_and_goes_on_later() {
    let camera = Camera::start(Fault::HangsUpOnce).await;
    let source = camera.source();
    let (items, _) = walk(source.clone(), WalkLimits::default()).await;
    let request = FetchRequest::whole(1 << 30);
    let mut fetched = source
        .fetch(&items[0].resources[0], request)
        .await
        .expect("begun");
    let mut bytes = fetched
        .body
        .next()
        .await
        .expect("a piece")
        .expect("data")
        .to_vec();
    let cut = fetched.body.next().await.expect("an end");
    assert!(
        matches!(cut, Err(FetchError::Interrupted { .. })),
        "{cut:?}"
    );
    bytes.extend(
        read(&source, &items[0], bytes.len() as u64)
            .await
            .expect("resumed"),
    );
    assert!(bytes == picture(3, 2_500_000));
}

#[tokio::test]
async fn sizes_that_lie_are_found_out() {
    for fault in [Fault::MoreThanTold, Fault::LessThanTold] {
        let camera = Camera::start(fault).await;
        let source = camera.source();
        let (items, _) = walk(source.clone(), WalkLimits::default()).await;
        let read = read(&source, &items[1], 0).await;
        if fault == Fault::LessThanTold {
            assert!(
                matches!(read, Err(FetchError::WrongSize { .. })),
                "{read:?}"
            );
        } else {
            // It is never asked for more than it told: what comes is the file as far as it was told.
            assert_eq!(read.expect("read").len(), 500);
        }
    }
}

#[tokio::test]
async fn folders_without_end_and_in_circles_come_to_an_end() {
    let camera = Camera::start(Fault::EndlessFolders).await;
    let limits = WalkLimits {
        depth: 8,
        containers: 40,
        items: 100,
    };
    let (items, summary) = walk(camera.source(), limits).await;
    assert!(
        summary.cut && summary.containers <= 40 && items.len() <= 100,
        "{summary:?}"
    );
    let camera = Camera::start(Fault::Cycle).await;
    let (items, summary) = walk(camera.source(), WalkLimits::default()).await;
    assert_eq!((items.len(), summary.cut), (2, false), "{summary:?}");
}

#[tokio::test]
async fn answers_that_are_too_much_or_out_of_step_are_refused() {
    for (fault, expected) in [
        (Fault::HugeList, "BadAnswer"),
        (Fault::EndlessData, "BadAnswer"),
        (Fault::WrongTransaction, "Unreachable"),
        (Fault::Rejects, "Unreachable"),
        (Fault::NoCard, "Locked"),
    ] {
        let camera = Camera::start(fault).await;
        let listed = camera
            .source()
            .list(&ObjectId::root(), PageRequest::default())
            .await;
        let error = format!("{:?}", listed.expect_err("refused"));
        assert!(error.starts_with(expected), "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn a_handle_that_means_another_file_today_is_not_taken_for_the_one_of_yesterday() {
    let camera = Camera::start(Fault::Nothing).await;
    let source = camera.source();
    for id in [
        "o/10001/3/IMG_9999.JPG",
        "o/10001/99/IMG_0001.JPG",
        "o/10001/1/DCIM",
        "x",
        "0",
    ] {
        let item = source.item(&ObjectId::new(id).expect("valid")).await;
        assert!(
            matches!(item, Err(ListError::NotFound { .. })),
            "{id}: {item:?}"
        );
    }
}

#[tokio::test]
async fn two_who_use_one_camera_share_its_link() {
    let camera = Camera::start(Fault::Nothing).await;
    let (one, two) = (camera.source(), camera.source());
    let (items, _) = walk(one.clone(), WalkLimits::default()).await;
    let request = FetchRequest::whole(1 << 30);
    let mut fetched = one
        .fetch(&items[0].resources[0], request)
        .await
        .expect("begun");
    fetched.body.next().await.expect("a piece").expect("data");
    // In between two pieces another may list.
    let page = two.list(&ObjectId::root(), PageRequest::default()).await;
    assert_eq!(page.expect("listed").entries.len(), 1);
    assert!(fetched.body.next().await.expect("a piece").is_ok());
    assert!(Arc::ptr_eq(&one.shared, &two.shared));
}
