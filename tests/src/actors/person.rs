//! A person at a browser: opens pages, fills in forms, presses keys, and notices what pages complain of.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fantoccini::Locator;
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use serde_json::{Value, json};

use crate::lab::{Browser, Place};

/// The longest a page may take to show what is waited for, on a busy machine.
const LONG: Duration = Duration::from_mins(2);

/// A key of a television's remote control (WebDriver §17.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// To the left.
    Left,
    /// To the right.
    Right,
    /// Up.
    Up,
    /// Down.
    Down,
    /// OK.
    Enter,
    /// Back.
    Escape,
}

impl Key {
    fn code(self) -> char {
        match self {
            Self::Left => '\u{e012}',
            Self::Up => '\u{e013}',
            Self::Right => '\u{e014}',
            Self::Down => '\u{e015}',
            Self::Enter => '\u{e007}',
            Self::Escape => '\u{e00c}',
        }
    }
}

/// A person with a browser of their own.
#[derive(Debug)]
pub struct Person {
    /// The browser.
    pub browser: Browser,
    shots: PathBuf,
    complaints: Vec<String>,
}

impl Person {
    /// Sits down at `place` in front of a window of this size; screenshots go to `shots`.
    pub async fn at(
        place: &Place,
        (width, height): (u32, u32),
        logs: &Path,
        shots: &Path,
    ) -> Result<Self> {
        let browser = Browser::start(place, width, height, logs).await?;
        Ok(Self {
            browser,
            shots: shots.to_owned(),
            complaints: Vec::new(),
        })
    }

    /// Shows pages as a phone does, or again as a computer.
    pub async fn phone(&self, held: bool) -> Result<()> {
        let size = json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
        let (command, params) = if held {
            ("Emulation.setDeviceMetricsOverride", size)
        } else {
            ("Emulation.clearDeviceMetricsOverride", json!({}))
        };
        self.browser.devtools(command, params).await.map(drop)
    }

    /// Asks pages for their dark or light colours.
    pub async fn dark(&self, on: bool) -> Result<()> {
        let value = if on { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.browser
            .devtools("Emulation.setEmulatedMedia", features)
            .await
            .map(drop)
    }

    /// Opens a page.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        self.browser.open(url).await?;
        self.listen().await
    }

    /// Types into the visible field of a name.
    pub async fn fill(&self, name: &str, text: &str) -> Result<()> {
        let css = format!("[name=\"{name}\"]:not([type=hidden])");
        let field = self.browser.client.find(Locator::Css(&css)).await;
        let field = field.with_context(|| format!("looking for the field {name}"))?;
        field.clear().await?;
        field
            .send_keys(text)
            .await
            .with_context(|| format!("typing into {name}"))
    }

    /// Clicks on the first element of a CSS selector, once it is there.
    pub async fn click(&mut self, css: &str) -> Result<()> {
        let found = self
            .browser
            .client
            .wait()
            .at_most(LONG)
            .for_element(Locator::Css(css))
            .await;
        found
            .with_context(|| format!("looking for {css}"))?
            .click()
            .await
            .with_context(|| format!("clicking {css}"))?;
        self.listen().await
    }

    /// Presses and releases a key.
    pub async fn press(&self, key: Key) -> Result<()> {
        let press = KeyActions::new("remote".to_owned())
            .then(KeyAction::Down { value: key.code() })
            .then(KeyAction::Up { value: key.code() });
        self.browser
            .client
            .perform_actions(press)
            .await
            .with_context(|| format!("pressing {key:?}"))
    }

    /// Waits until an expression is truthy, and returns its value.
    pub async fn see(&mut self, expression: &str) -> Result<Value> {
        let seen = self.browser.wait_for(expression, LONG).await;
        self.listen().await?;
        match seen {
            Ok(seen) => Ok(seen),
            Err(error) => {
                let text = self
                    .browser
                    .run("return location.href + '\\n' + document.body.innerText")
                    .await;
                self.shot("failure").await?;
                Err(error.context(format!(
                    "complaints: {:?}; the page: {text:?}",
                    self.complaints
                )))
            }
        }
    }

    /// Takes a picture of the window once its pictures are there.
    pub async fn shot(&self, name: &str) -> Result<()> {
        let loaded = "[...document.images].every(i => i.loading === 'lazy' || i.complete)";
        // A picture that never comes is seen on the shot.
        let _ = self.browser.wait_for(loaded, Duration::from_secs(10)).await;
        self.browser
            .screenshot(&self.shots.join(format!("{name}.png")))
            .await
    }

    /// Takes a picture of the whole page, however long.
    pub async fn whole_shot(&self, name: &str, width: u32, height: u32) -> Result<()> {
        let high = self
            .browser
            .run("return document.documentElement.scrollHeight")
            .await?;
        let high = high
            .as_u64()
            .unwrap_or_default()
            .clamp(height.into(), 4_000) as u32;
        self.browser.resize(width, high).await?;
        self.shot(name).await?;
        self.browser.resize(width, height).await
    }

    async fn listen(&mut self) -> Result<()> {
        self.complaints.extend(self.browser.complaints().await?);
        Ok(())
    }

    /// Fails if any page complained of something that `known` does not excuse; closes the browser. Returns what was
    /// excused.
    pub async fn leave(mut self, known: &[&str]) -> Result<Vec<String>> {
        self.listen().await?;
        let excused = |said: &String| known.iter().any(|known| said.contains(known));
        let (good, bad): (Vec<_>, Vec<_>) = self.complaints.into_iter().partition(excused);
        ensure!(bad.is_empty(), "the pages complained: {bad:#?}");
        self.browser.close().await?;
        Ok(good)
    }
}
