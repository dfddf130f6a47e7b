//! The pages at a real browser (F1, F24, F35, F36, F63): headless Chromium in the homes sets a gateway up, orders a film,
//! watches it arrive, plays it on the household's page and, by arrow keys and Enter only, on the television's. No page
//! may complain. What it saw is in `target/mantel-shots`.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{Key, Person, Site, SiteBuilder, Status};
use mantel_tests::lab::{MediaServer, Mode, Net, Renderer};
use mantel_tests::media;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// A computer's window and a television's.
const DESKTOP: (u32, u32) = (1280, 800);
const TELEVISION: (u32, u32) = (1920, 1080);
/// Anna's line while Ben watches a film arrive, Mbit/s.
const LINE_MBIT: u32 = 10;

fn shots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/mantel-shots")
}

/// A site with a third home, `c`, whose gateway is new, and a film of Anna's that Ben can order.
async fn stage() -> Result<(Site, String)> {
    let net = Net::builder()
        .home("a", &["cam"])
        .home("b", &["tv", "pc"])
        .home("c", &["pc"]);
    let site = SiteBuilder::on(net.mode(Mode::Namespaces).up()?)
        .up()
        .await?;
    let clip = site
        .anna
        .add("Big Buck Bunny.mp4", std::fs::read(media::clip()?)?)
        .await?;
    site.anna.offer(&clip.id, "2.50").await?;
    site.operator.credit("Ben", "20.00").await?;
    site.ben.listing(&clip.id).await?;
    Ok((site, clip.id))
}

/// The position of the player on the page, once it is past `least` and goes on.
async fn plays_from(person: &mut Person, least: f64) -> Result<(f64, f64)> {
    let now = format!(
        "document.getElementById('player').currentTime > {least} && document.getElementById('player').currentTime"
    );
    let first = person.see(&now).await?.as_f64().context("a position")?;
    let now = format!(
        "document.getElementById('player').currentTime > {} && document.getElementById('player').currentTime",
        first + 0.5
    );
    let later = person.see(&now).await?.as_f64().context("a position")?;
    Ok((first, later))
}

#[tokio::test]
async fn a_new_gateway_is_set_up_at_the_browser() -> Result<()> {
    let (site, _) = stage().await?;
    let gateway = site.new_gateway("c").await?;
    let place = site.net.home("c")?.device("pc")?;
    let mut carl = Person::at(place, DESKTOP, site.net.folder(), &shots()).await?;
    carl.open(&gateway.url()).await?;
    carl.see("location.pathname === '/setup'").await?;
    carl.shot("setup-1-desktop").await?;
    carl.fill("password", "short").await?;
    carl.fill("again", "short").await?;
    carl.click("form button.primary").await?;
    carl.see("location.pathname === '/setup'").await?;
    carl.fill("password", "a good password").await?;
    carl.fill("again", "a good password").await?;
    carl.click("form button.primary").await?;
    carl.see("location.pathname === '/setup/server'").await?;
    carl.shot("setup-2-desktop").await?;
    carl.fill("link", "https://example.org/no-claim").await?;
    carl.click("form button.primary").await?;
    let said = carl.see("document.querySelector('.notice.bad') && document.querySelector('.notice.bad').innerText").await?;
    println!("a wrong claim link: {said}");
    carl.shot("setup-2-refused-desktop").await?;
    let link = site.operator.new_customer("Carl").await?;
    carl.fill("link", &link).await?;
    carl.fill("home_name", "Carl & family").await?;
    carl.click("form button.primary").await?;
    carl.see("location.pathname === '/'").await?;
    carl.see("document.querySelector('#link-state[data-link=online]')")
        .await?;
    carl.shot("home-empty-desktop").await?;
    for (path, name) in [
        ("/library", "library"),
        ("/devices", "devices"),
        ("/orders", "orders"),
    ] {
        carl.open(&format!("{}{path}", gateway.url())).await?;
        carl.shot(&format!("{name}-empty-desktop")).await?;
    }
    // The refusal above is an answer 4xx, of which the browser tells: so it would tell of others.
    let told = carl
        .leave(&["Failed to load resource: the server responded with a status of 4"])
        .await?;
    ensure!(!told.is_empty(), "the browser did not tell of a refusal");
    drop(gateway);
    site.done().await
}

/// Logs Ben in at his gateway's page.
async fn ben_at_his_computer(site: &Site) -> Result<Person> {
    let place = site.net.home("b")?.device("pc")?;
    let mut ben = Person::at(place, DESKTOP, site.net.folder(), &shots()).await?;
    ben.open(&site.ben.base).await?;
    ben.see("location.pathname === '/login'").await?;
    ben.shot("login-desktop").await?;
    ben.fill("password", &site.ben.password).await?;
    ben.click("form button.primary").await?;
    ben.see("location.pathname === '/'").await?;
    Ok(ben)
}

#[tokio::test]
async fn a_film_is_ordered_watched_arriving_and_played() -> Result<()> {
    let (site, clip) = stage().await?;
    let mut ben = ben_at_his_computer(&site).await?;
    ben.open(&format!("{}/catalog", site.ben.base)).await?;
    ben.shot("catalog-desktop").await?;
    ben.click(&format!("[data-listing-id=\"{clip}\"]")).await?;
    ben.see("document.getElementById('order')").await?;
    ben.shot("order-desktop").await?;
    site.net.limit_rate(site.a.place(), LINE_MBIT)?;
    ben.click("#order").await?;
    ben.see("location.pathname === '/orders'").await?;

    // Live: the bar moves on the same page, which is not loaded again.
    ben.browser.run("window.theSamePage = true").await?;
    let row = format!(
        "document.querySelector('[data-order-direction=\"in\"][data-title-id=\"{clip}\"]')"
    );
    let bar = format!(
        "{row} && {row}.querySelector('progress') && {row}.querySelector('progress').value"
    );
    let first = ben
        .see(&format!("({bar}) > 5 && ({bar})"))
        .await?
        .as_f64()
        .context("a percentage")?;
    ben.shot("orders-under-way-desktop").await?;
    let later = ben
        .see(&format!("({bar}) > {first} && ({bar})"))
        .await?
        .as_f64()
        .context("a percentage")?;
    ben.phone(true).await?;
    ben.shot("orders-under-way-phone").await?;
    ben.phone(false).await?;
    ben.see(&format!(
        "{row}.getAttribute('data-order-ready') === 'true'"
    ))
    .await?;
    let same = ben
        .browser
        .run("return window.theSamePage === true")
        .await?;
    ensure!(same == true, "the page was loaded again");
    println!("orders page: {first} %, then {later} %, then ready, without loading the page again");
    ben.shot("orders-ready-desktop").await?;

    ben.click(&format!(
        "[data-order-direction=\"in\"][data-title-id=\"{clip}\"] a.button"
    ))
    .await?;
    ben.see("document.getElementById('play-here')").await?;
    ben.whole_shot("title-desktop", DESKTOP.0, DESKTOP.1)
        .await?;
    ben.click("#play-here").await?;
    let (first, later) = plays_from(&mut ben, 0.5).await?;
    ben.browser
        .run("document.getElementById('player').currentTime = 30")
        .await?;
    let (sought, on) = plays_from(&mut ben, 30.0).await?;
    ensure!(sought < 36.0, "sought to 30 s, and it is at {sought} s");
    println!("browser: {first:.1} s, {later:.1} s; sought to 30 s: {sought:.1} s, {on:.1} s");
    let size = ben.browser.run("const p = document.getElementById('player'); return [p.videoWidth, p.videoHeight, p.duration]").await?;
    ensure!(size[0] == 1280 && size[1] == 720, "the picture is {size}");
    ben.shot("watch-desktop").await?;
    ben.leave(&[]).await?;
    site.done().await
}

#[tokio::test]
async fn a_television_plays_by_arrow_keys_and_enter() -> Result<()> {
    let (site, clip) = stage().await?;
    for photo in media::photos()? {
        let name = photo
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        site.ben.add(&name, std::fs::read(&photo)?).await?;
    }
    site.ben
        .add("Time to Strike.mp3", std::fs::read(media::song()?)?)
        .await?;
    site.ben.buy(&clip).await?;
    site.ben.wait_ready(&clip, LONG).await?;

    let place = site.net.home("b")?.device("tv")?;
    let mut tv = Person::at(place, TELEVISION, site.net.folder(), &shots()).await?;
    let address = format!("{}/tv", site.ben.base);
    tv.open(&address).await?;
    let code = tv
        .see("document.getElementById('tv-code') && document.getElementById('tv-code').textContent")
        .await?;
    tv.shot("tv-pair").await?;
    let code = code.as_str().context("a code")?;
    site.ben
        .done("/pair", &[("code", code), ("name", "Living room")])
        .await?;
    tv.see("document.activeElement && document.activeElement.classList.contains('tile')")
        .await?;
    tv.shot("tv-browse").await?;
    println!("television: paired with {code}, no key pressed; the focus is on a tile");

    let focused = "document.activeElement && document.activeElement.getAttribute('data-title-id')";
    let mut pressed = Vec::new();
    // Everything that is shown is reached by arrows: down each shelf, along each line.
    'search: for _ in 0..4 {
        for _ in 0..6 {
            if tv.see(focused).await? == clip.as_str() {
                break 'search;
            }
            let before = tv.see(focused).await?;
            tv.press(Key::Right).await?;
            pressed.push(Key::Right);
            if tv.see(focused).await? == before {
                break;
            }
        }
        tv.press(Key::Down).await?;
        pressed.push(Key::Down);
    }
    ensure!(
        tv.see(focused).await? == clip.as_str(),
        "the film is not reached by {pressed:?}"
    );
    tv.press(Key::Enter).await?;
    let (first, later) = plays_from(&mut tv, 0.5).await?;
    tv.shot("tv-watch").await?;
    tv.press(Key::Right).await?;
    tv.press(Key::Right).await?;
    let (sought, on) = plays_from(&mut tv, later + 18.0).await?;
    println!(
        "television: by {pressed:?} and Enter {first:.1} s, {later:.1} s; Right twice: {sought:.1} s, {on:.1} s"
    );
    tv.shot("tv-seek").await?;
    tv.press(Key::Enter).await?;
    tv.see("document.getElementById('player').paused").await?;
    tv.press(Key::Enter).await?;
    tv.see("!document.getElementById('player').paused").await?;
    tv.press(Key::Escape).await?;
    tv.see("location.pathname === '/tv'").await?;
    tv.see(&format!("({focused}) === '{clip}'")).await?;
    println!("television: Enter pauses and goes on, Back leads back to the same tile");

    // A photograph fills the screen.
    let image = "[...document.querySelectorAll('.shelf')].find(s => /photo/i.test(s.querySelector('h2').textContent))";
    tv.see(image).await?;
    tv.browser
        .run(&format!("{image}.querySelector('.tile').focus()"))
        .await?;
    tv.press(Key::Enter).await?;
    tv.see("document.getElementById('player') && document.getElementById('player').naturalWidth > 1000").await?;
    tv.shot("tv-photo").await?;
    tv.leave(&[]).await?;
    site.done().await
}

/// Every page of household and support, with something on it: computer, phone, dark.
#[tokio::test]
async fn every_page_of_a_household_shows_itself_without_complaint() -> Result<()> {
    let (site, clip) = stage().await?;
    let folder = site.net.folder();
    let television =
        Renderer::start(site.net.home("b")?.device("tv")?, "Living room TV", folder).await?;
    let pc = MediaServer::start(
        site.net.home("b")?.device("pc")?,
        &media::folder()?,
        "Study PC",
        folder,
    )
    .await?;
    pc.wait_files(6, LONG).await?;
    let row = site.ben.device("Study PC").await?;
    site.ben.admit(&row).await?;
    site.ben.import_all(&row, 6).await?;
    let row = site.ben.device("Living room TV").await?;
    site.ben.admit(&row).await?;
    let own = site
        .ben
        .status()
        .await?
        .titles
        .into_iter()
        .find(|title| title.kind == "audio");
    let song = own.context("a song")?.id;
    site.ben.offer(&song, "0.99").await?;
    site.ben.buy(&clip).await?;
    site.ben.wait_ready(&clip, LONG).await?;
    site.ben.play_on(&clip, &row).await?;
    let id = row.id.clone();
    site.ben
        .wait("the TV to play", LONG, |status: &Status| {
            status
                .playing
                .iter()
                .find(|now| now.device == id && now.position_s > 0.0)
                .map(drop)
        })
        .await?;

    let mut ben = ben_at_his_computer(&site).await?;
    let pages = [
        ("/", "home"),
        ("/library", "library"),
        (&format!("/library/{song}"), "title-own"),
        (&format!("/library/{clip}"), "title-bought"),
        ("/devices", "devices"),
        ("/homes", "homes"),
        ("/catalog", "catalog-here"),
        ("/orders", "orders-done"),
        ("/pair", "pair"),
    ];
    for (path, name) in pages {
        ben.open(&format!("{}{path}", site.ben.base)).await?;
        ben.whole_shot(&format!("{name}-desktop"), DESKTOP.0, DESKTOP.1)
            .await?;
        ben.phone(true).await?;
        ben.shot(&format!("{name}-phone")).await?;
        let wide = ben
            .browser
            .run("return [document.documentElement.scrollWidth, innerWidth]")
            .await?;
        ensure!(
            wide[0].as_f64() <= wide[1].as_f64(),
            "{path} is wider than a phone: {wide}"
        );
        ben.phone(false).await?;
    }
    ben.dark(true).await?;
    for (path, name) in [
        ("/", "home"),
        ("/library", "library"),
        ("/orders", "orders"),
    ] {
        ben.open(&format!("{}{path}", site.ben.base)).await?;
        ben.shot(&format!("{name}-dark")).await?;
    }
    ben.dark(false).await?;
    ben.open(&format!("{}/admin", site.ben.base)).await?;
    if ben
        .browser
        .run("return !!document.querySelector('[name=password]')")
        .await?
        == true
    {
        ben.shot("admin-login-desktop").await?;
        ben.fill("password", &site.ben.password).await?;
        ben.click("form button.primary").await?;
    }
    for (path, name) in [
        ("/admin", "status"),
        ("/admin/storage", "storage"),
        ("/admin/transfers", "transfers"),
        ("/admin/log", "log"),
        ("/admin/sessions", "sessions"),
    ] {
        ben.open(&format!("{}{path}", site.ben.base)).await?;
        ben.see("document.querySelector('nav.chips')").await?;
        ben.whole_shot(&format!("admin-{name}-desktop"), DESKTOP.0, DESKTOP.1)
            .await?;
    }
    println!(
        "{} household pages, 5 support pages, no complaint",
        pages.len()
    );
    ben.leave(&[]).await?;
    drop((television, pc));
    site.done().await
}

#[tokio::test]
async fn every_page_of_the_console_shows_itself_without_complaint() -> Result<()> {
    let (site, clip) = stage().await?;
    let done = site.ben.buy(&clip).await?;
    site.ben.wait_ready(&clip, LONG).await?;
    let photo = site
        .anna
        .add("Blinds.jpg", std::fs::read(&media::photos()?[0])?)
        .await?;
    let home = site.ben.home().await?;
    site.operator
        .restrict(
            "size",
            &[
                ("home", &home),
                ("amount", "2"),
                ("unit", "gb"),
                ("note", "small disk"),
            ],
        )
        .await?;
    let large: Vec<u8> = media::clip().and_then(|clip| Ok(std::fs::read(clip)?.repeat(3)))?;
    let large = site.anna.add("Three times the same.bin", large).await?;
    site.anna.offer(&large.id, "1.20").await?;
    site.anna.push(&photo.id, &home).await?;
    site.ben.listing(&large.id).await?;
    site.net.limit_rate(site.a.place(), LINE_MBIT)?;
    site.ben.buy(&large.id).await?;

    // The operator sits anywhere on the internet; a home's computer is as good as any.
    let place = site.net.home("b")?.device("pc")?;
    let mut operator = Person::at(place, DESKTOP, site.net.folder(), &shots()).await?;
    let base = site.operator.base().to_owned();
    operator.open(&base).await?;
    operator
        .see("location.pathname === '/console/login'")
        .await?;
    operator.shot("console-login").await?;
    operator.fill("password", &site.ben.password).await?;
    operator.click("form.stack button").await?;
    operator.see("location.pathname === '/console'").await?;
    operator.open(&format!("{base}/console/deliveries")).await?;
    operator
        .see("document.querySelector('progress') && document.querySelector('progress').value > 0")
        .await?;
    operator.shot("console-deliveries-under-way").await?;
    let customer = site.operator.customer("Ben")?;
    let pages = [
        ("", "overview"),
        ("/customers", "customers"),
        (&format!("/customers/{customer}"), "customer"),
        ("/homes", "homes"),
        (&format!("/homes/{home}"), "home"),
        ("/titles", "titles"),
        (&format!("/titles/{clip}"), "title"),
        ("/restrictions", "restrictions"),
        ("/ledger", "ledger"),
        ("/deliveries", "deliveries"),
        (&format!("/deliveries/{done}"), "delivery"),
        ("/settings", "settings"),
    ];
    for (path, name) in pages {
        operator.open(&format!("{base}/console{path}")).await?;
        operator.see("document.querySelector('main h1')").await?;
        operator
            .whole_shot(&format!("console-{name}"), DESKTOP.0, DESKTOP.1)
            .await?;
    }
    operator.phone(true).await?;
    operator
        .open(&format!("{base}/console/customers/{customer}"))
        .await?;
    operator.shot("console-customer-phone").await?;
    operator.phone(false).await?;
    operator.dark(true).await?;
    operator.open(&format!("{base}/console")).await?;
    operator.shot("console-overview-dark").await?;
    operator
        .open(&format!("{base}/console/customers/{customer}"))
        .await?;
    operator.click("form[action$='/codes'] button").await?;
    operator.see("document.querySelector('.qr svg')").await?;
    operator.shot("console-claim-dark").await?;
    println!("{} console pages, no complaint", pages.len());
    operator.leave(&[]).await?;
    site.done().await
}
