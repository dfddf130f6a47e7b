//! A real browser: Chromium without a screen, driven through chromedriver.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::http::Session;
use super::net::Place;
use super::process::Proc;
use super::wait::until;

/// How long chromedriver and Chromium may take to start.
const START: Duration = Duration::from_mins(1);
/// The port of chromedriver in a namespace of its own.
const DRIVER_PORT: u16 = 9515;
/// What every PNG begins with (PNG, third edition, §5.2).
const PNG_SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// A browser in a place, with a fresh profile. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    /// The session: for all that the functions here do not cover.
    pub client: Client,
    /// chromedriver, whose end is the browser's end too.
    pub proc: Proc,
    /// Where chromedriver listens.
    url: String,
}

impl Browser {
    /// Starts a browser at `place` with a page of `width` × `height` pixels; its profile and logs go to
    /// `folder`. It accepts self-made certificates, and plays media without being asked.
    pub async fn start(place: &Place, width: u32, height: u32, folder: &Path) -> Result<Self> {
        let home = folder.join(format!("{}-chromium-{}", place.name(), fresh_number()));
        std::fs::create_dir_all(&home).context("creating the browser's folder")?;
        let port = if place.netns().is_some() {
            DRIVER_PORT
        } else {
            free_port(place.addr())?
        };
        let proc = place
            .run("chromedriver")
            .arg(format!("--port={port}"))
            // An empty list means any address: the laboratory comes from its leg on the network.
            .args(["--allowed-ips=", "--allowed-origins=*", "--log-level=INFO"])
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", &home)
            .env("XDG_CACHE_HOME", &home)
            .alone()
            .log(home.join("chromedriver.log"))
            .spawn()
            .await?;
        // chromedriver without a namespace listens on all addresses, so also on the place's own.
        proc.wait_port(port, START).await?;
        let Value::Object(capabilities) = json!({
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": {
                "args": [
                    "--headless=new",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--disable-dev-shm-usage",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-default-apps",
                    "--disable-sync",
                    "--no-default-browser-check",
                    "--no-first-run",
                    "--no-proxy-server",
                    "--mute-audio",
                    "--autoplay-policy=no-user-gesture-required",
                    format!("--user-data-dir={}", home.join("profile").display()),
                    format!("--window-size={width},{height}"),
                ],
            },
        }) else {
            unreachable!("the literal above is an object");
        };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let url = place.url(port);
        let client = tokio::time::timeout(START, builder.connect(&url))
            .await
            .context("waited for the browser to start")
            .and_then(|made| made.context("starting the browser"))
            .with_context(|| format!("the end of chromedriver's log:\n{}", proc.tail()))?;
        let browser = Self { client, proc, url };
        browser.resize(width, height).await?;
        Ok(browser)
    }

    /// Sets the size of the page: the window is larger by its frame and tool bar.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let frame = "return [outerWidth - innerWidth, outerHeight - innerHeight]";
        let frame: [u32; 2] = serde_json::from_value(self.run(frame).await?)
            .context("measuring the window's frame")?;
        self.client
            .set_window_size(width + frame[0], height + frame[1])
            .await
            .context("setting the size of the window")
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.client
            .goto(url)
            .await
            .with_context(|| format!("opening {url} in the browser"))
    }

    /// Runs JavaScript in the page; `return` hands back a value.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.client
            .execute(script, Vec::new())
            .await
            .with_context(|| format!("running in the page: {script}"))
    }

    /// Waits until a JavaScript expression is truthy, and returns its value.
    pub async fn wait_for(&self, expression: &str, deadline: Duration) -> Result<Value> {
        let script = format!("return ({expression})");
        until(&format!("{expression} in the page"), deadline, async || {
            // A page that is being replaced cannot answer; the next one can.
            let value = self.run(&script).await.ok()?;
            let truthy = !matches!(value, Value::Null | Value::Bool(false))
                && value != json!("")
                && value.as_f64() != Some(0.0);
            truthy.then_some(value)
        })
        .await
    }

    /// Writes what the window shows as a PNG.
    pub async fn screenshot(&self, file: &Path) -> Result<()> {
        let png = self
            .client
            .screenshot()
            .await
            .context("taking a screenshot")?;
        ensure!(png.starts_with(&PNG_SIGNATURE), "the screenshot is no PNG");
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        std::fs::write(file, png).with_context(|| format!("writing {}", file.display()))
    }

    /// What the pages complained of since the last call: console messages, exceptions, refusals by the
    /// content security policy, requests that failed. Each with its level and source.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let said = self.driver("se/log", &json!({ "type": "browser" })).await?;
        let entries = said["value"].as_array().context("a list of messages")?;
        let word = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        Ok(entries
            .iter()
            .map(|entry| format!("{} {}", word(entry, "level"), word(entry, "message")))
            .collect())
    }

    /// Calls the Chrome DevTools Protocol: for what WebDriver does not cover, such as colour schemes.
    pub async fn devtools(&self, command: &str, params: Value) -> Result<Value> {
        self.driver(
            "goog/cdp/execute",
            &json!({ "cmd": command, "params": params }),
        )
        .await
    }

    async fn driver(&self, command: &str, body: &Value) -> Result<Value> {
        let session = self
            .client
            .session_id()
            .await
            .context("asking for the session")?;
        let session = session.context("the browser has no session")?;
        let site = Session::new(&self.url)?;
        let answer = site
            .request(
                reqwest::Method::POST,
                &format!("/session/{session}/{command}"),
            )?
            .json(body)
            .send()
            .await
            .with_context(|| format!("asking chromedriver for {command}"))?
            .error_for_status()?;
        answer.json().await.context("reading chromedriver's answer")
    }

    /// Closes it in good order.
    pub async fn close(self) -> Result<()> {
        // chromedriver holds nothing worth keeping: it goes with its process namespace.
        self.client.close().await.context("closing the browser")
    }
}

fn fresh_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn free_port(addr: Ipv4Addr) -> Result<u16> {
    let listener = TcpListener::bind((addr, 0)).context("finding a free port")?;
    Ok(listener.local_addr().context("finding a free port")?.port())
}
