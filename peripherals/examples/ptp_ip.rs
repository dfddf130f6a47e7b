//! Lists what a camera on the LAN has by PTP/IP, and reads each file: `cargo run -p mantel-peripherals --example ptp_ip
//! -- 192.168.1.20:15740`. A check of a new camera, and a help for bug reports.

use anyhow::Context;
use futures_util::StreamExt;
use mantel_peripherals::media::{FetchRequest, WalkLimits};
use mantel_peripherals::ptp::{PtpAccess, PtpSource};
use mantel_peripherals::ptp_ip::PtpIpAccess;
use mantel_peripherals::{MediaSource, WalkSummary};

/// Largest file read.
const MAX_BYTES: u64 = 8 << 30;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt::init();
    let address = std::env::args()
        .nth(1)
        .context("address:port of the camera")?;
    let access = PtpAccess::Ip(PtpIpAccess {
        address: address.parse()?,
    });
    let source = MediaSource::Ptp(PtpSource::new("The camera".to_owned(), access));
    let summary = read_all(&source).await?;
    tracing::info!(?summary, "done");
    Ok(())
}

async fn read_all(source: &MediaSource) -> anyhow::Result<WalkSummary> {
    let mut walk = source.walk(WalkLimits::default());
    while let Some(item) = walk.next().await? {
        let Some(resource) = item.original() else {
            continue;
        };
        let fetched = source
            .fetch(resource, FetchRequest::whole(MAX_BYTES))
            .await?;
        let (mut hash, mut bytes) = (blake3::Hasher::new(), 0);
        let mut body = fetched.body;
        while let Some(piece) = body.next().await {
            let piece = piece?;
            bytes += piece.len();
            hash.update(&piece);
        }
        let hash = hash.finalize().to_hex();
        tracing::info!(title = %item.title, mime = %resource.mime, date = ?item.date, bytes, %hash, "read");
    }
    Ok(walk.summary())
}
