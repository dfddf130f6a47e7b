//! Forged, expired, used and stolen tokens are worth nothing (F25, F61, F67): a hostile client with real keys shows
//! grants to the sending home and to the relay, passes to the vault, receipts and log-ins to the server. It gets no
//! media byte, no content key and no money; with a good grant the same client gets every byte, once.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::{GrantRequest, OrderEntry, Problem, ProblemCode};
use mantel_protocol::blob::{BlobId, ChunkRange, chunk_count};
use mantel_protocol::chunk::Refusal;
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{DeliveryId, GrantId};
use mantel_protocol::key::SigningKey;
use mantel_protocol::license::Pass;
use mantel_protocol::receipt::{Path as Way, Receipt};
use mantel_protocol::relay::RelayRefusal;
use mantel_protocol::restriction::Initiative;
use mantel_protocol::token::{DeviceLogin, Validity, peek_unverified, sign};
use mantel_tests::actors::{Counted, Entered, Intruder, Loot, Stage, refused};
use mantel_tests::lab::{Mode, Net};
use mantel_tests::media;
use reqwest::{Method, StatusCode};

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// The line of the sending home while a transfer must last: 2.5 MB/s.
const SLOW_MBIT: u32 = 20;
/// The bytes that a transfer that must last moves.
const LARGE: usize = 48 * 1024 * 1024;

/// A grant as the server signs it, changed.
fn grant_like(grant: &Grant, key: &SigningKey, change: impl FnOnce(&mut Grant)) -> String {
    let mut changed = Grant {
        id: GrantId::generate(),
        ..grant.clone()
    };
    change(&mut changed);
    sign(key, &changed)
}

/// One letter of a token's payload changed.
fn altered(token: &str) -> String {
    let middle = "v4.public.".len() + 40;
    let old = token.as_bytes()[middle];
    let new = if old == b'A' { 'B' } else { 'A' };
    format!("{}{new}{}", &token[..middle], &token[middle + 1..])
}

/// A token shown to the sending home and to the relay, and how each may refuse it.
struct Attempt<'a> {
    what: &'static str,
    who: &'a Intruder,
    token: String,
    by_sender: &'static [Refusal],
    by_relay: &'static [RelayRefusal],
}

#[tokio::test]
async fn grants_open_nothing_to_whom_they_are_not_given() -> Result<()> {
    let net = Net::two_homes().joined().mode(Mode::Namespaces).up()?;
    let stage = Stage::set(net, "2.50").await?;
    let site = &stage.site;
    site.operator.credit("Ben", "20.00").await?;
    let ordered = site.ben.order(&stage.clip.id).await?;
    let order = ordered.body["order"]
        .as_str()
        .context("an order")?
        .to_owned();
    site.ben.wait_ready(&stage.clip.id, LONG).await?;
    let books = site.ledger(&order).await?;
    ensure!(books.path.as_deref() == Some("direct"), "{books:?}");
    let used = books.grants.last().cloned().context("a grant")?;
    let real: Grant = peek_unverified(&used.token)?;
    let before = Counted::now(site)?;

    let (stranger, ben, anna) = (Intruder::stranger(), &stage.ben, &stage.anna);
    let sender = anna.key.device_id();
    let server = site.server_signing()?;
    let listener = SocketAddr::from((site.a.place().addr(), 8445));
    let relay = SocketAddr::from((site.net.server().addr(), 8444));
    let past = Timestamp::now() - SignedDuration::from_hours(1);
    let expired = |grant: &mut Grant| grant.validity = Validity::from_now(past, 600);
    // For a delivery that was never ordered, so that "the delivery is over" is not what stops it.
    let fresh = |grant: &mut Grant| grant.delivery = DeliveryId::generate();
    let forged_key = SigningKey::generate();
    let with_server_key = |change: &dyn Fn(&mut Grant)| {
        grant_like(&real, &server, |grant| {
            fresh(grant);
            change(grant);
        })
    };
    let attempts = [
        Attempt {
            what: "forged: signed by another key",
            who: ben,
            token: grant_like(&real, &forged_key, fresh),
            by_sender: &[Refusal::Forged],
            by_relay: &[RelayRefusal::Forged],
        },
        Attempt {
            what: "forged: signed by the receiver",
            who: ben,
            token: grant_like(&real, &ben.key, fresh),
            by_sender: &[Refusal::Forged],
            by_relay: &[RelayRefusal::Forged],
        },
        Attempt {
            what: "forged: one letter altered",
            who: ben,
            token: altered(&used.token),
            by_sender: &[Refusal::Forged],
            by_relay: &[RelayRefusal::Forged],
        },
        Attempt {
            what: "no token at all",
            who: ben,
            token: "v4.public.".to_owned(),
            by_sender: &[Refusal::Forged],
            by_relay: &[RelayRefusal::Forged],
        },
        Attempt {
            what: "expired, signed by the server's own key",
            who: ben,
            token: with_server_key(&expired),
            by_sender: &[Refusal::Expired],
            by_relay: &[RelayRefusal::Expired],
        },
        Attempt {
            what: "replayed after completion",
            who: ben,
            token: used.token.clone(),
            by_sender: &[Refusal::Used, Refusal::Revoked],
            by_relay: &[RelayRefusal::Revoked, RelayRefusal::Used],
        },
        Attempt {
            what: "another receiver's",
            who: &stranger,
            token: used.token.clone(),
            by_sender: &[Refusal::NotYours],
            by_relay: &[RelayRefusal::NotYours],
        },
        Attempt {
            what: "another sender's",
            who: ben,
            token: with_server_key(&|grant| grant.sender = forged_key.device_id()),
            by_sender: &[Refusal::NotYours],
            // The relay knows every grant that its server has issued, and this is none of them.
            by_relay: &[RelayRefusal::Revoked],
        },
    ];
    for Attempt {
        what,
        who,
        token,
        by_sender,
        by_relay,
    } in attempts
    {
        let loot = who.knock(listener, sender, &token).await.context(what)?;
        ensure!(
            loot.media_bytes == 0,
            "{what}: the chunk listener gave {loot:?}"
        );
        let said = loot
            .refusal
            .with_context(|| format!("{what}: no refusal"))?;
        ensure!(
            by_sender.contains(&said),
            "{what}: the sender said {said:?}"
        );
        let entered = who
            .knock_at_relay(relay, server.server_key(), sender, &token)
            .await?;
        let Entered::Refused(refusal) = &entered else {
            bail!("{what}: the relay: {entered:?}")
        };
        ensure!(
            by_relay.contains(refusal),
            "{what}: the relay said {refusal:?}"
        );
        println!("{what}: sender: \"{said}\"; relay: \"{refusal}\"; 0 media bytes");
    }
    println!("{}", before.nothing_moved(site, "all grants together")?);
    grants_asked_for_in_vain(&stage, &order, real.blob, real.blob_bytes).await?;
    site.books().balanced()?;
    a_grant_serves_once(stage, listener).await
}

/// The control: with a good grant the same client gets every byte, once; again it gets none.
async fn a_grant_serves_once(mut stage: Stage, listener: SocketAddr) -> Result<()> {
    let photo = std::fs::read(&media::photos()?[0])?;
    let title = stage.site.anna.add("Blinds.jpg", photo).await?;
    stage.site.anna.offer(&title.id, "0.50").await?;
    stage.site.ben.listing(&title.id).await?;
    let receiver = stage.ben_receives().await?;
    // Ben's gateway is off: the client stands in for it.
    let gateway = stage.site.b.proc.take().context("gateway B runs")?;
    gateway.stop().await?;
    let (site, server, ben) = (&stage.site, &stage.server, &stage.ben);
    let key = site.server_key()?;
    let pull = (receiver.0, Initiative::Pull);
    let placed = ben
        .order(server, key, title.id.parse()?, receiver, pull)
        .await?
        .ok()?;
    let order: OrderEntry = placed.json()?;
    let blob = *order.blobs.first().context("a blob")?;
    let chunks = vec![ChunkRange {
        start: 0,
        count: chunk_count(blob.sealed_bytes),
    }];
    let wanted = GrantRequest {
        blob: blob.blob,
        chunks,
    };
    let delivery = order.delivery.to_string();
    let answer = ben.ask_grant(server, key, &delivery, &wanted).await?;
    let grant: Grant = peek_unverified(&answer.grant)?;
    let loot = ben.knock(listener, grant.sender, &answer.grant).await?;
    ensure!(
        loot == Loot {
            refusal: None,
            media_bytes: blob.sealed_bytes
        },
        "{loot:?}"
    );
    let again = ben.knock(listener, grant.sender, &answer.grant).await?;
    ensure!(
        again
            == Loot {
                refusal: Some(Refusal::Used),
                media_bytes: 0
            },
        "{again:?}"
    );
    println!(
        "a good grant: {} of {} bytes; the same again: \"{}\", 0 bytes",
        loot.media_bytes,
        blob.sealed_bytes,
        Refusal::Used,
    );
    stage.site.done().await
}

/// A grant is given to the receiver of a running order, and to nobody else.
async fn grants_asked_for_in_vain(
    stage: &Stage,
    order: &str,
    blob: BlobId,
    size: u64,
) -> Result<()> {
    let site = &stage.site;
    let used = site.ledger(order).await?.grants.pop().context("a grant")?;
    let real: Grant = peek_unverified(&used.token)?;
    let delivery = real.delivery.to_string();
    let wanted = GrantRequest {
        blob,
        chunks: vec![ChunkRange {
            start: 0,
            count: chunk_count(size),
        }],
    };
    let key = site.server_key()?;
    for (who, device) in [
        ("sender", &stage.anna),
        ("stranger", &Intruder::stranger()),
        ("receiver, when it is over", &stage.ben),
    ] {
        let answer = device
            .ask_grant(&stage.server, key, &delivery, &wanted)
            .await;
        ensure!(answer.is_err(), "the {who} was given a grant");
        println!("a grant asked for by the {who}: refused");
    }
    Ok(())
}

#[tokio::test]
async fn passes_and_receipts_of_others_are_worth_nothing() -> Result<()> {
    let stage = Stage::set(Net::two_homes().mode(Mode::Namespaces).up()?, "2.50").await?;
    let site = &stage.site;
    let (server, key) = (&stage.server, site.server_key()?);
    site.operator.credit("Ben", "20.00").await?;
    let ordered = site.ben.order(&stage.clip.id).await?;
    let order = ordered.body["order"]
        .as_str()
        .context("an order")?
        .to_owned();
    site.ben.wait_ready(&stage.clip.id, LONG).await?;
    let token = site.ledger(&order).await?.pass_token.context("a pass")?;
    let pass: Pass = peek_unverified(&token)?;

    // The vault gives a license to the pass's device, again and again, and to no other.
    stage.ben.redeem(server, key, &token).await?.ok()?;
    let thief = Intruder {
        key: stage.ben.key.clone(),
        seal: stage.anna.seal.clone(),
    };
    let forged = |signer: &SigningKey| {
        let mut forged = pass.clone();
        forged.device = stage.anna.key.device_id();
        sign(signer, &forged)
    };
    let attempts = [
        ("Ben's pass shown by Anna", &stage.anna, token.clone()),
        (
            "Ben's pass shown by a stranger",
            &Intruder::stranger(),
            token.clone(),
        ),
        (
            "Ben's pass, keys to be sealed to another",
            &thief,
            token.clone(),
        ),
        (
            "a pass forged by Anna for herself",
            &stage.anna,
            forged(&stage.anna.key),
        ),
        (
            "a pass forged by another key",
            &stage.anna,
            forged(&SigningKey::generate()),
        ),
        (
            "Ben's pass, one letter altered",
            &stage.ben,
            altered(&token),
        ),
    ];
    for (what, who, pass) in attempts {
        let problem = refused(&who.redeem(server, key, &pass).await?, what)?;
        println!("{what}: \"{}\"", problem.detail);
    }

    false_log_ins(&stage).await?;
    false_receipts(&stage).await?;
    let sums = site.books().balanced()?;
    ensure!(sums.captures == 1, "{sums:?}");
    stage.site.done().await
}

/// The API answers a device that proves its key now, for this server, and nobody else.
async fn false_log_ins(stage: &Stage) -> Result<()> {
    let key = stage.site.server_key()?;
    let (ben, now) = (&stage.ben, Timestamp::now());
    let elsewhere = SigningKey::generate().server_key();
    let stolen_name = DeviceLogin {
        device: ben.key.device_id(),
        server: key,
        validity: Validity::from_now(now, 60),
    };
    let good = DeviceLogin::sign(&ben.key, key, now);
    let attempts = [
        ("no log-in", String::new()),
        (
            "an hour old",
            DeviceLogin::sign(&ben.key, key, now - SignedDuration::from_hours(1)),
        ),
        (
            "for another server",
            DeviceLogin::sign(&ben.key, elsewhere, now),
        ),
        (
            "Ben's name, signed by Anna",
            sign(&stage.anna.key, &stolen_name),
        ),
        ("one letter altered", altered(&good)),
        (
            "signed by the server instead",
            sign(&stage.site.server_signing()?, &stolen_name),
        ),
    ];
    for (what, token) in attempts {
        let request = stage.server.request(Method::GET, "/v1/account")?;
        let answer = request.bearer_auth(token).send().await?;
        let status = answer.status();
        let problem: Problem = answer.json().await.context(what)?;
        let refused = status == StatusCode::UNAUTHORIZED && problem.code == ProblemCode::BadToken;
        ensure!(refused, "{what}: {status} {problem:?}");
        println!("log-in, {what}: {status}, \"{}\"", problem.detail);
    }
    let request = stage
        .server
        .request(Method::GET, "/v1/account")?
        .bearer_auth(good);
    request
        .send()
        .await?
        .error_for_status()
        .context("a good log-in")?;
    Ok(())
}

/// An order under way whose receipt others hand in: nothing is captured, and it is cancelled with its hold released.
async fn false_receipts(stage: &Stage) -> Result<()> {
    let (site, server, key) = (&stage.site, &stage.server, stage.site.server_key()?);
    let title = site
        .anna
        .add("Large.bin", media::noise("receipts", LARGE))
        .await?;
    site.anna.offer(&title.id, "2.50").await?;
    site.ben.listing(&title.id).await?;
    site.net.limit_rate(site.a.place(), SLOW_MBIT)?;
    let ordered = site.ben.order(&title.id).await?;
    let order = ordered.body["order"]
        .as_str()
        .context("an order")?
        .to_owned();
    site.ben
        .wait_order(&title.id, "the transfer to be under way", LONG, |now| {
            now.bytes_done > 0
        })
        .await?;
    let grant: Grant = peek_unverified(
        &site
            .ledger(&order)
            .await?
            .grants
            .pop()
            .context("a grant")?
            .token,
    )?;
    let honest = Receipt {
        order: grant.order,
        delivery: grant.delivery,
        title: grant.title,
        grants: vec![grant.id],
        blob: grant.blob,
        bytes: grant.blob_bytes,
        path: Way::Relay,
        receiver: stage.ben.key.device_id(),
        received: Timestamp::now(),
    };
    let (anna, ben, stranger) = (&stage.anna, &stage.ben, Intruder::stranger());
    let as_device = |device: &Intruder| Receipt {
        receiver: device.key.device_id(),
        ..honest.clone()
    };
    let attempts = [
        (
            "Ben's name, signed by Anna, handed in by Anna",
            anna,
            sign(&anna.key, &honest),
        ),
        (
            "Ben's name, signed by Anna, handed in by Ben",
            ben,
            sign(&anna.key, &honest),
        ),
        (
            "Anna's own receipt for Ben's order",
            anna,
            sign(&anna.key, &as_device(anna)),
        ),
        (
            "Anna's own receipt handed in by Ben",
            ben,
            sign(&anna.key, &as_device(anna)),
        ),
        (
            "a stranger's receipt",
            &stranger,
            sign(&stranger.key, &as_device(&stranger)),
        ),
        (
            "Ben's receipt, one letter altered",
            ben,
            altered(&sign(&ben.key, &honest)),
        ),
        (
            "Ben's receipt for another blob",
            ben,
            sign(
                &ben.key,
                &Receipt {
                    blob: BlobId([7; 32]),
                    ..honest.clone()
                },
            ),
        ),
        (
            "Ben's receipt for fewer bytes",
            ben,
            sign(
                &ben.key,
                &Receipt {
                    bytes: 1,
                    ..honest.clone()
                },
            ),
        ),
    ];
    for (what, who, receipt) in attempts {
        let problem = refused(&who.hand_in(server, key, &[receipt]).await?, what)?;
        let books = site.ledger(&order).await?;
        ensure!(
            books.state == "delivering" && books.count("capture") == 0 && books.pass.is_none(),
            "{what}: {books:?}"
        );
        println!("{what}: \"{}\"; not captured", problem.detail);
    }
    let empty = ben.hand_in(server, key, &[]).await?;
    refused(&empty, "no receipt at all")?;
    site.ben
        .done(&format!("/orders/{order}/cancel"), &[])
        .await?;
    site.ben
        .wait_order(&title.id, "the order to end", LONG, |now| {
            now.state == "cancelled"
        })
        .await?;
    let books = site.ledger(&order).await?;
    ensure!(
        books.count("release") == 1 && books.count("capture") == 0,
        "{books:?}"
    );
    Ok(())
}
