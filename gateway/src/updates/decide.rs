//! What is to be done next about updates: a pure function of the stored state and of facts. Every step is written down
//! before it is taken, so that it may be decided anew after a crash at any point.

use mantel_protocol::update::Version;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How often the system is asked to install a version, or a version that is in place is found not to run.
pub const MAX_TRIES: u32 = 3;

/// How far an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Its bundle is being fetched.
    Fetching,
    /// Its bundle is whole and here.
    Ready,
    /// The system was asked to put it in place.
    Installing,
    /// It is in the other slot and starts with the next restart.
    Installed,
    /// The system was asked to restart.
    Restarting,
}

/// The update under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// Which version.
    pub version: Version,
    /// How far it is.
    pub stage: Stage,
    /// Times that the system was asked to install it.
    pub tries: u32,
    /// Whether the household pressed "Restart now".
    pub restart_wanted: bool,
}

/// What the system says of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It is being written.
    Installing,
    /// It is in place.
    Installed,
    /// It was not taken, and why.
    Refused(String),
}

/// What may be done now and not only later: a pause after a failure, or the time of the next question, has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Due {
    /// Asking the server for something newer, and it can be reached.
    pub ask: bool,
    /// Fetching on, and the server can be reached.
    pub fetch: bool,
    /// Asking the system.
    pub request: bool,
    /// Giving up an installation that has begun and does not end.
    pub give_up: bool,
    /// Telling the server an outcome that it does not know, and it can be reached.
    pub report: bool,
}

/// What is so at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The version that runs.
    pub running: Version,
    /// The version from which the system went back.
    pub failed: Option<Version>,
    /// This start of the system has proved good.
    pub good: bool,
    /// Both slots had their tries: the machine stays as it is.
    pub safe: bool,
    /// The bundle is here under its name.
    pub whole: bool,
    /// What the system said since it was asked to install; nothing is left of it after the machine restarts.
    pub said: Option<Said>,
    /// A request of ours lies there, not taken yet.
    pub asked: bool,
    /// Nothing plays, records, is imported or exchanged.
    pub quiet: bool,
    /// It is the time of night for restarts.
    pub night: bool,
    /// What may be done now.
    pub due: Due,
}

/// Why an update failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It started and did not prove good.
    WentBack,
    /// The system did not take it; its words.
    Refused(String),
    /// The system did not answer.
    NoAnswer,
    /// It was put in place and does not run.
    NotStarted,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing now.
    Wait,
    /// Tell the server what it does not know yet.
    Report,
    /// Ask the server for something newer.
    Ask,
    /// Fetch the next piece.
    Fetch,
    /// The bundle is gone: fetch it again.
    FetchAgain,
    /// Ask the system to install.
    Install,
    /// It is in place.
    NoteInPlace,
    /// Install it again after a pause.
    TryAgain,
    /// Ask the system to restart.
    Restart,
    /// It runs.
    NoteInstalled,
    /// It failed.
    NoteFailed(Why),
    /// Something newer runs: forget it.
    Forget,
}

/// The next action.
pub fn decide(under_way: Option<&UnderWay>, facts: &Facts) -> Action {
    if let Some(ended) = under_way.and_then(|it| judge_start(it, facts)) {
        return ended;
    }
    if facts.due.report {
        return Action::Report;
    }
    match under_way {
        // Nothing is taken in safe mode: the system would refuse it.
        _ if facts.safe => Action::Wait,
        None if facts.due.ask => Action::Ask,
        None => Action::Wait,
        Some(it) => go_on(it, facts),
    }
}

/// What the machine's start says of the update.
fn judge_start(it: &UnderWay, facts: &Facts) -> Option<Action> {
    if facts.running == it.version {
        let judged = if facts.good {
            Action::NoteInstalled
        } else {
            Action::Wait
        };
        return Some(judged);
    }
    if facts.running > it.version {
        return Some(Action::Forget);
    }
    (facts.failed == Some(it.version)).then_some(Action::NoteFailed(Why::WentBack))
}

fn go_on(it: &UnderWay, facts: &Facts) -> Action {
    let due = facts.due;
    match it.stage {
        Stage::Fetching | Stage::Ready | Stage::Installed if due.ask => Action::Ask,
        Stage::Fetching if due.fetch => Action::Fetch,
        Stage::Ready if !facts.whole => Action::FetchAgain,
        Stage::Ready if facts.good && facts.quiet && due.request => Action::Install,
        Stage::Fetching | Stage::Ready => Action::Wait,
        Stage::Installing => match &facts.said {
            Some(Said::Installed) => Action::NoteInPlace,
            Some(Said::Refused(words)) => again(it, Why::Refused(words.clone())),
            Some(Said::Installing) if due.give_up => again(it, Why::NoAnswer),
            Some(Said::Installing) => Action::Wait,
            None if facts.asked && !due.give_up => Action::Wait,
            None if !facts.asked && !due.request => Action::Wait,
            None => again(it, Why::NoAnswer),
        },
        Stage::Installed | Stage::Restarting => match &facts.said {
            Some(Said::Refused(words)) => again(it, Why::Refused(words.clone())),
            // The machine restarted, and it is not this version that runs.
            None => again(it, Why::NotStarted),
            Some(Said::Installing) => Action::Wait,
            Some(Said::Installed) => {
                let now = facts.night || it.restart_wanted || it.stage == Stage::Restarting;
                if now && facts.quiet && due.request && !facts.asked {
                    Action::Restart
                } else {
                    Action::Wait
                }
            }
        },
    }
}

fn again(it: &UnderWay, why: Why) -> Action {
    if it.tries < MAX_TRIES {
        Action::TryAgain
    } else {
        Action::NoteFailed(why)
    }
}

/// What the server's answer means for the update under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// Go on as before.
    Keep,
    /// Begin with what is offered, instead of what is under way.
    Take,
    /// What is under way is not offered any more.
    Drop,
}

/// Judges an offer. What is being put in place, or starts, is not disturbed; what is in place and was withdrawn does not
/// start.
pub fn answered(
    under_way: Option<&UnderWay>,
    running: Version,
    failed: &BTreeSet<Version>,
    offered: Option<Version>,
) -> Answered {
    let offered = offered.filter(|version| *version > running && !failed.contains(version));
    match (under_way, offered) {
        (None, None) => Answered::Keep,
        (None, Some(_)) => Answered::Take,
        (Some(it), offered) => match it.stage {
            Stage::Installing | Stage::Restarting => Answered::Keep,
            Stage::Fetching | Stage::Ready | Stage::Installed => match offered {
                Some(version) if version == it.version => Answered::Keep,
                Some(_) => Answered::Take,
                None => Answered::Drop,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().expect("a version")
    }

    /// A quiet evening of a sound machine that runs 1.0.0; everything may be done.
    fn facts() -> Facts {
        Facts {
            running: version("1.0.0"),
            failed: None,
            good: true,
            safe: false,
            whole: true,
            said: None,
            asked: false,
            quiet: true,
            night: false,
            due: Due {
                ask: false,
                fetch: true,
                request: true,
                give_up: false,
                report: false,
            },
        }
    }

    fn at(stage: Stage) -> UnderWay {
        UnderWay {
            version: version("1.1.0"),
            stage,
            tries: 1,
            restart_wanted: false,
        }
    }

    fn all_stages() -> [Stage; 5] {
        [
            Stage::Fetching,
            Stage::Ready,
            Stage::Installing,
            Stage::Installed,
            Stage::Restarting,
        ]
    }

    #[test]
    fn asks_when_due_and_tells_first_what_the_server_does_not_know() {
        let mut facts = facts();
        assert_eq!(decide(None, &facts), Action::Wait);
        facts.due.ask = true;
        assert_eq!(decide(None, &facts), Action::Ask);
        assert_eq!(decide(Some(&at(Stage::Fetching)), &facts), Action::Ask);
        assert_eq!(decide(Some(&at(Stage::Ready)), &facts), Action::Ask);
        facts.due.report = true;
        assert_eq!(decide(None, &facts), Action::Report);
    }

    #[test]
    fn is_put_in_place_only_when_nothing_plays_and_the_start_was_good() {
        let ready = at(Stage::Ready);
        assert_eq!(decide(Some(&ready), &facts()), Action::Install);
        let waits = [
            Facts {
                quiet: false,
                ..facts()
            },
            Facts {
                good: false,
                ..facts()
            },
            Facts {
                due: Due::default(),
                ..facts()
            },
        ];
        for facts in waits {
            assert_eq!(decide(Some(&ready), &facts), Action::Wait, "{facts:?}");
        }
        let gone = Facts {
            whole: false,
            ..facts()
        };
        assert_eq!(decide(Some(&ready), &gone), Action::FetchAgain);
    }

    #[test]
    fn follows_what_the_system_says() {
        let installing = at(Stage::Installing);
        let said = |said| Facts { said, ..facts() };
        assert_eq!(
            decide(Some(&installing), &said(Some(Said::Installing))),
            Action::Wait
        );
        assert_eq!(
            decide(Some(&installing), &said(Some(Said::Installed))),
            Action::NoteInPlace
        );
        let refused = said(Some(Said::Refused("no".into())));
        assert_eq!(decide(Some(&installing), &refused), Action::TryAgain);
        let last = UnderWay {
            tries: MAX_TRIES,
            ..installing.clone()
        };
        assert_eq!(
            decide(Some(&last), &refused),
            Action::NoteFailed(Why::Refused("no".into()))
        );
        let mut endless = said(Some(Said::Installing));
        endless.due.give_up = true;
        assert_eq!(decide(Some(&installing), &endless), Action::TryAgain);
        // The request lies there: the system is slow. It is gone and nothing was said: lost in a crash, asked again.
        let slow = Facts {
            asked: true,
            ..facts()
        };
        assert_eq!(decide(Some(&installing), &slow), Action::Wait);
        let mut dead = slow.clone();
        dead.due.give_up = true;
        assert_eq!(decide(Some(&installing), &dead), Action::TryAgain);
        assert_eq!(decide(Some(&installing), &facts()), Action::TryAgain);
        assert_eq!(
            decide(Some(&last), &facts()),
            Action::NoteFailed(Why::NoAnswer)
        );
    }

    #[test]
    fn restarts_at_night_or_when_told_and_never_into_a_film() {
        let in_place = Facts {
            said: Some(Said::Installed),
            ..facts()
        };
        let waiting = at(Stage::Installed);
        let wanted = UnderWay {
            restart_wanted: true,
            ..waiting.clone()
        };
        let night = Facts {
            night: true,
            ..in_place.clone()
        };
        assert_eq!(decide(Some(&waiting), &in_place), Action::Wait);
        assert_eq!(decide(Some(&waiting), &night), Action::Restart);
        assert_eq!(decide(Some(&wanted), &in_place), Action::Restart);
        for loud in [in_place, night] {
            let loud = Facts {
                quiet: false,
                ..loud
            };
            assert_eq!(decide(Some(&wanted), &loud), Action::Wait, "{loud:?}");
        }
    }

    #[test]
    fn a_restart_that_was_asked_for_is_asked_for_again_only_when_it_was_lost() {
        let restarting = at(Stage::Restarting);
        let in_place = Facts {
            said: Some(Said::Installed),
            ..facts()
        };
        let taken = Facts {
            asked: true,
            ..in_place.clone()
        };
        assert_eq!(decide(Some(&restarting), &taken), Action::Wait);
        assert_eq!(decide(Some(&restarting), &in_place), Action::Restart);
        let early = Facts {
            due: Due::default(),
            ..in_place
        };
        assert_eq!(decide(Some(&restarting), &early), Action::Wait);
    }

    #[test]
    fn the_machines_start_decides() {
        for stage in all_stages() {
            let runs = Facts {
                running: version("1.1.0"),
                ..facts()
            };
            assert_eq!(decide(Some(&at(stage)), &runs), Action::NoteInstalled);
            let unproved = Facts {
                good: false,
                ..runs
            };
            assert_eq!(decide(Some(&at(stage)), &unproved), Action::Wait);
            let newer = Facts {
                running: version("1.2.0"),
                ..facts()
            };
            assert_eq!(decide(Some(&at(stage)), &newer), Action::Forget);
            let back = Facts {
                failed: Some(version("1.1.0")),
                ..facts()
            };
            assert_eq!(
                decide(Some(&at(stage)), &back),
                Action::NoteFailed(Why::WentBack)
            );
            let other = Facts {
                failed: Some(version("1.0.9")),
                ..facts()
            };
            assert_ne!(
                decide(Some(&at(stage)), &other),
                Action::NoteFailed(Why::WentBack)
            );
        }
    }

    #[test]
    fn a_version_that_is_in_place_and_never_runs_is_given_up() {
        let first = at(Stage::Restarting);
        assert_eq!(decide(Some(&first), &facts()), Action::TryAgain);
        let last = UnderWay {
            tries: MAX_TRIES,
            ..first
        };
        assert_eq!(
            decide(Some(&last), &facts()),
            Action::NoteFailed(Why::NotStarted)
        );
    }

    #[test]
    fn nothing_is_fetched_or_put_in_place_in_safe_mode() {
        let mut safe = Facts {
            safe: true,
            ..facts()
        };
        safe.due.ask = true;
        for stage in all_stages() {
            assert_eq!(decide(Some(&at(stage)), &safe), Action::Wait);
        }
        assert_eq!(decide(None, &safe), Action::Wait);
        safe.due.report = true;
        assert_eq!(decide(None, &safe), Action::Report);
    }

    #[test]
    fn an_offer_replaces_what_does_not_start_yet() {
        let none = BTreeSet::new();
        let running = version("1.0.0");
        let offer = |it: Option<&UnderWay>, offered: Option<&str>| {
            answered(it, running, &none, offered.map(version))
        };
        assert_eq!(offer(None, None), Answered::Keep);
        assert_eq!(offer(None, Some("1.1.0")), Answered::Take);
        assert_eq!(offer(None, Some("1.0.0")), Answered::Keep, "not newer");
        for stage in [Stage::Fetching, Stage::Ready, Stage::Installed] {
            assert_eq!(offer(Some(&at(stage)), Some("1.1.0")), Answered::Keep);
            assert_eq!(offer(Some(&at(stage)), Some("1.2.0")), Answered::Take);
            assert_eq!(offer(Some(&at(stage)), None), Answered::Drop, "withdrawn");
        }
        for stage in [Stage::Installing, Stage::Restarting] {
            assert_eq!(offer(Some(&at(stage)), Some("1.2.0")), Answered::Keep);
            assert_eq!(offer(Some(&at(stage)), None), Answered::Keep);
        }
        let failed = BTreeSet::from([version("1.1.0")]);
        let again = answered(None, running, &failed, Some(version("1.1.0")));
        assert_eq!(again, Answered::Keep, "failed here before");
    }
}
