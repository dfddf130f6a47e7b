//! Updates of the appliance from the operator's console to the household's pages, with the real server and gateways. The
//! test plays the appliance's system: what `image/root/usr/lib/mantel/{system-facts,request}` do on the box.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]

#[path = "updates/seeds.rs"]
mod seeds;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mantel_tests::actors::status::{Update, UpdateUnderWay};
use mantel_tests::actors::{Household, Intruder, Site, SiteBuilder};
use mantel_tests::lab::{Mode, Net, Page, Session, until};
use mantel_tests::media;
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// A bundle whose fetching can be interrupted on [`SLOW_MBIT`].
const LARGE: usize = 24 * 1024 * 1024 + 4_321;
const SLOW_MBIT: u32 = 24;
const SMALL: usize = 3 * 1024 * 1024 + 17;
/// What both appliances run at first.
const FIRST: &str = "1.0.0";

/// The system of an appliance: the other side of the folder by which the gateway talks to it.
struct System {
    folder: PathBuf,
}

impl System {
    fn of(folder: &Path, home: &str) -> Result<Self> {
        let folder = folder.join(format!("system-{home}"));
        std::fs::create_dir_all(folder.join("requests"))?;
        let system = Self { folder };
        system.write("good", "")?;
        system.starts(FIRST, false, None)?;
        Ok(system)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = self.folder.join(format!("{name}.new"));
        std::fs::write(&new, text)?;
        std::fs::rename(new, self.folder.join(name))?;
        Ok(())
    }

    /// What the machine's start brought.
    fn starts(&self, version: &str, safe: bool, failed: Option<&str>) -> Result<()> {
        let facts = json!({
            "version": version, "slot": "A", "data": "plain", "safe": safe, "failed_update": failed,
        });
        self.write("system.json", &facts.to_string())
    }

    fn says(&self, state: &str) -> Result<()> {
        let said = json!({ "state": state, "message": "as the test wants it" });
        self.write("update.json", &said.to_string())
    }

    fn is_asked(&self, request: &str) -> bool {
        self.folder.join("requests").join(request).exists()
    }

    /// Waits for a request and takes it.
    async fn takes(&self, request: &str, house: &Household) -> Result<()> {
        let what = format!("the request {request}");
        let asked = until(&what, LONG, async || self.is_asked(request).then_some(()));
        if let Err(error) = asked.await {
            let status = house.status().await.map(|status| status.update);
            return Err(error.context(format!("{status:?}")));
        }
        std::fs::remove_file(self.folder.join("requests").join(request))?;
        Ok(())
    }
}

/// The server's copy of a bundle, with a wrong byte in it.
struct Stored {
    file: std::fs::File,
    path: PathBuf,
    at: usize,
    byte: u8,
}

impl Stored {
    fn mend(&self) -> Result<()> {
        Ok(self.file.write_all_at(&[self.byte], self.at as u64)?)
    }
}

struct Stage {
    site: Site,
    a: System,
    b: System,
}

impl Stage {
    /// Two homes whose gateways run on appliances of version 1.0.0.
    async fn up() -> Result<Self> {
        Self::on(Net::two_homes().mode(Mode::Namespaces).up()?).await
    }

    /// The same, and the homes reach each other.
    async fn joined() -> Result<Self> {
        Self::on(Net::two_homes().joined().mode(Mode::Namespaces).up()?).await
    }

    async fn on(net: Net) -> Result<Self> {
        let (a, b) = (
            System::of(net.folder(), "a")?,
            System::of(net.folder(), "b")?,
        );
        let folder = net.folder().join("system-{home}");
        let config = format!(
            "[system]\nspread_minutes = 0\nfolder = {:?}\n",
            folder.display().to_string()
        );
        let site = SiteBuilder::on(net).gateway_config(&config).up().await?;
        for house in [&site.anna, &site.ben] {
            house.open_admin().await?;
            let shown = page(house, "/admin").await?;
            ensure!(shown.contains("name=\"zone\" value=\"\""), "{shown}");
            house.live_in_daylight().await?;
        }
        Ok(Self { site, a, b })
    }

    async fn put(&self, version: &str, bundle: &[u8]) -> Result<()> {
        let page = self.site.operator.put_release(version, bundle).await?;
        ensure!(page.status.as_u16() == 303, "{} {}", page.status, page.body);
        Ok(())
    }

    /// The console's page of a version.
    async fn told(&self, version: &str) -> Result<Page> {
        let path = format!("/console/updates/{version}");
        self.site.operator.session().get(&path).await?.ok()
    }

    async fn wait_told(&self, version: &str, what: &str) -> Result<Page> {
        until(&format!("{what} in the console"), LONG, async || {
            let page = self.told(version).await.ok()?;
            page.body.contains(what).then_some(page)
        })
        .await
    }

    /// Flips a byte of the server's copy of a bundle.
    fn stored(&self, bundle: &[u8], at: usize) -> Result<Stored> {
        let name = format!("{}.raucb", blake3::hash(bundle));
        let path = self.site.server_data.join("releases").join(name);
        let file = std::fs::OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(&[!bundle[at]], at as u64)?;
        Ok(Stored {
            file,
            path,
            at,
            byte: bundle[at],
        })
    }

    fn bundle_of_a(&self) -> PathBuf {
        self.site.a.data.join("update/bundle.raucb")
    }

    /// The machine of home a restarts and brings this.
    async fn restart_a(&mut self, version: &str, safe: bool, failed: Option<&str>) -> Result<()> {
        let proc = self.site.a.proc.take().context("the gateway runs")?;
        proc.stop().await?;
        self.a.starts(version, safe, failed)?;
        self.site.a.start().await?;
        self.site.anna.wait_online().await
    }

    /// Puts an update in place and restarts: up to where the test decides whether it is good.
    async fn install_on_a(&self) -> Result<()> {
        self.a.takes("install", &self.site.anna).await?;
        self.a.says("installing")?;
        under_way(&self.site.anna, "the installation to be told", |it| {
            it.stage == "installing"
        })
        .await?;
        self.a.says("installed")?;
        under_way(&self.site.anna, "the update to be in place", |it| {
            it.stage == "installed"
        })
        .await?;
        self.site.anna.open_admin().await?;
        self.site
            .anna
            .session()
            .post_form("/admin/update/restart", &[])
            .await?
            .ok()?;
        self.a.takes("restart", &self.site.anna).await
    }
}

async fn update(house: &Household) -> Result<Update> {
    house.status().await?.update.context("an appliance")
}

async fn under_way(
    house: &Household,
    what: &str,
    wanted: impl Fn(&UpdateUnderWay) -> bool,
) -> Result<UpdateUnderWay> {
    house
        .wait(what, LONG, |status| {
            let it = status.update.as_ref()?.under_way.as_ref()?;
            wanted(it).then(|| it.clone())
        })
        .await
}

async fn page(house: &Household, path: &str) -> Result<String> {
    Ok(house.session().get(path).await?.ok()?.body)
}

/// A browser that sends a file and stops in the middle: an import that does not end.
async fn stalled_upload(site: &Site) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((site.a.place().addr(), 8080)).await?;
    let head = format!(
        "POST /library/upload HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\nCookie: mantel_session={}\r\n\
         Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n--b\r\nContent-Disposition: \
         form-data; name=\"file\"; filename=\"film.mp4\"\r\nContent-Type: video/mp4\r\n\r\n",
        site.anna.cookie()?
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&media::noise("film", 100_000)).await?;
    stream.flush().await?;
    site.anna
        .wait("the import to begin", LONG, |status| {
            let copying = |import: &serde_json::Value| import["phase"] == "copying";
            status.imports.iter().any(copying).then_some(())
        })
        .await?;
    Ok(stream)
}

#[tokio::test]
async fn an_update_comes_to_the_homes_it_is_for_and_is_told() -> Result<()> {
    let mut stage = Stage::up().await?;
    let bundle = media::noise("bundle 1.1.0", LARGE);
    stage.put("1.1.0", &bundle).await?;
    for (version, words) in [("1.1.0", "already"), ("1.1", "three numbers")] {
        let refused = stage.site.operator.put_release(version, b"other").await?;
        ensure!(
            refused.status.is_client_error() && refused.body.contains(words),
            "{version}: {} {}",
            refused.status,
            refused.body
        );
    }
    let none = stage
        .site
        .anna
        .status()
        .await?
        .update
        .context("an appliance")?;
    ensure!(
        none.running == FIRST && none.under_way.is_none(),
        "{none:?}"
    );

    // Fetched over a slow line by the home that is named; killed in the middle, it goes on where it was.
    stage.site.net.limit_rate(stage.site.a.place(), SLOW_MBIT)?;
    let (home_a, home_b) = (stage.site.anna.home().await?, stage.site.ben.home().await?);
    stage.site.operator.roll_out("1.1.0", 0, &[&home_a]).await?;
    let upload = stalled_upload(&stage.site).await?;
    let before = under_way(&stage.site.anna, "a third of the bundle", |it| {
        it.stage == "fetching" && it.percent >= 33
    })
    .await?;
    stage.site.anna.open_admin().await?;
    let shown = page(&stage.site.anna, "/admin").await?;
    ensure!(
        shown.contains("Version 1.1.0 is being fetched: "),
        "{shown}"
    );
    drop(upload);
    let killed = stage.site.a.proc.take().context("the gateway runs")?;
    killed.kill9().await?;
    // What it has already is not fetched again: the server's copy of it is spoilt meanwhile.
    let stored = stage.stored(&bundle, 0)?;
    stage.site.a.start().await?;
    stage.site.anna.wait_up().await?;

    // It waits while a file is being sent to the library.
    let upload = stalled_upload(&stage.site).await?;
    let after = under_way(&stage.site.anna, "it to go on", |it| it.percent > 0).await?;
    ensure!(
        after.percent >= before.percent && after.problem.is_none(),
        "{before:?}, then {after:?}"
    );
    println!(
        "killed at {} %, went on at {} %",
        before.percent, after.percent
    );

    let part = stage.site.a.data.join("update/bundle.raucb.part");
    let ready = under_way(&stage.site.anna, "the bundle to be whole", |it| {
        it.stage == "ready"
    })
    .await?;
    stored.mend()?;
    ensure!(
        ready.busy.as_deref() == Some("media is being imported"),
        "{ready:?}"
    );
    ensure!(
        !part.exists() && std::fs::read(stage.bundle_of_a())? == bundle,
        "other bytes"
    );
    let shown = page(&stage.site.anna, "/admin").await?;
    ensure!(
        shown.contains("is ready; it is put in place when nothing plays. Now media is being"),
        "{shown}"
    );
    ensure!(
        !stage.a.is_asked("install"),
        "not in the middle of an import"
    );
    drop(upload);
    stage.a.takes("install", &stage.site.anna).await?;

    // The gateway dies while the system installs.
    stage.a.says("installing")?;
    stage.site.a.crash().await?;
    stage.a.says("installed")?;
    stage.site.anna.wait_online().await?;
    under_way(&stage.site.anna, "the update to be in place", |it| {
        it.stage == "installed"
    })
    .await?;
    let shown = page(&stage.site.anna, "/").await?;
    ensure!(
        shown.contains("Version 1.1.0 is in place; it starts at night"),
        "{shown}"
    );
    ensure!(
        !shown.contains("Restart now</button>"),
        "words only: {shown}"
    );
    let guest = Session::new(&stage.site.anna.base)?;
    let password = ("password", stage.site.anna.password.as_str());
    guest.post_form("/login", &[password]).await?.ok()?;
    let kept_out = guest.post_form("/admin/update/restart", &[]).await?;
    ensure!(!kept_out.url.path().ends_with("/admin"), "{}", kept_out.url);

    time_zone(&stage.site.anna).await?;

    // Pressed in the middle of an import, it waits, and is not forgotten in a crash.
    let upload = stalled_upload(&stage.site).await?;
    stage.site.anna.open_admin().await?;
    let shown = page(&stage.site.anna, "/admin").await?;
    ensure!(shown.contains("Restart now</button>"), "{shown}");
    let pressed = stage
        .site
        .anna
        .session()
        .post_form("/admin/update/restart", &[])
        .await?
        .ok()?;
    ensure!(
        pressed.body.contains("as soon as nothing plays"),
        "{}",
        pressed.body
    );
    under_way(&stage.site.anna, "the import to be waited for", |it| {
        it.restart_wanted && it.busy.as_deref() == Some("media is being imported")
    })
    .await?;
    ensure!(
        !stage.a.is_asked("restart"),
        "not in the middle of an import"
    );
    stage.site.a.crash().await?;
    drop(upload);
    stage.a.takes("restart", &stage.site.anna).await?;

    stage.restart_a("1.1.0", false, None).await?;
    stage.wait_told("1.1.0", "data-installed>1<").await?;
    let told = stage.wait_told("1.1.0", "data-running>1<").await?;
    ensure!(
        told.body.contains(&format!("data-home=\"{home_a}\"")),
        "{}",
        told.body
    );
    let now = update(&stage.site.anna).await?;
    ensure!(now.running == "1.1.0" && now.under_way.is_none(), "{now:?}");
    ensure!(
        now.gives.as_deref() == Some("1.1.0") && stage.bundle_of_a().exists(),
        "kept for other homes: {now:?}"
    );

    only_for_those_it_is_for(&stage, &bundle).await?;
    // Every home: now the other one is offered it too.
    stage.site.operator.roll_out("1.1.0", 100, &[]).await?;
    let theirs = under_way(&stage.site.ben, "the other home's turn", |_| true).await?;
    ensure!(theirs.version == "1.1.0", "{theirs:?}");
    stage.b.takes("install", &stage.site.ben).await?;
    ensure!(
        home_a != home_b && std::fs::read(stage.site.b.data.join("update/bundle.raucb"))? == bundle
    );
    stage.site.done().await
}

/// The night is the household's: who looks after the box says where it stands.
async fn time_zone(house: &Household) -> Result<()> {
    house.open_admin().await?;
    let shown = page(house, "/admin").await?;
    ensure!(shown.contains("name=\"zone\" value=\"Etc/GMT"), "{shown}");
    let clock = house.session().get("/admin").await?.body;
    let fields = [("zone", "Mars/Olympus")];
    let refused = house.session().post_form("/admin/zone", &fields).await?;
    ensure!(
        refused.status.as_u16() == 400 && refused.body.contains("Europe/Berlin"),
        "{}",
        refused.body
    );
    // One of two in which it is day.
    let utc = Timestamp::now().to_zoned(TimeZone::UTC);
    let zone = if (12..16).contains(&utc.hour()) {
        "Europe/Berlin"
    } else {
        "Pacific/Kiritimati"
    };
    let fields = [("zone", zone)];
    let kept = house.session().post_form("/admin/zone", &fields).await?;
    let kept = kept.ok()?.body;
    ensure!(kept.contains(&format!("value=\"{zone}\"")) && kept != clock);
    Ok(())
}

/// Who may read the bundle while it is for home a only.
async fn only_for_those_it_is_for(stage: &Stage, bundle: &[u8]) -> Result<()> {
    let theirs = update(&stage.site.ben).await?;
    ensure!(
        theirs.asked.is_some() && theirs.under_way.is_none(),
        "{theirs:?}"
    );
    ensure!(
        !stage.site.b.data.join("update").exists(),
        "nothing was fetched"
    );
    let server = Session::new(stage.site.operator.base())?;
    let key = stage.site.server_key()?;
    let path = "/v1/updates/1.1.0/bundle?start=0&count=1000";
    let open = server.get(path).await?;
    ensure!(
        open.status.as_u16() == 401,
        "without a log-in: {}",
        open.status
    );
    let who = [
        ("a stranger", Intruder::stranger(), 401),
        (
            "the other home",
            Intruder::with_keys_of(&stage.site.b.data)?,
            404,
        ),
        ("the home", Intruder::with_keys_of(&stage.site.a.data)?, 200),
    ];
    for (who, caller, status) in &who {
        let answer = caller
            .call(&server, key, (Method::GET, path), &json!(null))
            .await?;
        ensure!(
            answer.status.as_u16() == *status,
            "{who}: {} {}",
            answer.status,
            answer.body
        );
    }
    let end = bundle.len();
    for piece in [
        format!("start={end}&count=1"),
        format!("start={}&count=2", end - 1),
        "start=0&count=0".to_owned(),
        "start=0&count=1048577".to_owned(),
        "start=18446744073709551615&count=1".to_owned(),
        "start=-1&count=1".to_owned(),
        "start=0".to_owned(),
    ] {
        let path = format!("/v1/updates/1.1.0/bundle?{piece}");
        let answer = who[2]
            .1
            .call(&server, key, (Method::GET, &path), &json!(null))
            .await?;
        ensure!(answer.status.as_u16() == 400, "{piece}: {}", answer.status);
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_update_is_told_on_every_page_and_not_fetched_again() -> Result<()> {
    const WORDS: &str = "Update 1.2.0 failed, running 1.0.0, nothing lost.";
    const PAGES: [&str; 8] = [
        "/",
        "/library",
        "/catalog",
        "/orders",
        "/homes",
        "/devices",
        "/uploads",
        "/no-such-page",
    ];
    let mut stage = Stage::up().await?;
    stage
        .put("1.2.0", &media::noise("bundle 1.2.0", SMALL))
        .await?;
    stage.site.operator.roll_out("1.2.0", 100, &[]).await?;
    stage.install_on_a().await?;
    stage.restart_a("1.0.0", false, Some("1.2.0")).await?;

    let stranger = Session::new(&stage.site.anna.base)?;
    let login = stranger.get("/login").await?;
    ensure!(
        login.body.contains(WORDS) && !login.body.contains("Dismiss"),
        "{}",
        login.body
    );
    for path in PAGES {
        let shown = stage.site.anna.session().get(path).await?.body;
        ensure!(
            shown.contains(WORDS) && shown.contains("Dismiss</button>"),
            "{path}: {shown}"
        );
    }
    let told = stage.wait_told("1.2.0", "data-failed>1<").await?;
    ensure!(told.body.contains("did not prove good"), "{}", told.body);

    // Asked again, it is not taken again.
    let before = update(&stage.site.anna).await?.asked;
    stage
        .site
        .operator
        .roll_out("1.2.0", 100, &[&stage.site.anna.home().await?])
        .await?;
    stage
        .site
        .anna
        .wait("another question to the server", LONG, |status| {
            let update = status.update.as_ref()?;
            (update.asked.is_some() && update.asked != before).then_some(())
        })
        .await?;
    let now = update(&stage.site.anna).await?;
    ensure!(
        now.under_way.is_none() && !stage.a.is_asked("install"),
        "{now:?}"
    );
    ensure!(!stage.bundle_of_a().exists());

    // Put away by the household, it stays for whoever looks after the box, after a crash too.
    stage.site.anna.done("/update/dismiss", &[]).await?;
    for round in ["now", "after a crash"] {
        for path in PAGES {
            let shown = stage.site.anna.session().get(path).await?.body;
            ensure!(!shown.contains(WORDS), "{round} {path}: {shown}");
        }
        stage.site.anna.open_admin().await?;
        let shown = page(&stage.site.anna, "/admin").await?;
        ensure!(
            shown.contains(WORDS) && !shown.contains("Dismiss</button>"),
            "{round}: {shown}"
        );
        stage.site.a.crash().await?;
        stage.site.anna.wait_up().await?;
    }

    // A newer one is taken; the old failure is over when it runs.
    stage
        .put("1.2.1", &media::noise("bundle 1.2.1", SMALL))
        .await?;
    stage.site.operator.roll_out("1.2.1", 100, &[]).await?;
    stage.install_on_a().await?;
    stage.restart_a("1.2.1", false, None).await?;
    stage.wait_told("1.2.1", "data-installed>1<").await?;
    let shown = page(&stage.site.anna, "/admin").await?;
    ensure!(!shown.contains("failed"), "{shown}");

    stage.restart_a("1.2.1", true, None).await?;
    for path in PAGES {
        let shown = stage.site.anna.session().get(path).await?.body;
        ensure!(shown.contains("Safe mode: "), "{path}: {shown}");
    }
    stage.site.done().await
}

#[tokio::test]
async fn a_damaged_bundle_is_refused_and_a_withdrawn_one_forgotten() -> Result<()> {
    let stage = Stage::up().await?;
    let bundle = media::noise("bundle 1.3.0", SMALL);
    stage.put("1.3.0", &bundle).await?;
    let stored = stage.stored(&bundle, 2 * 1024 * 1024 + 99)?;
    stage.site.operator.roll_out("1.3.0", 100, &[]).await?;
    let stuck = under_way(&stage.site.anna, "the damage to be told", |it| {
        it.problem.is_some()
    })
    .await?;
    let problem = stuck.problem.unwrap_or_default();
    ensure!(
        stuck.stage == "fetching" && problem.contains("is damaged"),
        "{problem}"
    );
    ensure!(
        stuck.percent == 66,
        "what was right is kept: {} %",
        stuck.percent
    );
    ensure!(!stage.a.is_asked("install"));

    // Mended at the server, it goes on when the gateways are told to look.
    stored.mend()?;
    stage.site.operator.roll_out("1.3.0", 100, &[]).await?;
    stage.a.takes("install", &stage.site.anna).await?;
    ensure!(std::fs::read(stage.bundle_of_a())? == bundle);

    // Home b has it ready, or soon; withdrawn before it is in place, it is forgotten.
    let upload_b = under_way(&stage.site.ben, "home b to have it too", |it| {
        it.stage == "installing"
    });
    upload_b.await?;
    stage.b.says("refused")?;
    under_way(&stage.site.ben, "the refusal to be told", |it| {
        it.stage == "ready"
            && it
                .problem
                .as_deref()
                .is_some_and(|it| it.contains("as the test wants it"))
    })
    .await?;
    stage.site.operator.withdraw_release("1.3.0").await?;
    stage
        .site
        .ben
        .wait("the update to be forgotten", LONG, |status| {
            status.update.as_ref()?.under_way.is_none().then_some(())
        })
        .await?;
    ensure!(!stage.site.b.data.join("update/bundle.raucb").exists());
    ensure!(!stored.path.exists(), "the server deletes what it withdrew");
    ensure!(stage.told("1.3.0").await?.body.contains("Withdrawn"));
    forgets_everything(&stage).await?;
    stage.site.done().await
}

/// Whatever an update does meanwhile: home a's system has begun to install one.
async fn forgets_everything(stage: &Stage) -> Result<()> {
    let anna = &stage.site.anna;
    for (password, status) in [("not hers", 403), (anna.password.as_str(), 200)] {
        ensure!(!stage.a.is_asked("factory-reset"));
        let fields = [("password", password)];
        let answer = anna.session().post_form("/admin/forget", &fields).await?;
        ensure!(
            answer.status.as_u16() == status,
            "{} {}",
            answer.status,
            answer.body
        );
    }
    stage.a.takes("factory-reset", anna).await
}
