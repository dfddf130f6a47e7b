//! The screen and the keys of a booted appliance, as somebody in front of it has them.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::guest::Guest;

/// What a screen shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    /// Red, green and blue of each point, line by line.
    points: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a PPM file (the kind named P6), which QEMU writes.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file).with_context(|| format!("no {}", file.display()))?;
        let mut words = bytes.splitn(4, u8::is_ascii_whitespace);
        let kind = words.next();
        ensure!(kind == Some(b"P6"), "no PPM: {}", file.display());
        let mut number = || -> Result<usize> {
            let word = std::str::from_utf8(words.next().context("a short picture")?)?;
            word.parse().with_context(|| format!("{word} in a picture"))
        };
        let (width, height) = (number()?, number()?);
        let rest = words.next().context("a picture without points")?;
        let points = rest.strip_prefix(b"255\n").context("other than 8 bits")?;
        let points: Vec<[u8; 3]> = points.as_chunks().0.to_vec();
        ensure!(points.len() == width * height, "a torn picture");
        Ok(Self {
            width,
            height,
            points,
        })
    }

    /// Width and height in points.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// How many different colours it has.
    pub fn colours(&self) -> usize {
        self.points.iter().collect::<HashSet<_>>().len()
    }

    /// The share of points that are `colour`, within 4 of 255 of each part.
    pub fn share(&self, colour: [u8; 3]) -> f64 {
        self.places(colour).len() as f64 / self.points.len() as f64
    }

    /// The middle of all points that are `colour`: across and down. `None` when there are fewer than 100.
    pub fn middle(&self, colour: [u8; 3]) -> Option<(f64, f64)> {
        let places = self.places(colour);
        let count = places.len() as f64;
        let across: usize = places.iter().map(|at| at % self.width).sum();
        let down: usize = places.iter().map(|at| at / self.width).sum();
        (count >= 100.0).then(|| (across as f64 / count, down as f64 / count))
    }

    fn places(&self, colour: [u8; 3]) -> Vec<usize> {
        let like = |point: &[u8; 3]| point.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 4);
        let all = self.points.iter().enumerate();
        all.filter(|(_, point)| like(point))
            .map(|(at, _)| at)
            .collect()
    }
}

impl Guest {
    /// What its screen shows now; `file` (PPM) is kept, and a PNG beside it for people.
    pub async fn screenshot(&self, file: &Path) -> Result<Picture> {
        let png = file.with_extension("png");
        for (file, format) in [(file, "ppm"), (&png, "png")] {
            let words = json!({ "filename": file, "format": format });
            self.command("screendump", words).await?;
        }
        Picture::read(file)
    }

    /// Presses keys of its keyboard at once and lets them go, by QEMU's names: `right`, `ret`, `esc`.
    pub async fn press(&self, keys: &[&str]) -> Result<()> {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| json!({ "type": "qcode", "data": key }))
            .collect();
        let words = json!({ "keys": keys });
        self.command("send-key", words).await.map(drop)
    }
}

/// What the QR code in a picture says, as a phone reads it; `None` when there is none.
pub fn qr_code(picture: &Path) -> Result<Option<String>> {
    let read = Command::new("zbarimg")
        .args(["--quiet", "--raw", "-Sdisable", "-Sqrcode.enable"])
        .arg(picture)
        .output()
        .context("zbarimg is missing (./mantel setup)")?;
    match read.status.code() {
        Some(0) => Ok(Some(String::from_utf8(read.stdout)?.trim().to_owned())),
        // Nothing was found.
        Some(4) => Ok(None),
        _ => bail!("zbarimg: {}", String::from_utf8_lossy(&read.stderr)),
    }
}
