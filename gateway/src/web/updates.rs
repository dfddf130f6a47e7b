//! What the pages say of the appliance's system and its updates, and the two things that a person may do about them:
//! restart now (`/admin`), and put away the word that an update failed.

use super::Site;
use super::format;
use super::respond::{Done, Posted, Refusal};
use super::session;
use crate::updates::{Shown, ShownUpdate, Stage};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use mantel_protocol::words::size;
use serde_json::{Value, json};
use std::sync::Arc;

/// Something that every page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemNote {
    /// What it is about, for scripts: `safe` or `failed`.
    pub about: &'static str,
    /// The words.
    pub words: String,
    /// Whether a button puts it away.
    pub dismiss: bool,
}

/// Which pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Who looks after the box: told also what the household has put away.
    Admin,
    /// The household, logged in.
    Household,
    /// Anybody on the network, and televisions: nothing to press.
    Anybody,
}

/// What every page says.
pub fn notes(site: &Site, to: Audience) -> Vec<SystemNote> {
    let shown = site.state.updates.shown();
    shown.map_or_else(Vec::new, |shown| notes_of(&shown, to))
}

fn notes_of(shown: &Shown, to: Audience) -> Vec<SystemNote> {
    let mut notes = Vec::new();
    if shown.safe {
        let words = "Safe mode: no version of the system has started well. Everything in this home was kept. Switch the box \
                     off and on again; if this stays, tell your operator.";
        notes.push(SystemNote {
            about: "safe",
            words: words.to_owned(),
            dismiss: false,
        });
    }
    if let Some(failed) = &shown.failed
        && (!failed.dismissed || to == Audience::Admin)
    {
        let which = match failed.version {
            Some(version) => format!("Update {version}"),
            None => "An update".to_owned(),
        };
        notes.push(SystemNote {
            about: "failed",
            words: format!("{which} failed, running {}, nothing lost.", shown.running),
            dismiss: !failed.dismissed && to != Audience::Anybody,
        });
    }
    notes
}

/// The card on `/admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateCard {
    /// What runs.
    pub running: String,
    /// How it is with updates, in a sentence or two.
    pub words: String,
    /// Of a bundle that is being fetched, hundredths.
    pub percent: Option<u64>,
    /// What is wrong.
    pub problem: Option<String>,
    /// Why the last update failed.
    pub failed: Option<String>,
    /// The version whose bundle other homes may fetch from here.
    pub gives: Option<String>,
    /// Whether "Restart now" may be pressed.
    pub may_restart: bool,
}

/// The card on `/admin`; `None`: this is no appliance.
pub fn card(site: &Site) -> Option<UpdateCard> {
    let shown = site.state.updates.shown()?;
    Some(card_of(&shown, site.state.clock.now()))
}

fn card_of(shown: &Shown, now: Timestamp) -> UpdateCard {
    let it = shown.under_way.as_ref();
    let words = match (it, shown.asked) {
        (Some(it), _) => words_of(it),
        (None, Some(asked)) => format!(
            "There is nothing newer for this home. Asked {}.",
            format::ago(asked, now)
        ),
        (None, None) => "The server has not been asked yet.".to_owned(),
    };
    UpdateCard {
        running: shown.running.to_string(),
        words,
        percent: it
            .filter(|it| it.stage == Stage::Fetching)
            .map(|it| it.percent),
        problem: it.and_then(|it| it.problem.clone()),
        failed: shown
            .failed
            .as_ref()
            .map(|failed| failed.words.clone())
            .filter(|words| !words.is_empty()),
        gives: shown.gives.map(|version| version.to_string()),
        may_restart: it.is_some_and(|it| waits_for_restart(it) && !it.restart_wanted),
    }
}

fn waits_for_restart(it: &ShownUpdate) -> bool {
    it.stage == Stage::Installed && !it.proving
}

fn words_of(it: &ShownUpdate) -> String {
    let version = it.version;
    let busy = it
        .busy
        .map_or_else(String::new, |busy| format!(" Now {busy}."));
    match it.stage {
        _ if it.proving => format!("Version {version} runs and is being checked."),
        Stage::Fetching if it.from_homes > 0 => format!(
            "Version {version} is being fetched, {} of it from other homes: {} %",
            size(it.from_homes),
            it.percent
        ),
        Stage::Fetching => format!("Version {version} is being fetched: {} %", it.percent),
        Stage::Ready => {
            format!("Version {version} is ready; it is put in place when nothing plays.{busy}")
        }
        Stage::Installing => format!("Version {version} is being put in place."),
        Stage::Installed if it.restart_wanted => {
            format!("Version {version} is in place; it starts as soon as nothing plays.{busy}")
        }
        Stage::Installed => format!(
            "Version {version} is in place; it starts at night or when you press “Restart now”.{busy}"
        ),
        Stage::Restarting => format!("The box restarts into version {version}.{busy}"),
    }
}

/// The line on the household's first page while a version waits for a restart.
pub fn home_line(site: &Site) -> Option<String> {
    let shown = site.state.updates.shown()?;
    shown
        .under_way
        .as_ref()
        .filter(|it| waits_for_restart(it) || it.stage == Stage::Restarting)
        .map(words_of)
}

/// What changes the pages, for `live`.
pub fn version_of(site: &Site) -> String {
    let Some(shown) = site.state.updates.shown() else {
        return String::new();
    };
    // Progress moves a bar; everything else is fetched again.
    let mut still = (*shown).clone();
    if let Some(it) = &mut still.under_way {
        it.percent = 0;
        it.from_homes = 0;
    }
    format!("{still:?}")
}

/// For `/status.json`.
pub fn status(site: &Site) -> Value {
    let Some(shown) = site.state.updates.shown() else {
        return Value::Null;
    };
    json!({
        "running": shown.running, "safe": shown.safe,
        "under_way": shown.under_way.as_ref().map(|it| json!({
            "version": it.version, "stage": it.stage, "percent": it.percent, "busy": it.busy, "problem": it.problem,
            "restart_wanted": it.restart_wanted, "from_homes": it.from_homes,
        })),
        "failed": shown.failed.as_ref().map(|it| json!({
            "version": it.version, "words": it.words, "dismissed": it.dismissed,
        })),
        "asked": shown.asked.map(|at| at.to_string()),
        "gives": shown.gives,
    })
}

/// `POST /admin/update/restart`
pub async fn restart(State(site): State<Arc<Site>>) -> Posted {
    if !site.state.updates.restart_now().await? {
        return Err(Refusal::new(
            axum::http::StatusCode::CONFLICT,
            "No update waits for a restart.",
            "Nothing was changed.",
        )
        .back("/admin"));
    }
    Ok(Done::to("/admin?done=restart"))
}

/// `POST /update/dismiss`: back to the page on which it was pressed.
pub async fn dismiss(State(site): State<Arc<Site>>, headers: HeaderMap) -> Posted {
    site.state.updates.dismiss().await?;
    let from = headers
        .get(header::REFERER)
        .and_then(|value| value.to_str().ok())
        .and_then(|from| from.parse::<axum::http::Uri>().ok());
    let path = from.as_ref().map_or("/", |from| from.path());
    Ok(Done::to(session::own_path(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::updates::ShownFailure;
    use mantel_protocol::update::Version;

    fn version(text: &str) -> Version {
        text.parse().expect("a version")
    }

    fn shown(stage: Stage) -> Shown {
        Shown {
            running: version("1.0.0"),
            safe: false,
            under_way: Some(ShownUpdate {
                version: version("1.1.0"),
                stage,
                proving: false,
                percent: 34,
                from_homes: 0,
                restart_wanted: false,
                busy: None,
                problem: None,
            }),
            failed: None,
            asked: None,
            gives: None,
        }
    }

    #[test]
    fn each_step_is_told_in_plain_words() {
        let card = |stage| card_of(&shown(stage), Timestamp::UNIX_EPOCH);
        assert_eq!(
            card(Stage::Fetching).words,
            "Version 1.1.0 is being fetched: 34 %"
        );
        assert_eq!(card(Stage::Fetching).percent, Some(34));
        let ready = card(Stage::Ready);
        assert_eq!(
            ready.words,
            "Version 1.1.0 is ready; it is put in place when nothing plays."
        );
        assert!(!ready.may_restart && ready.percent.is_none());
        let in_place = card(Stage::Installed);
        assert!(in_place.may_restart, "{in_place:?}");
        let mut wanted = shown(Stage::Installed);
        let it = wanted.under_way.as_mut().expect("under way");
        (it.restart_wanted, it.busy) = (true, Some("something is playing"));
        let wanted = card_of(&wanted, Timestamp::UNIX_EPOCH);
        assert!(!wanted.may_restart);
        assert_eq!(
            wanted.words,
            "Version 1.1.0 is in place; it starts as soon as nothing plays. Now something is playing."
        );
    }

    #[test]
    fn a_failure_is_told_on_every_page_until_it_was_read() {
        let mut shown = Shown {
            under_way: None,
            ..shown(Stage::Ready)
        };
        assert!(notes_of(&shown, Audience::Household).is_empty());
        shown.failed = Some(ShownFailure {
            version: Some(version("1.2.0")),
            words: "why".into(),
            dismissed: false,
        });
        for to in [Audience::Admin, Audience::Household, Audience::Anybody] {
            let notes = notes_of(&shown, to);
            assert_eq!(
                notes[0].words,
                "Update 1.2.0 failed, running 1.0.0, nothing lost."
            );
            assert_eq!(notes[0].dismiss, to != Audience::Anybody);
        }
        shown.failed.as_mut().expect("failed").dismissed = true;
        assert!(notes_of(&shown, Audience::Household).is_empty());
        assert!(notes_of(&shown, Audience::Anybody).is_empty());
        let admin = notes_of(&shown, Audience::Admin);
        assert!(admin.len() == 1 && !admin[0].dismiss);
        shown.safe = true;
        assert_eq!(notes_of(&shown, Audience::Household)[0].about, "safe");
    }
}
