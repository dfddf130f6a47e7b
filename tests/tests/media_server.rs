//! The gateway as a media server (F26, F63), browsed and played by programs that this project did not write: async-upnp-
//! client (Home Assistant's library), gssdp-discover of gupnp-tools, ffprobe and curl, each on another machine of the home.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mantel_tests::actors::{Household, Site, SiteBuilder};
use mantel_tests::lab::{Mode, Net, Place, Proc, until};
use mantel_tests::media;
use serde_json::Value;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// Rights are judged again within ten seconds.
const JUDGED: Duration = Duration::from_mins(1);

/// Python of the environment that `./mantel` makes.
fn python() -> Result<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin/python");
    ensure!(
        python.exists(),
        "{} is not there; run ./mantel peers",
        python.display()
    );
    Ok(python)
}

/// The control point at `place`; its output goes to a log of its own.
async fn control_point(place: &Place, logs: &Path, name: &str, args: &[&str]) -> Result<Proc> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/control_point.py");
    place
        .run(python()?)
        .arg("-u")
        .arg(script)
        .args(args)
        .log(logs.join(format!("{}-{name}.log", place.name())))
        .spawn()
        .await
}

/// Runs the control point to its end; the JSON lines that it printed. Status 3 is a refusal, said in JSON.
async fn ask(place: &Place, logs: &Path, args: &[&str]) -> Result<Vec<Value>> {
    let run = control_point(place, logs, "ask", args).await?;
    let status = run.wait_exit(LONG).await?;
    ensure!(
        matches!(status.code(), Some(0 | 3)),
        "the control point failed: {}",
        run.tail()
    );
    let lines = run.output();
    let lines = lines
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(lines.collect())
}

/// One JSON answer.
async fn ask_one(place: &Place, logs: &Path, args: &[&str]) -> Result<Value> {
    let mut lines = ask(place, logs, args).await?;
    ensure!(lines.len() == 1, "not one answer: {lines:?}");
    Ok(lines.remove(0))
}

fn texts<'a>(list: &'a Value, name: &str) -> Vec<&'a str> {
    let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
    rows.iter().filter_map(|row| row[name].as_str()).collect()
}

/// What the gateway knows of the player at `place`: its key and standing.
async fn player(home: &Household, place: &Place) -> Result<(String, String)> {
    let address = place.addr().to_string();
    until("the player on the devices page", LONG, async || {
        let status: Value = home.session().get("/status.json").await.ok()?.json().ok()?;
        let row = status["players"]
            .as_array()?
            .iter()
            .find(|row| row["address"] == address.as_str())?
            .clone();
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        Some((text("id")?, text("standing")?))
    })
    .await
}

async fn decide(home: &Household, id: &str, word: &str) -> Result<()> {
    let id = id.replace(':', "%3A");
    home.done(&format!("/devices/players/{id}/{word}"), &[])
        .await
        .map(drop)
}

fn sha256(file: &Path) -> Result<String> {
    use aws_lc_rs::digest::{SHA256, digest};
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(data_encoding::HEXLOWER.encode(digest(&SHA256, &bytes).as_ref()))
}

/// Two homes; the first has a laptop and a telephone, the second a laptop.
async fn site() -> Result<Site> {
    let net = Net::builder()
        .home("a", &["pc", "phone"])
        .home("b", &["pc"])
        .mode(Mode::Namespaces)
        .up()?;
    SiteBuilder::on(net).up().await
}

#[tokio::test]
async fn players_browse_and_play_what_they_were_let_in_to() -> Result<()> {
    let site = site().await?;
    let logs = site.net.folder().to_owned();
    let laptop = site.net.home("a")?.device("pc")?.clone();
    let phone = site.net.home("a")?.device("phone")?.clone();
    let anna = &site.anna;
    let (song, clip) = (media::song()?, media::clip()?);
    let photo = media::photos()?.remove(2);
    for file in [&song, &clip, &photo] {
        let name = file.file_name().context("a name")?.to_string_lossy();
        anna.add(&name, std::fs::read(file)?).await?;
    }
    let location = found_by_search(&site, &laptop, &logs).await?;

    // Nobody was let in: one folder that says so, and no media.
    let before = ask_one(&laptop, &logs, &["tree", &location]).await?;
    let names = texts(&before["containers"], "title");
    ensure!(
        names.len() == 1 && names[0].starts_with("Not let in yet"),
        "a stranger sees {names:?}"
    );
    ensure!(
        texts(&before["items"], "title").is_empty(),
        "a stranger sees titles"
    );
    let hidden = ask_one(&laptop, &logs, &["search", &location, "*"]).await?;
    ensure!(hidden["total"] == 0, "a stranger's search finds {hidden}");
    let (id, standing) = player(anna, &laptop).await?;
    ensure!(standing == "new", "a new player is {standing}");

    decide(anna, &id, "admit").await?;
    let after = ask_one(&laptop, &logs, &["tree", &location]).await?;
    let names = texts(&after["containers"], "title");
    for name in [
        "Music",
        "Artists",
        "Albums",
        "All music",
        "Pictures",
        "All pictures",
        "Videos",
        "All videos",
    ] {
        ensure!(names.contains(&name), "{name} is not among {names:?}");
    }
    ensure!(after["name"] == "Mantel (Anna)", "called {}", after["name"]);
    let urls = plays(
        &laptop,
        &logs,
        &after,
        &[(&song, "MP3"), (&clip, ""), (&photo, "JPEG_LRG")],
    )
    .await?;

    let found = ask_one(
        &laptop,
        &logs,
        &[
            "search",
            &location,
            "upnp:class derivedfrom \"object.item.videoItem\" and dc:title contains \"buck\"",
        ],
    )
    .await?;
    ensure!(found["total"] == 1, "the search found {found}");
    let refused = ask_one(
        &laptop,
        &logs,
        &["search", &location, "dc:title near \"x\""],
    )
    .await?;
    ensure!(
        refused["refused"] == 708,
        "a bad search was answered {refused}"
    );
    let gone = ask_one(&laptop, &logs, &["page", &location, "album.999", "0", "5"]).await?;
    ensure!(
        gone["refused"] == 701,
        "a missing album was answered {gone}"
    );

    // What one player was given works for nobody else.
    let stolen = ask_one(&phone, &logs, &["fetch", &urls[0]]).await?;
    ensure!(stolen["status"] == 404, "another player got {stolen}");

    told_of_changes(anna, &laptop, &logs, &location).await?;

    decide(anna, &id, "ignore").await?;
    let refused = ask_one(&laptop, &logs, &["page", &location, "0", "0", "5"]).await?;
    ensure!(
        refused["refused"] == 606,
        "an ignored player was answered {refused}"
    );
    for answer in ask(
        &laptop,
        &logs,
        &[
            &["fetch"],
            &urls.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ]
        .concat(),
    )
    .await?
    {
        ensure!(answer["status"] == 403, "an ignored player got {answer}");
    }

    anna.done("/devices/media-server", &[("on", "no")]).await?;
    let off = ask(&laptop, &logs, &["find", &laptop.addr().to_string()]).await?;
    ensure!(off.is_empty(), "switched off, it is found: {off:?}");
    anna.done("/devices/media-server", &[("on", "yes")]).await?;
    found_by_search(&site, &laptop, &logs).await?;
    site.done().await
}

/// Found by two programs; the address of its description.
async fn found_by_search(site: &Site, laptop: &Place, logs: &Path) -> Result<String> {
    let here = site.a.place().addr().to_string();
    let own = laptop.addr().to_string();
    let location = until("an answer to a search", LONG, async || {
        let found = ask(laptop, logs, &["find", &own]).await.ok()?;
        let at = found.iter().find_map(|row| row["location"].as_str())?;
        at.contains(&here).then(|| at.to_owned())
    })
    .await?;
    let gssdp = laptop
        .run("gssdp-discover")
        .args(["-i", laptop.interface(), "-n", "3", "-t"])
        .arg("urn:schemas-upnp-org:service:ContentDirectory:1")
        .log(logs.join("gssdp.log"))
        .spawn()
        .await?;
    gssdp.wait_exit(LONG).await?;
    let said = gssdp.output();
    ensure!(
        said.contains(&location),
        "gssdp-discover found only: {said}"
    );
    Ok(location)
}

/// Each file's address from the listing gives its bytes, with DLNA's headers; ffprobe reads it there. The addresses.
async fn plays(
    laptop: &Place,
    logs: &Path,
    tree: &Value,
    files: &[(&PathBuf, &str)],
) -> Result<Vec<String>> {
    let items = tree["items"].as_array().context("items")?;
    let mut urls = Vec::new();
    for (file, profile) in files {
        let stem = file.file_stem().context("a name")?.to_string_lossy();
        let item = items
            .iter()
            .find(|item| item["title"] == stem.as_ref())
            .with_context(|| format!("{stem} is not listed: {items:?}"))?;
        let resource = &item["resources"][0];
        let size = std::fs::metadata(file)?.len();
        let told = resource["size"].as_u64();
        let told = told.or_else(|| resource["size"].as_str()?.parse().ok());
        ensure!(told == Some(size), "{stem}: {resource}");
        let protocol = resource["protocol"].as_str().unwrap_or_default();
        ensure!(
            profile.is_empty() || protocol.contains(&format!("DLNA.ORG_PN={profile}")),
            "{stem} is told as {protocol}"
        );
        let url = resource["url"].as_str().context("an address")?;
        let got = ask_one(laptop, logs, &["fetch", url]).await?;
        ensure!(
            got["status"] == 200 && got["sha256"] == sha256(file)?.as_str(),
            "{stem}: {got}"
        );
        let features = got["headers"]["contentfeatures.dlna.org"]
            .as_str()
            .unwrap_or_default();
        ensure!(features.contains("DLNA.ORG_OP=01"), "{stem}: {got}");
        let probe = laptop
            .run("ffprobe")
            .args([
                "-v",
                "error",
                "-show_entries",
                "format=format_name,size",
                "-of",
                "csv=p=0",
                url,
            ])
            .log(logs.join("ffprobe.log"))
            .spawn()
            .await?;
        let status = probe.wait_exit(LONG).await?;
        ensure!(status.success(), "ffprobe: {}", probe.tail());
        println!(
            "{stem}: {} bytes, hash as the original; ffprobe: {}",
            size,
            probe.output().trim()
        );
        urls.push(url.to_owned());
        if let Some(picture) = item["album_art_uri"].as_str() {
            let got = ask_one(laptop, logs, &["fetch", picture]).await?;
            ensure!(
                got["headers"]["content-type"] == "image/jpeg",
                "{stem}: {got}"
            );
        }
    }
    Ok(urls)
}

/// A subscriber hears of a new title.
async fn told_of_changes(
    anna: &Household,
    laptop: &Place,
    logs: &Path,
    location: &str,
) -> Result<()> {
    let own = laptop.addr().to_string();
    let watch = control_point(laptop, logs, "watch", &["watch", location, &own]).await?;
    watch.wait_line("\"subscribed\": true", LONG).await?;
    let updates = |text: &str| -> Vec<u64> {
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|line| line["changed"]["SystemUpdateID"].as_str()?.parse().ok())
            .collect()
    };
    watch
        .wait_while_alive("the first event", LONG, async || {
            (!updates(&watch.output()).is_empty()).then_some(())
        })
        .await?;
    let photo = media::photos()?.remove(0);
    anna.add("Another.jpg", std::fs::read(photo)?).await?;
    watch
        .wait_while_alive("an event about the new title", LONG, async || {
            let heard = updates(&watch.output());
            (heard.last() > heard.first()).then_some(())
        })
        .await?;
    ensure!(
        watch.output().contains("pictures,"),
        "no container: {}",
        watch.tail()
    );
    Ok(())
}

#[tokio::test]
async fn a_title_from_another_home_is_listed_while_its_license_holds() -> Result<()> {
    let site = site().await?;
    let logs = site.net.folder().to_owned();
    let clip = media::clip()?;
    let title = site
        .anna
        .add("Big Buck Bunny.mp4", std::fs::read(&clip)?)
        .await?;
    let offer = format!("/library/{}/offer", title.id);
    site.anna
        .done(&offer, &[("price", "2.50"), ("plays", "1")])
        .await?;
    site.operator.credit("Ben", "20.00").await?;
    site.ben.listing(&title.id).await?;
    site.ben.buy(&title.id).await?;
    site.ben.wait_ready(&title.id, LONG).await?;

    let laptop = site.net.home("b")?.device("pc")?.clone();
    let location = format!("{}/upnp/device.xml", site.b.url());
    ask_one(&laptop, &logs, &["page", &location, "0", "0", "5"]).await?;
    let (id, _) = player(&site.ben, &laptop).await?;
    decide(&site.ben, &id, "admit").await?;
    let listed = until(
        "the title among those from other homes",
        JUDGED,
        async || {
            let tree = ask_one(&laptop, &logs, &["tree", &location]).await.ok()?;
            let items = tree["items"].as_array()?.clone();
            (!items.is_empty()).then_some((tree, items))
        },
    );
    let (tree, items) = listed.await?;
    let names = texts(&tree["containers"], "title");
    ensure!(
        names.contains(&"From other homes") && names.contains(&"Anna"),
        "the containers are {names:?}"
    );
    let url = items[0]["resources"][0]["url"]
        .as_str()
        .context("an address")?;
    let got = ask_one(&laptop, &logs, &["fetch", url]).await?;
    ensure!(
        got["sha256"] == sha256(&clip)?.as_str(),
        "the clip came as {got}"
    );
    // That was the one play: the same address goes on, a new viewing does not begin.
    let again = ask_one(&laptop, &logs, &["fetch", url]).await?;
    ensure!(
        again["status"] == 200,
        "the viewing under way was ended: {again}"
    );
    until("the title to leave the lists", JUDGED, async || {
        let tree = ask_one(&laptop, &logs, &["tree", &location]).await.ok()?;
        tree["items"].as_array()?.is_empty().then_some(())
    })
    .await?;
    let pages = site
        .ben
        .post(&format!("/library/{}/play", title.id), &[("on", "here")])
        .await?;
    if pages.ok {
        bail!(
            "the license's only play was used, and it plays again: {:?}",
            pages.body
        );
    }
    println!(
        "one play licensed, one counted, then off the lists: {}",
        pages.what()
    );
    site.done().await
}
