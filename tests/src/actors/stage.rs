//! A stage for refusals: both homes as the server's API sees them, with one clip offered for money.

use anyhow::{Result, ensure};
use mantel_protocol::api::Problem;
use mantel_protocol::ids::HomeId;
use mantel_protocol::key::{DeviceId, SealKey};

use super::status::Title;
use super::{Intruder, Site, SiteBuilder};
use crate::lab::{Net, Page, Session};
use crate::media;

/// Both homes as the API sees them, with one clip offered for money.
pub struct Stage {
    /// The site.
    pub site: Site,
    /// The server's API.
    pub server: Session,
    /// Anna's gateway as a client of the API.
    pub anna: Intruder,
    /// Ben's gateway as a client of the API.
    pub ben: Intruder,
    /// The clip.
    pub clip: Title,
}

impl Stage {
    /// Raises both homes; Anna offers the clip at this price.
    pub async fn set(net: Net, price: &str) -> Result<Self> {
        let site = SiteBuilder::on(net).up().await?;
        let clip = site
            .anna
            .add("Big Buck Bunny.mp4", std::fs::read(media::clip()?)?)
            .await?;
        site.anna.offer(&clip.id, price).await?;
        site.ben.listing(&clip.id).await?;
        let server = Session::new(site.operator.base())?;
        let anna = Intruder::with_keys_of(&site.a.data)?;
        let ben = Intruder::with_keys_of(&site.b.data)?;
        Ok(Self {
            site,
            server,
            anna,
            ben,
            clip,
        })
    }

    /// Ben's home as a receiver.
    pub async fn ben_receives(&self) -> Result<(HomeId, DeviceId, SealKey)> {
        let home = self.site.ben.home().await?.parse()?;
        Ok((home, self.ben.key.device_id(), self.ben.seal.seal_key()))
    }
}

/// The problem in a refusal.
pub fn refused(page: &Page, what: &str) -> Result<Problem> {
    ensure!(
        page.status.is_client_error(),
        "{what}: the API answered {} {}",
        page.status,
        page.body
    );
    let problem: Problem = page.json()?;
    ensure!(
        !problem.detail.is_empty(),
        "{what}: a refusal without words"
    );
    Ok(problem)
}
