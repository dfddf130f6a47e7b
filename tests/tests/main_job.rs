//! The main job, end to end, on real programs (F1, F2, F7, F8, F10, F14, F22, F24–F26, F45, F46, F61, F63, F64, F67): a
//! camcorder in home A, a server, money, a television in home B. Each claim is checked by someone who does not make
//! it: the server's books, a packet recorder, the television's own UPnP answers, a search on every disk.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_protocol::api::{AccountAnswer, Offered, TitleEntry};
use mantel_protocol::envelope;
use mantel_protocol::manifest::{MediaKind, PrivateShare, share_context};
use mantel_tests::actors::{Intruder, OrderBooks, Site, SiteBuilder, Status, recorded, status};
use mantel_tests::lab::{
    Capture, MediaServer, Mode, NEEDLE_LEN, Needle, Net, Renderer, Session, contains_any, needles,
    until,
};
use mantel_tests::media;
use reqwest::Method;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// Pieces of 64 bytes that are looked for, per file.
const NEEDLES: usize = 48;
/// The price of the film clip, and what Ben's account is credited with.
const PRICE: &str = "2.50";
const CREDIT: &str = "20.00";

/// What the camcorder holds: name, kind, and the day it was taken, for those that say.
const HOLDS: [(&str, &str, Option<&str>); 6] = [
    ("Blinds", "image", Some("2008-01-22")),
    ("Dune", "image", Some("2007-08-06")),
    ("Storm", "image", Some("2008-04-20")),
    ("Wood", "image", Some("2008-04-19")),
    ("Big Buck Bunny", "video", None),
    ("Time to Strike", "audio", None),
];

#[tokio::test]
async fn from_a_camcorder_in_one_home_to_a_television_in_another() -> Result<()> {
    let mut site = SiteBuilder::on(Net::two_homes().mode(Mode::Namespaces).up()?)
        .up()
        .await?;
    let folder = site.net.folder().to_owned();
    let capture = Capture::start(site.net.server(), &folder.join("server.pcap")).await?;
    let cam = site.net.home("a")?.device("cam")?.clone();
    let camcorder = MediaServer::start(&cam, &media::folder()?, "Camcorder", &folder).await?;
    camcorder.wait_files(HOLDS.len(), LONG).await?;
    let tv = site.net.home("b")?.device("tv")?.clone();
    let television = Renderer::start(&tv, "Living room TV", &folder).await?;

    let titles = imported(&site).await?;
    let clip = titles
        .iter()
        .find(|title| title.kind == "video")
        .context("the clip")?;
    bought(&site, clip).await?;
    played(&site, &television, &clip.id).await?;
    let photo = titles
        .iter()
        .find(|title| title.name.contains("Storm"))
        .context("a photograph")?;
    shared_privately(&site, photo).await?;
    let song = titles
        .iter()
        .find(|title| title.kind == "audio")
        .context("the song")?;
    site.net.join_homes()?;
    straight(&site, song).await?;

    let sums = site.books().balanced()?;
    println!(
        "ledger: all sums 0, nothing held, {} captures in {} orders",
        sums.captures, sums.orders
    );
    no_plaintext(&site, capture).await?;
    drop((camcorder, television));
    site.done().await
}

/// Discovered, admitted, imported: kinds, dates from Exif, thumbnails (F1, F2).
async fn imported(site: &Site) -> Result<Vec<status::Title>> {
    let anna = &site.anna;
    let device = anna.device("Camcorder").await?;
    ensure!(
        device.standing == "new",
        "a new device is {}",
        device.standing
    );
    anna.admit(&device).await?;
    let titles = anna.import_all(&device, HOLDS.len()).await?;
    ensure!(
        titles.len() == HOLDS.len(),
        "imported {} titles",
        titles.len()
    );
    for (name, kind, day) in HOLDS {
        let title = titles.iter().find(|title| title.name.contains(name));
        let title = title.with_context(|| format!("{name} is not among {titles:?}"))?;
        ensure!(title.kind == kind, "{name} is a {}", title.kind);
        if let Some(day) = day {
            let taken = recorded(&site.a.data, &title.id)?.context("no date")?;
            ensure!(
                taken.to_string().starts_with(day),
                "{name} was taken {taken}, not on {day}"
            );
        }
        let thumb = anna
            .session()
            .request(Method::GET, &format!("/thumbs/{}", title.id))?;
        let thumb = thumb.send().await?.error_for_status()?;
        let mime = thumb.headers()["content-type"].to_str()?.to_owned();
        let picture = thumb.bytes().await?;
        if kind != "audio" {
            ensure!(mime == "image/jpeg", "the thumbnail of {name} is {mime}");
            ensure!(
                picture.starts_with(b"\xff\xd8\xff"),
                "the thumbnail of {name} is no JPEG"
            );
        }
        println!(
            "imported {kind:<6} {name:<16} {:>9} sealed bytes, {mime} {}",
            title.sealed_bytes,
            picture.len()
        );
    }
    // Once more: nothing is imported twice. The last title is there a moment before the first import has ended.
    let import = format!("/devices/{}/import", device.id.replace(':', "%3A"));
    until("the second import to begin", LONG, async || {
        let answer = anna.post(&import, &[]).await.ok()?;
        answer.ok.then_some(())
    })
    .await?;
    let again = format!("{} already here", HOLDS.len());
    until("the second import to end", LONG, async || {
        let page = anna.session().get("/devices").await.ok()?.ok().ok()?;
        page.body.contains(&again).then_some(())
    })
    .await?;
    let own = anna
        .status()
        .await?
        .titles
        .iter()
        .filter(|title| title.own)
        .count();
    ensure!(
        own == HOLDS.len(),
        "a second import made {own} titles of {}",
        HOLDS.len()
    );
    println!("imported again: {again}");
    Ok(titles)
}

/// Offered, ordered, held, granted, relayed, received, captured, licensed, billed (F8, F14, F25, F61, F67).
async fn bought(site: &Site, clip: &status::Title) -> Result<()> {
    site.anna.offer(&clip.id, PRICE).await?;
    let listing = site.ben.listing(&clip.id).await?;
    ensure!(
        listing.price.as_deref() == Some("2.50 EUR"),
        "the price is {:?}",
        listing.price
    );
    site.operator.credit("Ben", CREDIT).await?;
    let ordered = site.ben.order(&clip.id).await?;
    ensure!(ordered.ok, "the order was refused: {}", ordered.body);
    let order = ordered.body["order"]
        .as_str()
        .context("an order id")?
        .to_owned();
    let held = site.ledger(&order).await?;
    ensure!(
        held.price_minor == 250 && held.count("hold") == 1,
        "not held: {held:?}"
    );
    let ready = site.ben.wait_ready(&clip.id, LONG).await?;
    ensure!(
        ready.total_bytes == clip.sealed_bytes && ready.bytes_done == ready.total_bytes,
        "{ready:?}"
    );

    let books = counted(site, &order, clip.sealed_bytes).await?;
    ensure!(
        books.path.as_deref() == Some("relay"),
        "the path was {:?}",
        books.path
    );
    ensure!(books.state == "settled", "the order is {}", books.state);
    ensure!(
        books.relayed_bytes >= clip.sealed_bytes,
        "the relay counted {}",
        books.relayed_bytes
    );
    let capture = books.one("capture")?;
    ensure!(
        books.count("release") == 0 && books.license.is_some(),
        "{books:?}"
    );
    let sums = site.books().balanced()?;
    ensure!(sums.captures == 1, "{sums:?}");
    println!(
        "bought: {} sealed bytes, {} through the relay under {} grant(s), captured once ({})",
        clip.sealed_bytes,
        books.relayed_bytes,
        books.grants.len(),
        capture.id,
    );

    // The bill names the grants and the receipt, for both customers (F67).
    let server = Session::new(site.operator.base())?;
    let key = site.server_key()?;
    for (gateway, amount) in [(&site.b, -250), (&site.a, 250)] {
        let device = Intruder::with_keys_of(&gateway.data)?;
        let page = device
            .call(&server, key, (Method::GET, "/v1/account"), &())
            .await?
            .ok()?;
        let account: AccountAnswer = page.json()?;
        let mine: Vec<_> = account
            .lines
            .iter()
            .filter(|line| line.amount.minor == amount)
            .collect();
        let line = mine
            .iter()
            .find(|line| line.order.is_some_and(|of| of.to_string() == order));
        let line = line.with_context(|| format!("no bill line for {amount}: {account:?}"))?;
        let grants: Vec<String> = line.grants.iter().map(ToString::to_string).collect();
        ensure!(!grants.is_empty(), "the bill line cites no grant: {line:?}");
        ensure!(
            grants
                .iter()
                .all(|grant| books.grants.iter().any(|row| row.id == *grant)),
            "{line:?}"
        );
        ensure!(
            line.receipts == books.receipts && books.receipts.len() == 1,
            "{line:?}"
        );
        println!(
            "bill of {}: {} \"{}\", grants {grants:?}, receipt {:.16}…",
            account.customer_name, line.amount, line.text, line.receipts[0]
        );
    }
    let original = std::fs::read(media::clip()?)?;
    let received = site.ben.read_media(&clip.id).await?;
    ensure!(
        blake3::hash(&received) == blake3::hash(&original),
        "Ben's copy differs"
    );
    println!(
        "Ben's copy is byte for byte the camcorder's file: {} bytes",
        received.len()
    );
    Ok(())
}

/// The books of an order once the relay's count of the last second is written down.
async fn counted(site: &Site, order: &str, at_least: u64) -> Result<OrderBooks> {
    until("the relay's count", LONG, async || {
        site.ledger(order)
            .await
            .ok()
            .filter(|books| books.relayed_bytes >= at_least)
    })
    .await
}

/// What the television itself says, by UPnP AVTransport.
async fn transport(television: &Renderer, action: &str, wanted: &str) -> Result<String> {
    let body = format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} \
         xmlns:u=\"urn:schemas-upnp-org:service:AVTransport:1\"><InstanceID>0</InstanceID></u:{action}>\
         </s:Body></s:Envelope>"
    );
    let answer = Session::new(&television.url())?
        .request(Method::POST, "/upnp/control/rendertransport1")?
        .header(
            "soapaction",
            format!("\"urn:schemas-upnp-org:service:AVTransport:1#{action}\""),
        )
        .header("content-type", "text/xml; charset=\"utf-8\"")
        .body(body)
        .send()
        .await?
        .error_for_status()?
        .text()
        .await?;
    let (_, rest) = answer
        .split_once(&format!("<{wanted}>"))
        .with_context(|| answer.clone())?;
    Ok(rest.split('<').next().unwrap_or_default().to_owned())
}

/// Plays, pauses, seeks and stops on the television (F24, F63).
async fn played(site: &Site, television: &Renderer, clip: &str) -> Result<()> {
    let ben = &site.ben;
    let device = ben.device("Living room TV").await?;
    ben.admit(&device).await?;
    ben.play_on(clip, &device).await?;
    let at = |state: &'static str, least: f64| {
        let id = device.id.clone();
        move |status: &Status| {
            let now = status.playing.iter().find(|playing| playing.device == id)?;
            (now.state == state && now.position_s > least).then_some(now.position_s)
        }
    };
    let first = ben.wait("the TV to play", LONG, at("playing", 0.0)).await?;
    let later = ben
        .wait("the position to advance", LONG, at("playing", first))
        .await?;
    let state = transport(television, "GetTransportInfo", "CurrentTransportState").await?;
    let position = transport(television, "GetPositionInfo", "RelTime").await?;
    ensure!(state == "PLAYING", "the TV itself says {state}");
    println!("TV: PLAYING, {first:.0} s, then {later:.0} s; by its own word {state} at {position}");

    ben.player(&device, &[("action", "pause")]).await?;
    ben.wait("the TV to pause", LONG, at("paused", 0.0)).await?;
    let state = transport(television, "GetTransportInfo", "CurrentTransportState").await?;
    ensure!(state == "PAUSED_PLAYBACK", "the TV itself says {state}");
    ben.player(&device, &[("action", "resume")]).await?;
    ben.wait("the TV to go on", LONG, at("playing", 0.0))
        .await?;
    ben.player(&device, &[("action", "seek"), ("position", "25")])
        .await?;
    let sought = ben
        .wait("the TV to seek", LONG, at("playing", 24.0))
        .await?;
    let on = ben
        .wait("the TV to play on", LONG, at("playing", sought))
        .await?;
    println!("TV: paused, resumed, sought to {sought:.0} s, then {on:.0} s");
    ben.player(&device, &[("action", "stop")]).await?;
    ben.wait("the TV to stop", LONG, |status: &Status| {
        let now = status
            .playing
            .iter()
            .find(|playing| playing.device == device.id);
        now.is_none_or(|now| now.state != "playing").then_some(())
    })
    .await?;
    let state = transport(television, "GetTransportInfo", "CurrentTransportState").await?;
    ensure!(
        state == "STOPPED" || state == "NO_MEDIA_PRESENT",
        "the TV itself says {state}"
    );
    println!("TV: stopped, by its own word {state}");
    Ok(())
}

/// A photograph for Ben alone, pushed, free, end to end: the server knows neither its name nor its key (F10, F64).
async fn shared_privately(site: &Site, photo: &status::Title) -> Result<()> {
    let home = site.ben.home().await?;
    site.anna
        .done(&format!("/library/{}/push", photo.id), &[("home", &home)])
        .await?;
    let ready = site.ben.wait_ready(&photo.id, LONG).await?;
    let books = site.ledger(&ready.order).await?;
    ensure!(
        books.entries.is_empty() && books.pass.is_none(),
        "a private push cost: {books:?}"
    );
    let received = site.ben.read_media(&photo.id).await?;
    let file = media::photos()?
        .into_iter()
        .find(|file| file.ends_with("Storm.jpg"));
    let original = std::fs::read(file.context("the photograph")?)?;
    ensure!(received == original, "Ben's photograph differs");

    // Ben's gateway can open the share; the server, with all its keys, cannot.
    let server = Session::new(site.operator.base())?;
    let ben = Intruder::with_keys_of(&site.b.data)?;
    let page = ben
        .call(
            &server,
            site.server_key()?,
            (Method::GET, "/v1/titles"),
            &(),
        )
        .await?
        .ok()?;
    let entries: Vec<TitleEntry> = page.json()?;
    let entry = entries
        .iter()
        .find(|entry| entry.title.to_string() == photo.id);
    let entry = entry.context("the share is not in Ben's list")?;
    let Offered::Private {
        envelope: Some(envelope),
    } = &entry.offered
    else {
        anyhow::bail!("not a private share: {entry:?}");
    };
    ensure!(entry.kind == MediaKind::Image, "{entry:?}");
    let context = share_context(entry.title, ben.key.device_id());
    let opened = envelope::open(&ben.seal, &context, envelope)?;
    let share: PrivateShare = serde_json::from_slice(&opened)?;
    let blob = entry.blobs.first().context("a blob")?.blob;
    let key = share.keys.key_of(blob).context("a key")??;
    let vault = std::fs::read(site.server_data.join("keys/vault.key"))?;
    let vault = mantel_protocol::envelope::OpeningKey::from_bytes(&vault)?;
    ensure!(
        envelope::open(&vault, &context, envelope).is_err(),
        "the server opened the share"
    );

    let raw = key.expose().to_vec();
    let base64 = data_encoding::BASE64.encode(&raw);
    let hex = data_encoding::HEXLOWER.encode(&raw);
    let secrets = [
        raw,
        base64.into_bytes(),
        hex.into_bytes(),
        photo.name.clone().into_bytes(),
    ];
    let mut searched = 0;
    for file in ["server.db", "server.db-wal"] {
        let path = site.server_data.join(file);
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        searched += bytes.len();
        for secret in &secrets {
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_slice());
            ensure!(!found, "{file} holds the name or key of a private share");
        }
    }
    println!(
        "pushed privately: \"{}\"; neither name nor key in {searched} bytes of server.db",
        photo.name
    );
    Ok(())
}

/// Homes that reach each other exchange directly; the relay sees nothing (F8, F22).
async fn straight(site: &Site, song: &status::Title) -> Result<()> {
    site.anna.offer(&song.id, "1.00").await?;
    site.ben.listing(&song.id).await?;
    let ordered = site.ben.order(&song.id).await?;
    ensure!(ordered.ok, "the order was refused: {}", ordered.body);
    let ready = site.ben.wait_ready(&song.id, LONG).await?;
    let books = site.ledger(&ready.order).await?;
    ensure!(
        books.relayed_bytes == 0,
        "the relay saw {} bytes",
        books.relayed_bytes
    );
    ensure!(
        books.path.as_deref() == Some("direct") && books.count("capture") == 1,
        "{books:?}"
    );
    println!(
        "straight: {} bytes, path direct, 0 bytes at the relay",
        ready.total_bytes
    );
    Ok(())
}

/// No known piece of any file in the server's packets, nor on any disk (F26).
async fn no_plaintext(site: &Site, capture: Capture) -> Result<()> {
    let summary = capture.stop().await?;
    ensure!(
        summary.dropped == 0,
        "tcpdump missed {} packets",
        summary.dropped
    );
    let mut pieces: Vec<Needle> = Vec::new();
    for file in media::all()? {
        pieces.extend(needles(&file, NEEDLES)?);
    }
    let pcap = site.net.folder().join("server.pcap");
    let size = pcap.metadata()?.len();
    for place in [&pcap, &site.a.data, &site.b.data, &site.server_data] {
        let hits = contains_any(place, &pieces)?;
        ensure!(
            hits.is_empty(),
            "plaintext of the media was found: {hits:?}"
        );
    }
    println!(
        "none of {} pieces of {NEEDLE_LEN} bytes in {} packets ({size} bytes) at the server, nor in three data directories",
        pieces.len(),
        summary.captured,
    );
    Ok(())
}
