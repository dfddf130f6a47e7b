//! Restrictions (F17): one form for each kind of rule, in plain words.

use super::form::{Fields, refused, wrong};
use super::shell::{Failure, Noticed, Page, Shell, done, missing};
use super::view;
use crate::directory::HomeRow;
use crate::restrictions::RestrictionRow;
use crate::state::Core;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect};
use mantel_protocol::ids::{HomeId, RestrictionId};
use mantel_protocol::manifest::MediaKind;
use mantel_protocol::restriction::{Initiative, Rule, Side};

const SECTION: &str = "/console/restrictions";
/// The longest quota period, hours: a year.
const MAX_PERIOD_H: u32 = 8_784;

#[derive(Template)]
#[template(path = "console/restrictions.html")]
struct RestrictionsPage {
    shell: Shell,
    rows: Vec<RestrictionRow>,
    homes: Vec<HomeRow>,
    kinds: [MediaKind; 4],
}

/// `GET /console/restrictions`.
pub(super) async fn list(
    State(core): State<Core>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let rows = core.restrictions.list().await?;
    let homes = core.directory.homes(None).await?;
    let shell = Shell::new(&core, "Restrictions", SECTION, noticed.notice.as_deref());
    Ok(Page(RestrictionsPage {
        shell,
        rows,
        homes,
        kinds: MediaKind::ALL,
    }))
}

/// `POST /console/restrictions/block`.
pub(super) async fn block(State(core): State<Core>, fields: Fields) -> Result<Redirect, Failure> {
    let (initiative, side) = (initiative(&fields)?, side(&fields)?);
    let rule = Rule::Block {
        peers: fields.each("peers", "a home")?,
        initiative,
        side,
    };
    add(&core, &fields, rule).await
}

/// `POST /console/restrictions/allow`.
pub(super) async fn allow(State(core): State<Core>, fields: Fields) -> Result<Redirect, Failure> {
    let (initiative, side) = (initiative(&fields)?, side(&fields)?);
    let peers: Vec<HomeId> = fields.each("peers", "a home")?;
    if peers.is_empty() {
        return Err(refused(
            "no home is ticked; to forbid all exchange, use “Block exchanges”",
        ));
    }
    add(
        &core,
        &fields,
        Rule::AllowOnly {
            peers,
            initiative,
            side,
        },
    )
    .await
}

/// `POST /console/restrictions/kinds`.
pub(super) async fn kinds(State(core): State<Core>, fields: Fields) -> Result<Redirect, Failure> {
    let allowed: Option<Vec<MediaKind>> = fields.all("kinds").map(MediaKind::from_word).collect();
    let allowed = allowed.ok_or_else(|| wrong("a kind of media"))?;
    if allowed.is_empty() {
        return Err(refused(
            "no kind is ticked; to forbid all exchange, use “Block exchanges”",
        ));
    }
    add(&core, &fields, Rule::Kinds { allowed }).await
}

/// `POST /console/restrictions/size`.
pub(super) async fn size(State(core): State<Core>, fields: Fields) -> Result<Redirect, Failure> {
    let rule = Rule::MaxTitleBytes {
        bytes: amount(&fields)?,
    };
    add(&core, &fields, rule).await
}

/// `POST /console/restrictions/quota`.
pub(super) async fn quota(State(core): State<Core>, fields: Fields) -> Result<Redirect, Failure> {
    let side = side(&fields)?.ok_or_else(|| wrong("whether it receives or sends"))?;
    let period_h: u32 = fields.need("period_h", "the number of hours")?;
    if period_h == 0 || period_h > MAX_PERIOD_H {
        return Err(refused(format!(
            "a quota's period has 1 to {MAX_PERIOD_H} hours"
        )));
    }
    let rule = Rule::Quota {
        side,
        bytes: amount(&fields)?,
        period_h,
    };
    add(&core, &fields, rule).await
}

/// `POST /console/restrictions/{id}/remove`.
pub(super) async fn remove(
    State(core): State<Core>,
    Path(id): Path<String>,
) -> Result<Redirect, Failure> {
    let id: RestrictionId = id.parse().map_err(|_| missing("restriction"))?;
    core.remove_restriction(id).await?;
    Ok(done(SECTION, "unrestricted"))
}

async fn add(core: &Core, fields: &Fields, rule: Rule) -> Result<Redirect, Failure> {
    let home: Option<HomeId> = fields.maybe("home", "the home")?;
    core.add_restriction(home, rule, fields.text("note"))
        .await?;
    Ok(done(SECTION, "restricted"))
}

fn initiative(fields: &Fields) -> Result<Option<Initiative>, Failure> {
    match fields.text("initiative") {
        "" => Ok(None),
        "push" => Ok(Some(Initiative::Push)),
        "pull" => Ok(Some(Initiative::Pull)),
        _ => Err(wrong("who starts it")),
    }
}

fn side(fields: &Fields) -> Result<Option<Side>, Failure> {
    match fields.text("side") {
        "" => Ok(None),
        "sender" => Ok(Some(Side::Sender)),
        "receiver" => Ok(Some(Side::Receiver)),
        _ => Err(wrong("the side")),
    }
}

fn amount(fields: &Fields) -> Result<u64, Failure> {
    let unit: u64 = match fields.text("unit") {
        "gb" => 1_000_000_000,
        "mb" => 1_000_000,
        _ => return Err(wrong("the unit")),
    };
    let count: u32 = fields.need("amount", "the amount (a whole number)")?;
    if count == 0 {
        return Err(refused(
            "the amount cannot be 0; to forbid all exchange, use “Block exchanges”",
        ));
    }
    Ok(u64::from(count) * unit)
}
