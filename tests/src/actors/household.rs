//! A household: what a person does at the pages of a gateway, over HTTP.

use super::status::{Device, Listing, Order, Status, Title};
use crate::lab::{Session, until, until_ok};
use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::Value;
use std::time::Duration;

/// A household logged in at its gateway.
pub struct Household {
    /// What it is called.
    pub name: String,
    /// Where its gateway's pages are.
    pub base: String,
    /// Its password.
    pub password: String,
    session: Session,
}

/// What a gateway answered to a form that asked for JSON.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// The HTTP status.
    pub status: u16,
    /// The whole answer.
    pub body: Value,
}

impl Answer {
    /// The refusal's words for a person.
    pub fn what(&self) -> String {
        self.body["what"].as_str().unwrap_or_default().to_owned()
    }
}

impl Household {
    /// First use of a fresh gateway: waits for its pages and sets the password.
    pub async fn move_in(name: &str, base: &str, password: &str) -> Result<Self> {
        let home = Self::at(name, base, password)?;
        home.wait_up().await?;
        home.session
            .post_form("/setup", &[("password", password), ("again", password)])
            .await?
            .ok()
            .context("setting the household's password")?;
        Ok(home)
    }

    fn at(name: &str, base: &str, password: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            base: base.to_owned(),
            password: password.to_owned(),
            session: Session::new(base)?,
        })
    }

    /// Waits until the gateway answers.
    pub async fn wait_up(&self) -> Result<()> {
        until_ok("the gateway's pages", Duration::from_secs(30), async || {
            self.session.get("/healthz").await?.ok()
        })
        .await
        .map(drop)
    }

    /// The cookie by which the gateway knows this household's browser.
    pub fn cookie(&self) -> Result<String> {
        self.session
            .cookie("mantel_session")
            .context("not logged in")
    }

    /// The pages as this household sees them.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Joins a server by a claim link and waits until it is connected.
    pub async fn enrol(&self, link: &str) -> Result<()> {
        self.session
            .post_form(
                "/setup/server",
                &[("link", link), ("home_name", &self.name)],
            )
            .await?
            .ok()
            .context("connecting to the server")?;
        self.wait_online().await
    }

    /// Waits until the gateway is connected to its server.
    pub async fn wait_online(&self) -> Result<()> {
        self.wait(
            "the connection to the server",
            Duration::from_mins(1),
            |status| (status.link.state == "online").then_some(()),
        )
        .await
    }

    /// Opens the admin area.
    pub async fn open_admin(&self) -> Result<()> {
        let fields = [("password", self.password.as_str())];
        let page = self.session.post_form("/admin/login", &fields).await?;
        page.ok().map(drop)
    }

    /// Says in the admin area, once it is open, that the home lies where it is noon now: a box starts into an update by
    /// itself when it is night there.
    pub async fn live_in_daylight(&self) -> Result<()> {
        let hour = Timestamp::now().to_zoned(TimeZone::UTC).hour();
        // The signs of these zones are those of POSIX: west is plus.
        let zone = format!("Etc/GMT{:+}", hour - 12);
        let fields = [("zone", zone.as_str())];
        let kept = self.session.post_form("/admin/zone", &fields).await?;
        kept.ok().map(drop)
    }

    /// What the gateway says of itself.
    pub async fn status(&self) -> Result<Status> {
        self.session.get("/status.json").await?.ok()?.json()
    }

    /// Waits until the status shows something. A gateway that does not answer for a while is waited for too.
    pub async fn wait<T>(
        &self,
        what: &str,
        deadline: Duration,
        look: impl Fn(&Status) -> Option<T>,
    ) -> Result<T> {
        let found = until(what, deadline, async || look(&self.status().await.ok()?)).await;
        match found {
            Ok(found) => Ok(found),
            Err(error) => Err(error.context(format!("{}: {:?}", self.name, self.status().await))),
        }
    }

    /// Posts a form and takes the JSON answer, whatever it is.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
        let answer = self
            .session
            .request(Method::POST, path)?
            .header(ACCEPT, "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(crate::lab::form_body(fields))
            .send()
            .await?;
        let status = answer.status();
        let text = answer.text().await?;
        let Ok(body) = serde_json::from_str::<Value>(&text) else {
            bail!("{path} answered {status} without JSON: {text:.300}");
        };
        Ok(Answer {
            ok: status.is_success() && body["ok"] == true,
            status: status.as_u16(),
            body,
        })
    }

    /// Posts a form that must succeed.
    pub async fn done(&self, path: &str, fields: &[(&str, &str)]) -> Result<Value> {
        let answer = self.post(path, fields).await?;
        if !answer.ok {
            bail!("{}: {path} was refused: {}", self.name, answer.body);
        }
        Ok(answer.body)
    }

    /// Waits for a device by name.
    pub async fn device(&self, name: &str) -> Result<Device> {
        self.wait(
            &format!("the device {name}"),
            Duration::from_mins(1),
            |status| {
                status
                    .devices
                    .iter()
                    .find(|d| d.name.contains(name) && d.state == "online")
                    .cloned()
            },
        )
        .await
    }

    /// Admits a device.
    pub async fn admit(&self, device: &Device) -> Result<()> {
        self.done(&format!("/devices/{}/admit", percent(&device.id)), &[])
            .await
            .map(drop)
    }

    /// Imports everything from a device and waits until `count` titles are ready.
    pub async fn import_all(&self, device: &Device, count: usize) -> Result<Vec<Title>> {
        self.done(&format!("/devices/{}/import", percent(&device.id)), &[])
            .await?;
        self.wait("the imported titles", Duration::from_mins(3), |status| {
            let ready: Vec<_> = status
                .titles
                .iter()
                .filter(|t| t.own && t.state == "ready")
                .cloned()
                .collect();
            (ready.len() >= count).then_some(ready)
        })
        .await
    }

    /// Uploads a file from the browser and returns its title's id.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> Result<String> {
        // RFC 7578: one part is enough, so the body is written here.
        let boundary = "----mantel-upload-7d1f";
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(&bytes);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let answer = self
            .session
            .request(Method::POST, "/library/upload")?
            .timeout(Duration::from_mins(5))
            .header(ACCEPT, "application/json")
            .header(
                "content-type",
                format!("multipart/form-data; boundary={boundary}"),
            )
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        let body: Value = answer.json().await.context("the answer to an upload")?;
        let location = body["location"].as_str().unwrap_or_default();
        let title = location.trim_start_matches("/library/").to_owned();
        anyhow::ensure!(
            status.is_success() && title.starts_with("ttl_"),
            "upload answered {status}: {body}"
        );
        Ok(title)
    }

    /// Offers a title in the catalog.
    pub async fn offer(&self, title: &str, price: &str) -> Result<()> {
        self.done(
            &format!("/library/{title}/offer"),
            &[("price", price), ("poster", "on")],
        )
        .await
        .map(drop)
    }

    /// Waits until a title may be ordered.
    pub async fn listing(&self, title: &str) -> Result<Listing> {
        self.wait(
            "the title in the catalog",
            Duration::from_mins(1),
            |status| status.listings.iter().find(|l| l.title == title).cloned(),
        )
        .await
    }

    /// Orders a title and returns the order's id.
    pub async fn buy(&self, title: &str) -> Result<String> {
        let answer = self.order(title).await?;
        anyhow::ensure!(
            answer.ok,
            "{}: the order was refused: {}",
            self.name,
            answer.body
        );
        let order = answer.body["order"].as_str();
        order
            .map(str::to_owned)
            .with_context(|| format!("no order in {}", answer.body))
    }

    /// Orders a title; the answer may be a refusal.
    pub async fn order(&self, title: &str) -> Result<Answer> {
        self.post(&format!("/catalog/{title}/order"), &[]).await
    }

    /// Waits until the newest incoming order of a title is as wanted.
    pub async fn wait_order(
        &self,
        title: &str,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Order) -> bool,
    ) -> Result<Order> {
        self.wait(what, deadline, |status| {
            let mut incoming = status
                .orders
                .iter()
                .filter(|o| o.title == title && o.direction == "in");
            incoming.next().filter(|order| wanted(order)).cloned()
        })
        .await
    }

    /// Waits until one incoming order is as wanted.
    pub async fn wait_for_order(
        &self,
        order: &str,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Order) -> bool,
    ) -> Result<Order> {
        self.wait(what, deadline, |status| {
            let mine = status
                .orders
                .iter()
                .find(|o| o.order == order && o.direction == "in");
            mine.filter(|order| wanted(order)).cloned()
        })
        .await
    }

    /// Waits until an ordered title may be played.
    pub async fn wait_ready(&self, title: &str, deadline: Duration) -> Result<Order> {
        self.wait_order(
            title,
            "the title to arrive and be ready",
            deadline,
            |order| order.ready,
        )
        .await
    }

    /// This home's id at the server.
    pub async fn home(&self) -> Result<String> {
        self.status()
            .await?
            .link
            .home
            .with_context(|| format!("{} has no home yet", self.name))
    }

    /// Uses a device's player: `action` is `pause`, `resume`, `stop`, `seek` or `volume`.
    pub async fn player(&self, device: &Device, fields: &[(&str, &str)]) -> Result<()> {
        self.done(&format!("/devices/{}/player", percent(&device.id)), fields)
            .await
            .map(drop)
    }

    /// Uses a jukebox's own queue and library: `action` is `play`, `next`, `pause` …
    pub async fn jukebox(&self, device: &Device, fields: &[(&str, &str)]) -> Result<()> {
        self.done(&format!("/devices/{}/jukebox", percent(&device.id)), fields)
            .await
            .map(drop)
    }

    /// Records from a line-in: `action` is `start` or `stop`.
    pub async fn record(&self, device: &Device, action: &str) -> Result<()> {
        let path = format!("/devices/{}/record", percent(&device.id));
        self.done(&path, &[("action", action)]).await.map(drop)
    }

    /// Begins to import everything from a device.
    pub async fn import(&self, device: &Device) -> Result<()> {
        self.done(&format!("/devices/{}/import", percent(&device.id)), &[])
            .await
            .map(drop)
    }

    /// Presses "Safe to remove" on a device's page.
    pub async fn eject(&self, device: &Device) -> Result<()> {
        let path = format!("/devices/{}/eject", percent(&device.id));
        self.done(&path, &[]).await.map(drop)
    }

    /// Takes a picture with a camera and returns its title's id. A 4K camera on an emulated machine takes its time.
    pub async fn take_picture(&self, device: &Device) -> Result<String> {
        let path = format!("/devices/{}/picture", percent(&device.id));
        let answer = self
            .session
            .request(Method::POST, &path)?
            .timeout(Duration::from_mins(5))
            .header(ACCEPT, "application/json")
            .send()
            .await?;
        let (status, body) = (answer.status(), answer.json::<Value>().await?);
        let title = body["title"].as_str();
        title
            .map(str::to_owned)
            .with_context(|| format!("no picture: {status}: {body}"))
    }

    /// A device's page.
    pub async fn device_page(&self, device: &Device) -> Result<String> {
        let path = format!("/devices/{}", percent(&device.id));
        Ok(self.session.get(&path).await?.ok()?.body)
    }

    /// Shares a title with one home, privately, and sends it there; the answer may be a refusal.
    pub async fn push(&self, title: &str, home: &str) -> Result<Answer> {
        self.post(&format!("/library/{title}/push"), &[("home", home)])
            .await
    }

    /// Removes a title from the library.
    pub async fn remove(&self, title: &str) -> Result<()> {
        self.done(&format!("/library/{title}/remove"), &[])
            .await
            .map(drop)
    }

    /// Uploads a file and waits until the title is in the library, ready.
    pub async fn add(&self, name: &str, bytes: Vec<u8>) -> Result<Title> {
        let id = self.upload(name, bytes).await?;
        self.wait("the uploaded title", Duration::from_mins(3), |status| {
            status
                .titles
                .iter()
                .find(|title| title.id == id && title.state == "ready")
                .cloned()
        })
        .await
    }

    /// Plays a title on a device.
    pub async fn play_on(&self, title: &str, device: &Device) -> Result<()> {
        self.done(&format!("/library/{title}/play"), &[("on", &device.id)])
            .await
            .map(drop)
    }

    /// Opens a title for this browser and returns the media's path.
    pub async fn media_path(&self, title: &str) -> Result<String> {
        let answer = self
            .done(&format!("/library/{title}/play"), &[("on", "here")])
            .await?;
        answer["media"]
            .as_str()
            .map(str::to_owned)
            .context("no media path")
    }

    /// Reads a title's plaintext as the browser gets it.
    pub async fn read_media(&self, title: &str) -> Result<Vec<u8>> {
        let path = self.media_path(title).await?;
        let request = self
            .session
            .request(Method::GET, &path)?
            .timeout(Duration::from_mins(5));
        let answer = request.send().await?.error_for_status()?;
        Ok(answer.bytes().await?.to_vec())
    }
}

/// Percent-encodes one path segment (RFC 3986 §2.1).
fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes all that is written");
        }
        out
    })
}
