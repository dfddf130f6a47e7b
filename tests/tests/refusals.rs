//! What must not happen does not: no payment, a blocked pair, over a limit or quota, a suspended account, a grant that
//! is forged, expired, used or another's, another home's pass, a false receipt (F14, F17, F25, F61, F67). Each is refused
//! with no media byte delivered, counted at the receiver's disk, at the relay and at the sender's network interface.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::{GrantRequest, OrderEntry, Problem, ProblemCode};
use mantel_protocol::blob::{BlobId, ChunkRange, chunk_count};
use mantel_protocol::chunk::Refusal;
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::GrantId;
use mantel_protocol::key::{DeviceId, SealKey, SigningKey};
use mantel_protocol::license::Pass;
use mantel_protocol::receipt::{Path as Way, Receipt};
use mantel_protocol::relay::RelayRefusal;
use mantel_protocol::restriction::Initiative;
use mantel_protocol::token::{Validity, peek_unverified, sign};
use mantel_tests::actors::{
    Entered, Intruder, Loot, Site, SiteBuilder, sent_bytes, status, stored_bytes,
};
use mantel_tests::lab::{Mode, Net, Page, Session, until};
use mantel_tests::media;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// What a gateway may have said to the server while nothing was to be delivered: less than one chunk.
const CHATTER: u64 = 512 * 1024;
/// The smaller network between the homes while a transfer must last: 2.5 MB/s.
const SLOW_MBIT: u32 = 20;
/// The bytes that a transfer that must last moves.
const LARGE: usize = 48 * 1024 * 1024;

/// Bytes that anyone can make again: BLAKE3's output stream.
fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("mantel tests: noise")
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// The observers' counts at one moment.
struct Counted {
    stored: u64,
    relayed: i64,
    sent: u64,
}

impl Counted {
    fn now(site: &Site) -> Result<Self> {
        Ok(Self {
            stored: stored_bytes(&site.b.data)?,
            relayed: site.books().sums()?.relayed,
            sent: sent_bytes(site.a.place())?,
        })
    }

    /// Fails if a media byte moved since.
    fn nothing_moved(&self, site: &Site, what: &str) -> Result<()> {
        let now = Self::now(site)?;
        let (stored, relayed) = (now.stored - self.stored, now.relayed - self.relayed);
        let sent = now.sent - self.sent;
        ensure!(
            stored == 0 && relayed == 0,
            "{what}: {stored} bytes at the receiver, {relayed} at the relay"
        );
        ensure!(
            sent < CHATTER,
            "{what}: the sender's interface sent {sent} bytes"
        );
        println!(
            "{what}: 0 bytes stored, 0 relayed, {sent} bytes of talk at the sender's interface"
        );
        Ok(())
    }
}

/// Both homes as the API sees them, with one clip offered for money.
struct Stage {
    site: Site,
    server: Session,
    anna: Intruder,
    ben: Intruder,
    clip: status::Title,
}

impl Stage {
    async fn set(net: Net, price: &str) -> Result<Self> {
        let site = SiteBuilder::on(net).up().await?;
        let clip = site
            .anna
            .add("Big Buck Bunny.mp4", std::fs::read(media::clip()?)?)
            .await?;
        site.anna.offer(&clip.id, price).await?;
        site.ben.listing(&clip.id).await?;
        let server = Session::new(site.operator.base())?;
        let anna = Intruder::with_keys_of(&site.a.data)?;
        let ben = Intruder::with_keys_of(&site.b.data)?;
        Ok(Self {
            site,
            server,
            anna,
            ben,
            clip,
        })
    }

    /// Ben's home as a receiver.
    async fn ben_receives(&self) -> Result<(mantel_protocol::ids::HomeId, DeviceId, SealKey)> {
        let home = self.site.ben.home().await?.parse()?;
        Ok((home, self.ben.key.device_id(), self.ben.seal.seal_key()))
    }

    /// Orders the clip at Ben's page and straight at the API; both must be refused, and nothing moves.
    async fn pull_refused(&self, what: &str, code: ProblemCode) -> Result<()> {
        let before = Counted::now(&self.site)?;
        let orders = self.site.books().sums()?.orders;
        let page = self.site.ben.order(&self.clip.id).await?;
        ensure!(
            !page.ok && page.status < 500,
            "{what}: Ben's page answered {} {}",
            page.status,
            page.body
        );
        let key = self.site.server_key()?;
        let receiver = self.ben_receives().await?;
        let title = self.clip.id.parse()?;
        let answer = self
            .ben
            .order(
                &self.server,
                key,
                title,
                receiver,
                (receiver.0, Initiative::Pull),
            )
            .await?;
        let problem = refused(&answer, what)?;
        ensure!(
            problem.code == code,
            "{what}: the API refused with {:?}: {}",
            problem.code,
            problem.detail
        );
        println!(
            "{what}: page: \"{}\"; API: \"{} {}\"",
            page.what(),
            problem.detail,
            problem.next
        );
        ensure!(
            self.site.books().sums()?.orders == orders,
            "{what}: an order was made"
        );
        before.nothing_moved(&self.site, what)
    }

    /// Pushes the clip to Ben; must be refused, and nothing moves.
    async fn push_refused(&self, what: &str, title: &str) -> Result<()> {
        let before = Counted::now(&self.site)?;
        let orders = self.site.books().sums()?.orders;
        let home = self.site.ben.home().await?;
        let page = self.site.anna.push(title, &home).await?;
        ensure!(
            !page.ok && page.status < 500,
            "{what}: Anna's page answered {} {}",
            page.status,
            page.body
        );
        let key = self.site.server_key()?;
        let receiver = self.ben_receives().await?;
        let push = (self.site.anna.home().await?.parse()?, Initiative::Push);
        let answer = self
            .anna
            .order(&self.server, key, title.parse()?, receiver, push)
            .await?;
        let problem = refused(&answer, what)?;
        ensure!(
            problem.code == ProblemCode::Restricted,
            "{what}: {:?}: {}",
            problem.code,
            problem.detail
        );
        println!(
            "{what}: page: \"{}\"; API: \"{}\"",
            page.what(),
            problem.detail
        );
        ensure!(
            self.site.books().sums()?.orders == orders,
            "{what}: an order was made"
        );
        before.nothing_moved(&self.site, what)
    }
}

/// The problem in a refusal.
fn refused(page: &Page, what: &str) -> Result<Problem> {
    ensure!(
        page.status.is_client_error(),
        "{what}: the API answered {} {}",
        page.status,
        page.body
    );
    let problem: Problem = page.json()?;
    ensure!(
        !problem.detail.is_empty(),
        "{what}: a refusal without words"
    );
    Ok(problem)
}

#[tokio::test]
async fn orders_that_may_not_be_move_nothing() -> Result<()> {
    let stage = Stage::set(Net::two_homes().mode(Mode::Namespaces).up()?, "2.50").await?;
    let (site, operator) = (&stage.site, &stage.site.operator);
    let (anna, ben) = (site.anna.home().await?, site.ben.home().await?);
    let photo = std::fs::read(&media::photos()?[0])?;
    let photo = site.anna.add("Blinds.jpg", photo).await?;
    let first = Counted::now(site)?;

    stage
        .pull_refused("no credit", ProblemCode::InsufficientFunds)
        .await?;
    operator.credit("Ben", "2.49").await?;
    stage
        .pull_refused("one cent too little", ProblemCode::InsufficientFunds)
        .await?;
    operator.credit("Ben", "20.00").await?;

    let restricted = ProblemCode::Restricted;
    let pair = [
        ("home", ben.as_str()),
        ("peers", anna.as_str()),
        ("note", "not these two"),
    ];
    operator
        .restrict(
            "block",
            &[&pair[..], &[("initiative", ""), ("side", "")]].concat(),
        )
        .await?;
    stage.pull_refused("blocked pair, pull", restricted).await?;
    stage.push_refused("blocked pair, push", &photo.id).await?;
    operator.lift_restrictions().await?;

    let push_only = [("initiative", "push"), ("side", "receiver")];
    operator
        .restrict("block", &[&pair[..], &push_only].concat())
        .await?;
    stage
        .push_refused("blocked for pushes only, push", &photo.id)
        .await?;
    operator.lift_restrictions().await?;

    let allow = [
        ("home", ben.as_str()),
        ("peers", ben.as_str()),
        ("note", ""),
        ("initiative", ""),
        ("side", ""),
    ];
    operator.restrict("allow", &allow).await?;
    stage
        .pull_refused("not on the allow list", restricted)
        .await?;
    operator.lift_restrictions().await?;

    operator
        .restrict(
            "kinds",
            &[("home", &ben), ("kinds", "image"), ("note", "photos only")],
        )
        .await?;
    stage.pull_refused("kind not allowed", restricted).await?;
    operator.lift_restrictions().await?;

    let one_mb = [("amount", "1"), ("unit", "mb"), ("note", "")];
    operator
        .restrict("size", &[&[("home", ben.as_str())][..], &one_mb].concat())
        .await?;
    stage
        .pull_refused("larger than allowed", restricted)
        .await?;
    operator.lift_restrictions().await?;

    for (home, side) in [(&ben, "receiver"), (&anna, "sender")] {
        let quota = [("home", home.as_str()), ("side", side), ("period_h", "24")];
        operator
            .restrict("quota", &[&quota[..], &one_mb].concat())
            .await?;
        stage
            .pull_refused(&format!("over the {side}'s quota"), restricted)
            .await?;
        operator.lift_restrictions().await?;
    }
    for name in ["Ben", "Anna"] {
        operator.suspend(name).await?;
        stage
            .pull_refused(&format!("{name}'s account suspended"), restricted)
            .await?;
        operator.reopen(name).await?;
    }

    // A minute of talk may have passed: the disk and the relay are what counts for the whole.
    let last = Counted::now(site)?;
    ensure!(
        last.stored == first.stored && last.relayed == 0,
        "media moved after a refusal"
    );
    ensure!(
        site.books().balanced()?.captures == 0,
        "something was captured"
    );

    // And with everything lifted it is delivered: the refusals were the rules', not a broken stage.
    site.ben.listing(&stage.clip.id).await?;
    site.ben
        .buy(&stage.clip.id)
        .await
        .context("refused although everything is lifted")?;
    site.ben.wait_ready(&stage.clip.id, LONG).await?;
    let books = site.books();
    let available = books.available(&operator.customer("Ben")?)?;
    ensure!(available == 2_249 - 250, "Ben may spend {available} cents");
    println!(
        "after lifting: delivered, captured once; {:?}",
        books.balanced()?
    );
    stage.site.done().await
}

#[tokio::test]
async fn suspension_cuts_a_transfer_and_releases_the_hold() -> Result<()> {
    let site = SiteBuilder::on(Net::two_homes().mode(Mode::Namespaces).up()?)
        .up()
        .await?;
    site.operator.credit("Ben", "20.00").await?;
    for (round, name) in [(0, "Ben"), (1, "Anna")] {
        let title = site
            .anna
            .add(&format!("Large {round}.bin"), noise(name, LARGE))
            .await?;
        site.anna.offer(&title.id, "2.50").await?;
        site.ben.listing(&title.id).await?;
        site.net.limit_rate(site.a.place(), SLOW_MBIT)?;
        let ordered = site.ben.order(&title.id).await?;
        let order = ordered.body["order"]
            .as_str()
            .context("an order")?
            .to_owned();
        let some = 4 * 1024 * 1024;
        site.ben
            .wait_order(&title.id, "the transfer to be under way", LONG, |now| {
                now.bytes_done >= some
            })
            .await?;
        site.operator.suspend(name).await?;
        let at_suspension = site.ledger(&order).await?.relayed_bytes;
        let stored_then = stored_bytes(&site.b.data)?;
        let over = site
            .ben
            .wait_order(&title.id, "the order to end", LONG, |now| {
                now.state == "failed"
            })
            .await?;
        // The relay's count is written each second: final when it has not changed for a while.
        let mut last = (0, 0);
        until("the relay's count to be final", LONG, async || {
            let now = site.ledger(&order).await.ok()?.relayed_bytes;
            last = if now == last.0 {
                (now, last.1 + 1)
            } else {
                (now, 0)
            };
            (last.1 == 8).then_some(())
        })
        .await?;
        let books = site.ledger(&order).await?;
        ensure!(
            books.state == "failed" && books.count("release") == 1 && books.count("capture") == 0,
            "{books:?}"
        );
        ensure!(
            books.relayed_bytes < title.sealed_bytes / 2,
            "it was not cut: {}",
            books.relayed_bytes
        );
        let sums = site.books().balanced()?;
        ensure!(sums.captures == 0, "{sums:?}");
        println!(
            "{name} suspended: relayed {at_suspension} of {} when suspended, {} in the end; stored {stored_then}, then {}; \
             hold released; the page says: {:?}",
            title.sealed_bytes,
            books.relayed_bytes,
            stored_bytes(&site.b.data)?,
            over.problem,
        );
        site.net.limit_rate(site.a.place(), 1_000)?;
        site.operator.reopen(name).await?;
    }
    ensure!(
        site.books().available(&site.operator.customer("Ben")?)? == 2_000,
        "Ben's money is not back"
    );
    site.done().await
}

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
    let fresh = |grant: &mut Grant| grant.delivery = mantel_protocol::ids::DeliveryId::generate();
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
    before.nothing_moved(site, "all grants together")?;
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

    false_receipts(&stage).await?;
    let sums = site.books().balanced()?;
    ensure!(sums.captures == 1, "{sums:?}");
    stage.site.done().await
}

/// An order under way whose receipt others hand in: nothing is captured, and it is cancelled with its hold released.
async fn false_receipts(stage: &Stage) -> Result<()> {
    let (site, server, key) = (&stage.site, &stage.server, stage.site.server_key()?);
    let title = site.anna.add("Large.bin", noise("receipts", LARGE)).await?;
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
