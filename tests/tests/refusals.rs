//! Orders that may not be are not (F14, F17): no payment, a blocked pair, over a limit or quota, a suspended account, also
//! in the middle of a transfer. Each is refused with no media byte delivered, counted at the receiver's disk, at the
//! relay and at the sender's network interface. (Forged and stolen tokens: `forgeries.rs`.)
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_protocol::api::ProblemCode;
use mantel_protocol::restriction::Initiative;
use mantel_tests::actors::{Counted, SiteBuilder, Stage, refused, stored_bytes};
use mantel_tests::lab::{Mode, Net, until};
use mantel_tests::media;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// The smaller network between the homes while a transfer must last: 2.5 MB/s.
const SLOW_MBIT: u32 = 20;
/// The bytes that a transfer that must last moves.
const LARGE: usize = 48 * 1024 * 1024;

/// Orders the clip at Ben's page and straight at the API; both must be refused, and nothing moves.
async fn pull_refused(stage: &Stage, what: &str, code: ProblemCode) -> Result<()> {
    let before = Counted::now(&stage.site)?;
    let orders = stage.site.books().sums()?.orders;
    let page = stage.site.ben.order(&stage.clip.id).await?;
    ensure!(
        !page.ok && page.status < 500,
        "{what}: Ben's page answered {} {}",
        page.status,
        page.body
    );
    let key = stage.site.server_key()?;
    let receiver = stage.ben_receives().await?;
    let title = stage.clip.id.parse()?;
    let answer = stage
        .ben
        .order(
            &stage.server,
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
        stage.site.books().sums()?.orders == orders,
        "{what}: an order was made"
    );
    println!("{}", before.nothing_moved(&stage.site, what)?);
    Ok(())
}

/// Pushes the clip to Ben; must be refused, and nothing moves.
async fn push_refused(stage: &Stage, what: &str, title: &str) -> Result<()> {
    let before = Counted::now(&stage.site)?;
    let orders = stage.site.books().sums()?.orders;
    let home = stage.site.ben.home().await?;
    let page = stage.site.anna.push(title, &home).await?;
    ensure!(
        !page.ok && page.status < 500,
        "{what}: Anna's page answered {} {}",
        page.status,
        page.body
    );
    let key = stage.site.server_key()?;
    let receiver = stage.ben_receives().await?;
    let push = (stage.site.anna.home().await?.parse()?, Initiative::Push);
    let answer = stage
        .anna
        .order(&stage.server, key, title.parse()?, receiver, push)
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
        stage.site.books().sums()?.orders == orders,
        "{what}: an order was made"
    );
    println!("{}", before.nothing_moved(&stage.site, what)?);
    Ok(())
}

#[tokio::test]
async fn orders_that_may_not_be_move_nothing() -> Result<()> {
    let stage = Stage::set(Net::two_homes().mode(Mode::Namespaces).up()?, "2.50").await?;
    let (site, operator) = (&stage.site, &stage.site.operator);
    let (anna, ben) = (site.anna.home().await?, site.ben.home().await?);
    let photo = std::fs::read(&media::photos()?[0])?;
    let photo = site.anna.add("Blinds.jpg", photo).await?;
    let first = Counted::now(site)?;

    pull_refused(&stage, "no credit", ProblemCode::InsufficientFunds).await?;
    operator.credit("Ben", "2.49").await?;
    pull_refused(
        &stage,
        "one cent too little",
        ProblemCode::InsufficientFunds,
    )
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
    pull_refused(&stage, "blocked pair, pull", restricted).await?;
    push_refused(&stage, "blocked pair, push", &photo.id).await?;
    operator.lift_restrictions().await?;

    let push_only = [("initiative", "push"), ("side", "receiver")];
    operator
        .restrict("block", &[&pair[..], &push_only].concat())
        .await?;
    push_refused(&stage, "blocked for pushes only, push", &photo.id).await?;
    operator.lift_restrictions().await?;

    let allow = [
        ("home", ben.as_str()),
        ("peers", ben.as_str()),
        ("note", ""),
        ("initiative", ""),
        ("side", ""),
    ];
    operator.restrict("allow", &allow).await?;
    pull_refused(&stage, "not on the allow list", restricted).await?;
    operator.lift_restrictions().await?;

    operator
        .restrict(
            "kinds",
            &[("home", &ben), ("kinds", "image"), ("note", "photos only")],
        )
        .await?;
    pull_refused(&stage, "kind not allowed", restricted).await?;
    operator.lift_restrictions().await?;

    let one_mb = [("amount", "1"), ("unit", "mb"), ("note", "")];
    operator
        .restrict("size", &[&[("home", ben.as_str())][..], &one_mb].concat())
        .await?;
    pull_refused(&stage, "larger than allowed", restricted).await?;
    operator.lift_restrictions().await?;

    for (home, side) in [(&ben, "receiver"), (&anna, "sender")] {
        let quota = [("home", home.as_str()), ("side", side), ("period_h", "24")];
        operator
            .restrict("quota", &[&quota[..], &one_mb].concat())
            .await?;
        pull_refused(&stage, &format!("over the {side}'s quota"), restricted).await?;
        operator.lift_restrictions().await?;
    }
    for name in ["Ben", "Anna"] {
        operator.suspend(name).await?;
        pull_refused(&stage, &format!("{name}'s account suspended"), restricted).await?;
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
            .add(&format!("Large {round}.bin"), media::noise(name, LARGE))
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
