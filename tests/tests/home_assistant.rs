//! A gateway at the household's own MQTT broker (mosquitto with a password file), with mosquitto_sub and mosquitto_pub
//! in Home Assistant's place and gmediarender as the TV: announcements, states, commands, the last will, a broker that
//! goes away, TLS. The announcements are held against the keys that Home Assistant documents; Home Assistant itself is
//! not run here.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{GatewayHandle, Household};
use mantel_tests::lab::{Mode, Net, Place, Proc, Renderer, until};
use mantel_tests::media;
use serde_json::Value;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
const PASSWORD: &str = "correct horse battery";
const USER: &str = "mantel";
const SECRET: &str = "a broker's secret";

/// The broker, and one who listens to all it hears.
struct Broker {
    mosquitto: Option<Proc>,
    listener: Option<Proc>,
    place: Place,
    folder: PathBuf,
    config: PathBuf,
    authority: String,
}

impl Broker {
    async fn start(place: &Place, folder: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![place.addr().to_string()])?;
        std::fs::write(folder.join("broker.pem"), made.cert.pem())?;
        std::fs::write(folder.join("broker.key"), made.signing_key.serialize_pem())?;
        let passwords = folder.join("passwords");
        let hashed = place
            .run("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(&passwords)
            .args([USER, SECRET])
            .log(folder.join("passwd.log"));
        ensure!(hashed.spawn().await?.wait_exit(LONG).await?.success());
        let config = folder.join("mosquitto.conf");
        let at = folder.display();
        let text = format!(
            "user root\nper_listener_settings false\nallow_anonymous false\npassword_file {at}/passwords\n\
             listener 1883\nlistener 8883\ncertfile {at}/broker.pem\nkeyfile {at}/broker.key\n"
        );
        std::fs::write(&config, text)?;
        let mut broker = Self {
            mosquitto: None,
            listener: None,
            place: place.clone(),
            folder: folder.to_owned(),
            config,
            authority: made.cert.pem(),
        };
        broker.up().await?;
        Ok(broker)
    }

    async fn up(&mut self) -> Result<()> {
        let mosquitto = self
            .place
            .run("mosquitto")
            .arg("-c")
            .arg(&self.config)
            .log(self.folder.join("mosquitto.log"))
            .spawn()
            .await?;
        mosquitto.wait_port(1883, LONG).await?;
        let host = self.place.addr().to_string();
        let listener = self.place.run("mosquitto_sub");
        let listener = listener
            .args(["-h", &host, "-u", USER, "-P", SECRET, "-v", "-t", "#"])
            .log(self.folder.join("sub.log"))
            .spawn();
        self.listener = Some(listener.await?);
        self.mosquitto = Some(mosquitto);
        Ok(())
    }

    async fn down(&mut self) -> Result<()> {
        for proc in [self.listener.take(), self.mosquitto.take()]
            .into_iter()
            .flatten()
        {
            proc.stop().await?;
        }
        Ok(())
    }

    /// What the broker was told, newest first.
    fn heard(&self) -> Vec<(String, String)> {
        let said = self.listener.as_ref().map(Proc::output).unwrap_or_default();
        let pair = |line: &str| {
            let (topic, payload) = line.split_once(' ').unwrap_or((line, ""));
            (topic.to_owned(), payload.to_owned())
        };
        said.lines().rev().map(pair).collect()
    }

    /// Waits until the newest message of a topic with this end is as wanted.
    async fn wait<T>(&self, end: &str, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        let what = format!("a message of {end}");
        let found = until(&what, LONG, async || {
            let heard = self.heard();
            let (_, payload) = heard.iter().find(|(topic, _)| topic.ends_with(end))?;
            wanted(payload)
        });
        found.await.with_context(|| format!("{:#?}", self.heard()))
    }

    async fn say(&self, topic: &str, payload: &str) -> Result<()> {
        let host = self.place.addr().to_string();
        let said = self
            .place
            .run("mosquitto_pub")
            .log(self.folder.join("pub.log"));
        let said = said.args([
            "-h", &host, "-u", USER, "-P", SECRET, "-t", topic, "-m", payload,
        ]);
        ensure!(said.spawn().await?.wait_exit(LONG).await?.success());
        Ok(())
    }
}

/// What Home Assistant's documentation demands of each platform used, beside `platform` and `unique_id`:
/// <https://www.home-assistant.io/integrations/sensor.mqtt/> and its siblings.
fn check(config: &Value) -> Result<HashMap<String, Value>> {
    ensure!(config["device"]["identifiers"][0].is_string() && config["device"]["name"].is_string());
    ensure!(config["origin"]["name"].is_string());
    let parts = config["components"].as_object().context("components")?;
    for (name, part) in parts {
        let (required, known): (&[&str], &[&str]) = match part["platform"].as_str() {
            Some("sensor") => (
                &["state_topic"],
                &[
                    "value_template",
                    "device_class",
                    "unit_of_measurement",
                    "state_class",
                    "options",
                    "json_attributes_topic",
                    "suggested_unit_of_measurement",
                ],
            ),
            Some("binary_sensor") => (&["state_topic"], &["device_class"]),
            Some("event") => (&["state_topic", "event_types"], &[]),
            Some("button") => (&["command_topic"], &["payload_press"]),
            Some("number") => (
                &["command_topic"],
                &["min", "max", "step", "mode", "unit_of_measurement"],
            ),
            other => anyhow::bail!("{name}: {other:?}"),
        };
        let common = ["platform", "unique_id", "name", "icon", "entity_category"];
        for key in required {
            ensure!(!part[*key].is_null(), "{name} lacks {key}");
        }
        for key in part.as_object().context("a component")?.keys() {
            let key = key.as_str();
            let documented =
                common.contains(&key) || required.contains(&key) || known.contains(&key);
            ensure!(documented, "{name}: {key} is not documented");
        }
    }
    Ok(parts.clone().into_iter().collect())
}

#[tokio::test]
async fn home_assistant_sees_and_plays_and_nothing_more() -> Result<()> {
    let net = Net::builder()
        .home("a", &["tv", "ha"])
        .mode(Mode::Namespaces)
        .up()?;
    let home = net.home("a")?;
    let mut gateway = GatewayHandle::lone(&net, "a", "", None).await?;
    let house = Household::move_in("Anna", &gateway.url(), PASSWORD).await?;
    let tv_program = Renderer::start(home.device("tv")?, "Living room TV", net.folder()).await?;
    let mut broker = Broker::start(home.device("ha")?, net.folder()).await?;
    let clip = house
        .add("Big Buck Bunny.mp4", std::fs::read(media::clip()?)?)
        .await?;
    let tv = house.device("Living room TV").await?;
    house.admit(&tv).await?;
    house
        .done("/admin/login", &[("password", PASSWORD)])
        .await?;

    let host = broker.place.addr().to_string();
    let wrong = house
        .post(
            "/admin/home-assistant",
            &[("host", "no host"), ("port", "1883")],
        )
        .await?;
    ensure!(!wrong.ok, "{:?}", wrong.body);
    let settings = |password: &'static str, port: &'static str, authority: String| {
        vec![
            ("host", host.clone()),
            ("port", port.to_owned()),
            ("user", USER.to_owned()),
            ("password", password.to_owned()),
            ("authority", authority),
        ]
    };
    let set = async |fields: Vec<(&'static str, String)>| {
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        house.done("/admin/home-assistant", &fields).await
    };
    set(settings("wrong", "1883", String::new())).await?;
    until("the refusal on the page", LONG, async || {
        let page = house.session().get("/admin/home-assistant").await.ok()?;
        page.body.contains("is not reached").then_some(())
    })
    .await?;
    set(settings(SECRET, "1883", String::new())).await?;

    // Announcements.
    let json = |payload: &str| serde_json::from_str::<Value>(payload).ok();
    let own = until("the gateway's announcement", LONG, async || {
        let heard = broker.heard();
        let found = heard
            .iter()
            .find(|(_, said)| json(said).is_some_and(|it| it["device"]["model"] == "Gateway"))?;
        Some(found.clone())
    })
    .await?;
    ensure!(
        own.0.starts_with("homeassistant/device/mantel_") && own.0.ends_with("/config"),
        "{}",
        own.0
    );
    let parts = check(&json(&own.1).context("JSON")?)?;
    ensure!(parts.len() == 6, "{:?}", parts.keys());
    let player = until("the TV's announcement", LONG, async || {
        let heard = broker.heard();
        let found = heard.iter().find_map(|(_, said)| {
            json(said).filter(|it| it["device"]["name"] == "Living room TV")
        })?;
        Some(found)
    })
    .await?;
    let buttons = check(&player)?;
    println!("components: {:?} and {:?}", parts.keys(), buttons.keys());
    broker
        .wait("/availability", |said| (said == "online").then_some(()))
        .await?;
    broker
        .wait("/server", |said| (said == "OFF").then_some(()))
        .await?;
    let storage = broker.wait("/storage", json).await?;
    ensure!(
        storage["free"].as_u64() > Some(0) && storage["used"].as_u64() > Some(1_000_000),
        "{storage}"
    );

    // What plays, and commands.
    house.play_on(&clip.id, &tv).await?;
    let state = |wanted: &'static str| {
        move |said: &str| {
            json(said)
                .filter(|it| it["state"] == wanted)
                .map(|it| it["title"].as_str().unwrap_or_default().to_owned())
        }
    };
    let title = broker.wait("/state", state("playing")).await?;
    ensure!(title.contains("Big Buck Bunny"), "{title}");
    let topic = buttons["pause"]["command_topic"]
        .as_str()
        .context("a topic")?;
    for refused in ["DELETE", "pause", "", "{\"title\": 1}"] {
        broker.say(topic, refused).await?;
    }
    broker.say(topic, "PAUSE").await?;
    broker.wait("/state", state("paused")).await?;
    broker.say(topic, "PLAY").await?;
    broker.wait("/state", state("playing")).await?;
    let volume = buttons["volume"]["command_topic"]
        .as_str()
        .context("a topic")?;
    broker.say(volume, "23").await?;
    broker.say(topic, "STOP").await?;
    broker.wait("/state", state("idle")).await?;
    ensure!(house.status().await?.titles.len() == 1);

    // An arrival is an event.
    house
        .add("later.bin", media::noise("later", 100_000))
        .await?;
    let event = broker.wait("/arrived", json).await?;
    ensure!(
        event["event_type"] == "imported" && event["name"] == "later",
        "{event}"
    );

    // A broker that is away disturbs nobody, and is told everything when it is back.
    broker.down().await?;
    house
        .add("meanwhile.bin", media::noise("meanwhile", 100_000))
        .await?;
    broker.up().await?;
    broker.wait("/config", |said| json(said).map(drop)).await?;
    broker
        .wait("/availability", |said| (said == "online").then_some(()))
        .await?;

    // Encrypted, and known by its certificate only.
    let stranger = rcgen::generate_simple_self_signed(vec![host.clone()])?
        .cert
        .pem();
    set(settings("", "8883", stranger)).await?;
    until("a wrong certificate to be refused", LONG, async || {
        let page = house.session().get("/admin/home-assistant").await.ok()?;
        page.body.contains("is not reached").then_some(())
    })
    .await?;
    set(settings("", "8883", broker.authority.clone())).await?;
    until("the encrypted connection", LONG, async || {
        let page = house.session().get("/admin/home-assistant").await.ok()?;
        page.body.contains("Connected: Home").then_some(())
    })
    .await?;
    let secret = SECRET.as_bytes();
    for file in ["gateway.db", "gateway.db-wal"] {
        let stored = std::fs::read(gateway.data.join(file)).unwrap_or_default();
        ensure!(
            !stored.windows(secret.len()).any(|w| w == secret),
            "the broker's password is in {file}"
        );
    }
    broker
        .wait("/availability", |said| (said == "online").then_some(()))
        .await?;
    if let Some(proc) = gateway.proc.take() {
        proc.kill9().await?;
    }
    let gone = until("the last will", LONG, async || {
        let heard = broker.heard();
        heard
            .iter()
            .find(|(topic, said)| {
                topic.matches('/').count() == 2
                    && topic.ends_with("/availability")
                    && said == "offline"
            })
            .cloned()
    });
    println!("after kill -9: {:?}", gone.await?);
    broker.down().await?;
    drop(tv_program);
    net.done()
}
