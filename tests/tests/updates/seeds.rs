//! Homes give each other the bundle of an update: who sent what is read from the receiving gateway's own count and from the
//! server's count of what it sent.

use super::{FIRST, LARGE, LONG, SLOW_MBIT, SMALL, Stage, page, stalled_upload, under_way, update};
use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::SeedOffer;
use mantel_protocol::chunk::Refusal;
use mantel_protocol::grant::SeedGrant;
use mantel_protocol::ids::GrantId;
use mantel_protocol::key::SigningKey;
use mantel_protocol::relay::RelayRefusal;
use mantel_protocol::token::{Validity, peek_unverified, sign};
use mantel_tests::actors::{Entered, Intruder, Loot};
use mantel_tests::lab::{Session, until};
use mantel_tests::media;
use reqwest::Method;
use serde_json::json;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;

const MIB: u64 = 1024 * 1024;
const VERSION: &str = "1.1.0";

impl Stage {
    /// Two homes that reach each other; home a has the bundle and gives it, home b is not offered it yet.
    async fn seeded(bundle: &[u8]) -> Result<Self> {
        let stage = Self::joined().await?;
        stage.put(VERSION, bundle).await?;
        let home_a = stage.site.anna.home().await?;
        stage.site.operator.roll_out(VERSION, 0, &[&home_a]).await?;
        stage.a.takes("install", &stage.site.anna).await?;
        stage.a.says("installing")?;
        stage.wait_told(VERSION, "data-seeds>1<").await?;
        ensure!(stage.sent().await? == bundle.len() as u64);
        let gives = update(&stage.site.anna).await?.gives;
        ensure!(gives.as_deref() == Some(VERSION), "{gives:?}");
        Ok(stage)
    }

    /// Bytes of the bundle that the server has sent.
    async fn sent(&self) -> Result<u64> {
        let page = self.told(VERSION).await?.body;
        let (_, rest) = page.split_once("data-sent=\"").context("a count")?;
        let (count, _) = rest.split_once('"').context("a count")?;
        Ok(count.parse()?)
    }

    /// The homes that the server names to `caller`.
    async fn named(&self, caller: &Intruder) -> Result<Vec<SeedOffer>> {
        let server = Session::new(self.site.operator.base())?;
        let path = format!("/v1/updates/{VERSION}/seeds");
        let key = self.site.server_key()?;
        let call = (Method::POST, path.as_str());
        let answer = caller.call(&server, key, call, &json!(null)).await?;
        answer.ok()?.json()
    }
}

#[tokio::test]
async fn a_home_that_has_the_bundle_gives_it_to_the_next() -> Result<()> {
    let bundle = media::noise("bundle for two", 12 * MIB as usize + 4_321);
    let mut stage = Stage::seeded(&bundle).await?;
    let sent = stage.sent().await?;
    stage.site.operator.roll_out(VERSION, 100, &[]).await?;
    stage.b.takes("install", &stage.site.ben).await?;
    let theirs = under_way(&stage.site.ben, "the bundle", |_| true).await?;
    ensure!(
        theirs.from_homes == bundle.len() as u64 && stage.sent().await? == sent,
        "{theirs:?}, and from the server {}",
        stage.sent().await? - sent
    );
    println!(
        "home b has {} bytes from home a and 0 from the server",
        theirs.from_homes
    );
    let file = stage.site.b.data.join("update/bundle.raucb");
    ensure!(std::fs::read(&file)? == bundle);
    stage.wait_told(VERSION, "data-seeds>2<").await?;

    // It runs in home a and is still given, after a crash too; withdrawn, it is deleted.
    stage.a.says("installed")?;
    stage.restart_a(VERSION, false, None).await?;
    stage.wait_told(VERSION, "data-installed>1<").await?;
    stage.site.a.crash().await?;
    stage.site.anna.wait_online().await?;
    let now = update(&stage.site.anna).await?;
    ensure!(
        now.running == VERSION && now.under_way.is_none() && now.gives.as_deref() == Some(VERSION),
        "{now:?}"
    );
    ensure!(std::fs::read(stage.bundle_of_a())? == bundle);
    stage.site.anna.open_admin().await?;
    let shown = page(&stage.site.anna, "/admin").await?;
    ensure!(shown.contains("Other homes may fetch version"), "{shown}");
    let ben = Intruder::with_keys_of(&stage.site.b.data)?;
    ensure!(stage.named(&ben).await?.len() == 1);
    stage.site.operator.withdraw_release(VERSION).await?;
    stage
        .site
        .anna
        .wait("the bundle to be deleted", LONG, |status| {
            status.update.as_ref()?.gives.is_none().then_some(())
        })
        .await?;
    ensure!(!stage.bundle_of_a().exists());
    stage.site.done().await
}

#[tokio::test]
async fn wrong_bytes_of_a_home_are_not_kept_and_the_rest_comes_from_the_server() -> Result<()> {
    let bundle = media::noise("bundle with a flaw", 6 * MIB as usize + 99);
    let stage = Stage::seeded(&bundle).await?;
    let sent = stage.sent().await?;
    // The third piece of home a's copy, on its disk.
    let flawed = std::fs::OpenOptions::new()
        .write(true)
        .open(stage.bundle_of_a())?;
    let at = 2 * MIB + 5;
    flawed.write_all_at(&[!bundle[at as usize]], at)?;
    stage.site.operator.roll_out(VERSION, 100, &[]).await?;
    stage.b.takes("install", &stage.site.ben).await?;
    let theirs = under_way(&stage.site.ben, "the bundle", |_| true).await?;
    let (home, server) = (theirs.from_homes, stage.sent().await? - sent);
    println!("{home} bytes from the home before its wrong piece, {server} from the server");
    ensure!(home == 2 * MIB && home + server == bundle.len() as u64);
    let file = stage.site.b.data.join("update/bundle.raucb");
    ensure!(std::fs::read(&file)? == bundle && theirs.problem.is_none());
    stage.site.done().await
}

#[tokio::test]
async fn when_the_home_goes_away_in_the_middle_the_server_sends_the_rest() -> Result<()> {
    let bundle = media::noise("bundle of two sources", LARGE);
    let mut stage = Stage::seeded(&bundle).await?;
    let sent = stage.sent().await?;
    stage.site.net.limit_rate(stage.site.a.place(), SLOW_MBIT)?;
    stage.site.operator.roll_out(VERSION, 100, &[]).await?;
    under_way(&stage.site.ben, "some of it from home a", |it| {
        it.from_homes >= 2 * MIB
    })
    .await?;
    let gateway = stage.site.a.proc.take().context("the gateway runs")?;
    gateway.kill9().await?;
    stage.b.takes("install", &stage.site.ben).await?;
    let theirs = under_way(&stage.site.ben, "the bundle", |_| true).await?;
    let (home, server) = (theirs.from_homes, stage.sent().await? - sent);
    println!("{home} bytes from the home before it was killed, {server} from the server");
    ensure!(server > 0 && home + server == bundle.len() as u64);
    let file = stage.site.b.data.join("update/bundle.raucb");
    ensure!(std::fs::read(&file)? == bundle && theirs.problem.is_none());
    stage.site.done().await
}

/// What one who knocks is told; not a byte.
async fn refused(who: &Intruder, at: SocketAddr, token: (&str, &SeedGrant)) -> Result<Refusal> {
    let loot = who.knock(at, token.1.sender, token.0).await?;
    ensure!(loot.media_bytes == 0, "{loot:?}");
    loot.refusal.context("a refusal")
}

#[tokio::test]
async fn a_home_gives_nothing_without_a_good_grant_and_the_server_grants_by_its_rules() -> Result<()>
{
    let bundle = media::noise("bundle for few", SMALL);
    let stage = Stage::seeded(&bundle).await?;
    let (site, operator) = (&stage.site, &stage.site.operator);
    let (ben, stranger) = (Intruder::with_keys_of(&site.b.data)?, Intruder::stranger());
    let (home_a, home_b) = (site.anna.home().await?, site.ben.home().await?);

    // Not offered to home b: the server names nobody to it, nor to a stranger.
    let server = Session::new(operator.base())?;
    let path = format!("/v1/updates/{VERSION}/seeds");
    for (who, status) in [(&stranger, 401), (&ben, 404)] {
        let call = (Method::POST, path.as_str());
        let answer = who.call(&server, site.server_key()?, call, &json!(null));
        let answer = answer.await?;
        ensure!(answer.status.as_u16() == status, "{}", answer.status);
    }

    // Home b may have it, but its gateway is not there to fetch it.
    let mut stage = stage;
    let gateway = stage.site.b.proc.take().context("the gateway runs")?;
    gateway.stop().await?;
    let (site, operator) = (&stage.site, &stage.site.operator);
    operator.roll_out(VERSION, 100, &[]).await?;
    let pair = [("home", home_a.as_str()), ("peers", home_b.as_str())];
    let block = [("note", ""), ("initiative", ""), ("side", "sender")];
    operator
        .restrict("block", &[&pair[..], &block].concat())
        .await?;
    ensure!(stage.named(&ben).await?.is_empty(), "blocked");
    operator.lift_restrictions().await?;
    for name in ["Anna", "Ben"] {
        operator.suspend(name).await?;
        ensure!(stage.named(&ben).await?.is_empty(), "{name} is suspended");
        operator.reopen(name).await?;
    }
    let named = stage.named(&ben).await?;
    let [offer] = &named[..] else {
        anyhow::bail!("one home has it: {named:?}");
    };
    let real: SeedGrant = peek_unverified(&offer.grant)?;
    let at = SocketAddr::from((site.a.place().addr(), 8445));
    ensure!(offer.addresses.contains(&at), "{:?}", offer.addresses);

    let key = site.server_signing()?;
    let late = Timestamp::now() - SignedDuration::from_hours(1);
    let expired = SeedGrant {
        id: GrantId::generate(),
        validity: Validity::from_now(late, 600),
        ..real.clone()
    };
    let other = SeedGrant {
        id: GrantId::generate(),
        bundle: mantel_protocol::blob::BlobId([7; 32]),
        ..real.clone()
    };
    let attempts = [
        (&ben, sign(&SigningKey::generate(), &real), Refusal::Forged),
        (&ben, sign(&ben.key, &real), Refusal::Forged),
        (&ben, "v4.public.".to_owned(), Refusal::Forged),
        (&ben, sign(&key, &expired), Refusal::Expired),
        (&ben, sign(&key, &other), Refusal::NotHere),
        (&stranger, offer.grant.clone(), Refusal::NotYours),
    ];
    for (number, (who, token, why)) in attempts.iter().enumerate() {
        let got = refused(who, at, (token, &real)).await?;
        ensure!(got == *why, "attempt {number}: {got:?}");
    }
    let relay = SocketAddr::from((site.net.server().addr(), 8444));
    let entered = ben
        .knock_at_relay(relay, site.server_key()?, real.sender, &offer.grant)
        .await?;
    ensure!(
        entered == Entered::Refused(RelayRefusal::Forged),
        "{entered:?}"
    );

    // While something goes on in home a it gives nothing; then once, and no more.
    let upload = stalled_upload(site).await?;
    let busy = refused(&ben, at, (&offer.grant, &real)).await?;
    ensure!(busy == Refusal::Busy, "{busy:?}");
    drop(upload);
    let given = until("home a to be quiet", LONG, async || {
        let loot = ben.knock(at, real.sender, &offer.grant).await.ok()?;
        (loot.refusal != Some(Refusal::Busy)).then_some(loot)
    });
    let all = Loot {
        refusal: None,
        media_bytes: bundle.len() as u64,
    };
    ensure!(given.await? == all);
    let again = refused(&ben, at, (&offer.grant, &real)).await?;
    ensure!(again == Refusal::Used, "{again:?}");
    // A block that comes after the grant is known to home a, and judged there.
    let second = stage.named(&ben).await?.pop().context("another grant")?;
    operator
        .restrict("block", &[&pair[..], &block].concat())
        .await?;
    until("the restriction to be known", LONG, async || {
        let got = refused(&ben, at, (&second.grant, &real)).await.ok()?;
        (got == Refusal::Restricted).then_some(())
    })
    .await?;
    println!("{} attempts got no byte", attempts.len() + 4);
    ensure!(update(&stage.site.anna).await?.running == FIRST);
    stage.site.done().await
}
