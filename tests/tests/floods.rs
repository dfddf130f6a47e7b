//! A machine on the home's network that invents devices (F2): ten thousand announcements per second from thousands of
//! addresses, names that change each time, ten thousand DNS-SD services, XML bombs. The household's own devices stay,
//! the pages answer, and the admin page says what is going on.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{Household, Status};
use mantel_tests::lab::{MediaServer, Mode, Net, Place, Proc, Renderer, program, until};
use mantel_tests::media;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// How long the flood lasts.
const SECONDS: u64 = 20;
/// What the flood may cost of the gateway's memory.
const MOST_GROWTH_KIB: u64 = 32 * 1024;
/// The password of the household; the laboratory has no secrets.
const PASSWORD: &str = "correct horse battery";

/// A gateway without a server: what it needs of one is no part of this.
async fn gateway(place: &Place, folder: &std::path::Path) -> Result<(Proc, Household)> {
    let data = folder.join(place.name());
    std::fs::create_dir_all(&data)?;
    let config = folder.join(format!("{}.toml", place.name()));
    let text = format!(
        "data_dir = {:?}\nlog = \"info,mantel_peripherals=debug\"\n[web]\nlisten = \"0.0.0.0:8080\"\n[exchange]\n\
         listen = \"0.0.0.0:8445\"\n",
        data.display().to_string()
    );
    std::fs::write(&config, text)?;
    let proc = place
        .run(program("mantel-gateway")?)
        .arg("--config")
        .arg(&config)
        .log(folder.join(format!("{}.log", place.name())))
        .spawn()
        .await?;
    proc.wait_port(8080, LONG).await?;
    let household = Household::move_in(place.name(), &place.url(8080), PASSWORD).await?;
    Ok((proc, household))
}

/// A figure of proc(5) `status`, KiB.
fn memory_kib(proc: &Proc, what: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", proc.pid()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))
        .with_context(|| format!("no {what}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn is_on(status: &Status, name: &str) -> bool {
    let mut rows = status.devices.iter().filter(|row| row.name == name);
    rows.next().is_some_and(|row| row.state == "online") && rows.next().is_none()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// How long the devices page takes, asked again and again until `over`.
async fn page_times(
    household: &Household,
    mut over: impl FnMut(&str) -> bool,
) -> Result<Vec<Duration>> {
    let (mut times, mut page) = (Vec::new(), String::new());
    while !over(&page) {
        let began = Instant::now();
        page = household.session().get("/devices").await?.ok()?.body;
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    times.sort();
    Ok(times)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_invents_devices_costs_the_household_nothing() -> Result<()> {
    let net = Net::builder()
        .home("a", &["cam", "tv", "late", "bad"])
        .mode(Mode::Namespaces)
        .up()?;
    let folder = net.folder().to_owned();
    let home = net.home("a")?;
    let (proc, anna) = gateway(home.gateway(), &folder).await?;
    let shared = media::folder()?;
    let camcorder = MediaServer::start(home.device("cam")?, &shared, "Camcorder", &folder).await?;
    let tv = Renderer::start(home.device("tv")?, "TV", &folder).await?;
    for name in ["Camcorder", "TV"] {
        let row = anna.device(name).await?;
        anna.admit(&row).await?;
    }
    let mut looks = 0;
    let calm = page_times(&anna, |_| {
        looks += 1;
        looks > 40
    })
    .await?;
    let before = memory_kib(&proc, "VmRSS")?;

    let bad = home.device("bad")?;
    let flood = bad
        .run(program("mantel-flood")?)
        .arg(bad.addr().to_string())
        .args(["--seconds", &SECONDS.to_string()])
        .log(folder.join("flood.log"))
        .spawn()
        .await?;
    println!("{}", flood.wait_line("flooding", LONG).await?);
    let began = Instant::now();
    let late = Renderer::start(home.device("late")?, "Late TV", &folder).await?;
    let late_began = began.elapsed();
    let (mut highest, mut listed) = (before, None);
    let mut times = page_times(&anna, |page| {
        highest = highest.max(memory_kib(&proc, "VmRSS").unwrap_or(0));
        if listed.is_none() && page.contains("Late TV") {
            listed = Some(began.elapsed().saturating_sub(late_began));
        }
        flood.exit().is_some()
    })
    .await?;
    println!("{}", flood.wait_line("sent ", LONG).await?);
    ensure!(flood.wait_exit(LONG).await?.success(), "{}", flood.tail());

    let status = anna.status().await?;
    for name in ["Camcorder", "TV"] {
        ensure!(
            is_on(&status, name),
            "{name} is not listed: {:?}",
            status.devices
        );
    }
    let invented = status
        .devices
        .iter()
        .filter(|row| row.name.starts_with("Fake"))
        .count();
    anna.wait("the late television", LONG, |status| {
        is_on(status, "Late TV").then_some(())
    })
    .await?;
    match listed {
        Some(after) => println!(
            "a television that came {:.1} s into the flood was listed {:.1} s after it answered",
            late_began.as_secs_f32(),
            after.as_secs_f32()
        ),
        None => println!(
            "a television that came {:.1} s into the flood was listed only when the flood was over",
            late_began.as_secs_f32()
        ),
    }
    // Before the log-in below, whose password hash takes 20 MB by itself for a moment.
    highest = highest.max(memory_kib(&proc, "VmRSS")?);
    let admin = anna
        .session()
        .post_form("/admin/login", &[("password", PASSWORD)])
        .await?;
    let page = anna
        .session()
        .get("/admin")
        .await?
        .ok()
        .context(format!("log-in: {}", admin.status))?;
    ensure!(
        page.body.contains("too much"),
        "the admin page is silent: {}",
        page.body
    );
    let noisy = page
        .body
        .split("<span>")
        .find(|part| part.contains("too much"))
        .and_then(|part| part.split('<').next())
        .unwrap_or_default();
    println!("the admin page says: {noisy}");

    let growth = highest.saturating_sub(before);
    times.sort();
    println!(
        "devices page, p50 / p95: {:?} / {:?} before ({} looks), {:?} / {:?} in the flood ({} looks)",
        percentile(&calm, 50),
        percentile(&calm, 95),
        calm.len(),
        percentile(&times, 50),
        percentile(&times, 95),
        times.len()
    );
    println!(
        "memory: {before} KiB before, {highest} KiB at most: {growth} KiB more; {invented} invented devices listed"
    );
    ensure!(growth <= MOST_GROWTH_KIB, "the flood cost {growth} KiB");
    drop((camcorder, tv, late, proc));
    net.done()
}

#[tokio::test]
async fn two_gateways_on_one_network_find_each_other_and_not_themselves() -> Result<()> {
    let net = Net::builder()
        .home("a", &["gwb", "cam"])
        .mode(Mode::Namespaces)
        .up()?;
    let folder = net.folder().to_owned();
    let home = net.home("a")?;
    let (one, anna) = gateway(home.gateway(), &folder).await?;
    let (two, ben) = gateway(home.device("gwb")?, &folder).await?;
    for household in [&anna, &ben] {
        household
            .wait("the other gateway", LONG, |status| {
                status
                    .devices
                    .iter()
                    .any(|row| row.class == "gateway")
                    .then_some(())
            })
            .await?;
        let status = household.status().await?;
        let gateways = status
            .devices
            .iter()
            .filter(|row| row.class == "gateway")
            .count();
        ensure!(gateways == 1, "{:?}", status.devices);
        let page = household.session().get("/devices").await?.ok()?.body;
        ensure!(page.contains("gateway of another home"), "{page}");
    }

    // A decision is taken back by a form.
    let shared = media::folder()?;
    let camcorder = MediaServer::start(home.device("cam")?, &shared, "Camcorder", &folder).await?;
    let row = anna.device("Camcorder").await?;
    anna.admit(&row).await?;
    anna.done("/devices/undo", &[]).await?;
    ensure!(
        anna.device("Camcorder").await?.standing == "new",
        "it was taken back"
    );
    anna.admit(&row).await?;

    // It goes without a word, the gateway is started again: its row is still there.
    drop(camcorder);
    let one = one.restart().await?;
    anna.wait_up().await?;
    let status = until("the pages", LONG, async || anna.status().await.ok()).await?;
    let row = status.devices.iter().find(|row| row.name == "Camcorder");
    let row = row.with_context(|| format!("{:?}", status.devices))?;
    ensure!(row.standing == "admitted" && row.state == "gone", "{row:?}");
    let camcorder = MediaServer::start(home.device("cam")?, &shared, "Camcorder", &folder).await?;
    let back = anna.device("Camcorder").await?;
    ensure!(back.standing == "admitted", "{back:?}");
    drop((camcorder, one, two));
    net.done()
}
