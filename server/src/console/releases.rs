//! Updates of the appliances: the versions that are here, a new one from the browser, whom each is for, what came of it.

use super::form::{Fields, refused, wrong};
use super::shell::{Failure, Noticed, Page, Shell, done, missing};
use super::view;
use crate::directory::HomeRow;
use crate::releases::rollout::Rollout;
use crate::releases::{ReleaseRow, ReleaseView};
use crate::state::Core;
use askama::Template;
use axum::extract::{Multipart, Path, Query, State};
use axum::response::{IntoResponse, Redirect};
use mantel_protocol::update::{MAX_BUNDLE_BYTES, Version};

const SECTION: &str = "/console/updates";
/// The longest version text in a form, characters: three numbers of ten digits.
const MAX_VERSION_CHARS: usize = 32;

#[derive(Template)]
#[template(path = "console/updates.html")]
struct ReleasesPage {
    shell: Shell,
    rows: Vec<ReleaseRow>,
    largest: u64,
}

#[derive(Template)]
#[template(path = "console/update.html")]
struct ReleasePage {
    shell: Shell,
    release: ReleaseView,
    homes: Vec<HomeRow>,
}

/// `GET /console/updates`.
pub(super) async fn list(
    State(core): State<Core>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let rows = core.releases.list().await?;
    let shell = Shell::new(&core, "Updates", SECTION, noticed.notice.as_deref());
    Ok(Page(ReleasesPage {
        shell,
        rows,
        largest: MAX_BUNDLE_BYTES,
    }))
}

/// `POST /console/updates`: a version and its bundle, in this order; the bundle goes to disk as it comes.
pub(super) async fn upload(
    State(core): State<Core>,
    mut form: Multipart,
) -> Result<Redirect, Failure> {
    let mut version: Option<Version> = None;
    while let Some(mut field) = form.next_field().await.map_err(|_| cut_off())? {
        match (field.name(), version) {
            (Some("version"), _) => version = Some(read_version(&mut field).await?),
            (Some("bundle"), None) => return Err(wrong("the version")),
            (Some("bundle"), Some(version)) => {
                let mut upload = core.releases.begin(version).await?;
                while let Some(bytes) = field.chunk().await.map_err(|_| cut_off())? {
                    upload.write(bytes).await?;
                }
                let version = core.releases.keep(upload).await?;
                return Ok(done(&format!("{SECTION}/{version}"), "bundle"));
            }
            _ => {}
        }
    }
    Err(wrong("the bundle"))
}

async fn read_version(field: &mut axum::extract::multipart::Field<'_>) -> Result<Version, Failure> {
    let mut text = Vec::new();
    while let Some(bytes) = field.chunk().await.map_err(|_| cut_off())? {
        text.extend_from_slice(&bytes);
        if text.len() > MAX_VERSION_CHARS {
            break;
        }
    }
    let version = String::from_utf8_lossy(&text).trim().parse();
    version.map_err(|error: mantel_protocol::update::NoVersion| refused(error.to_string()))
}

fn cut_off() -> Failure {
    refused("the bundle did not arrive whole; nothing was kept of it")
}

/// `GET /console/updates/{version}`.
pub(super) async fn page(
    State(core): State<Core>,
    Path(version): Path<String>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let version = parse(&version)?;
    let view = core.releases.find(version).await?;
    let view = view.ok_or_else(|| missing("version"))?;
    let homes = core.directory.homes(None).await?;
    let title = format!("Version {version}");
    Ok(Page(ReleasePage {
        shell: Shell::new(&core, title, SECTION, noticed.notice.as_deref()),
        release: view,
        homes,
    }))
}

/// `POST /console/updates/{version}/rollout`.
pub(super) async fn set_rollout(
    State(core): State<Core>,
    Path(version): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let version = parse(&version)?;
    let percent: u8 = fields.need("percent", "the percentage (a whole number from 0 to 100)")?;
    let homes = fields.each("homes", "a home")?.into_iter().collect();
    let rollout = Rollout {
        version,
        percent,
        homes,
    };
    core.releases.set_rollout(rollout).await?;
    Ok(done(&format!("{SECTION}/{version}"), "rollout"))
}

/// `POST /console/updates/{version}/withdraw`.
pub(super) async fn withdraw(
    State(core): State<Core>,
    Path(version): Path<String>,
) -> Result<Redirect, Failure> {
    let version = parse(&version)?;
    core.releases.withdraw(version).await?;
    Ok(done(&format!("{SECTION}/{version}"), "release-withdrawn"))
}

fn parse(version: &str) -> Result<Version, Failure> {
    version.parse().map_err(|_| missing("version"))
}
