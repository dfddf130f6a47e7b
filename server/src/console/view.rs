//! How figures, times and states are written on the pages.

#![allow(
    clippy::trivially_copy_pass_by_ref,
    clippy::ref_option,
    reason = "templates pass every argument by reference"
)]

use crate::catalog::{TitleMode, TitleRow, TitleState};
use crate::customers::Standing;
use crate::ledger::EntryKind;
use crate::releases::ReleaseRow;
use jiff::Timestamp;
use mantel_protocol::api::OrderState;
use mantel_protocol::ids::CustomerId;
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::MediaKind;
use mantel_protocol::money::Money;
use mantel_protocol::receipt::Path;
use mantel_protocol::restriction::Initiative;
use mantel_protocol::update::Outcome;

/// How many characters of an id or hash a table shows; the rest is in its tooltip.
const SHORT: usize = 8;

/// Bytes for people, in powers of 1,000.
pub(super) fn bytes(count: &u64) -> String {
    mantel_protocol::words::size(*count)
}

/// Bytes, where they are known.
pub(super) fn maybe_bytes(count: &Option<u64>) -> String {
    count
        .as_ref()
        .map_or_else(|| "not reported".to_owned(), bytes)
}

/// Bytes per second; nothing where nothing moves.
pub(super) fn rate(per_second: &u64) -> String {
    if *per_second == 0 {
        "–".to_owned()
    } else {
        format!("{}/s", bytes(per_second))
    }
}

/// How much of a whole is done, in hundredths, rounded down: 100 means all.
pub(super) fn percent(done: &u64, total: &u64) -> u64 {
    if *total == 0 {
        0
    } else {
        (u128::from(*done) * 100 / u128::from(*total)).min(100) as u64
    }
}

/// Date and time, UTC.
pub(super) fn time(at: &Timestamp) -> String {
    at.strftime("%-d %b %Y, %H:%M UTC").to_string()
}

/// Date and time, where there is one.
pub(super) fn maybe_time(at: &Option<Timestamp>) -> String {
    at.as_ref().map_or_else(|| "never yet".to_owned(), time)
}

/// The date alone.
pub(super) fn day(at: &Timestamp) -> String {
    at.strftime("%-d %b %Y").to_string()
}

/// The end of an id, key or hash: the part that differs.
pub(super) fn short(id: &impl std::fmt::Display) -> String {
    let text = id.to_string();
    let from = text
        .char_indices()
        .rev()
        .nth(SHORT - 1)
        .map_or(0, |(at, _)| at);
    format!("…{}", &text[from..])
}

/// Whether an account is in good standing.
pub(super) fn is_active(standing: &Standing) -> bool {
    matches!(standing, Standing::Active)
}

/// What an order's state means to a person.
pub(super) fn state(state: &OrderState) -> &'static str {
    match state {
        OrderState::Held => "Waiting",
        OrderState::Delivering => "Delivering",
        OrderState::Settled => "Delivered",
        OrderState::Cancelled => "Cancelled",
        OrderState::Failed => "Failed",
    }
}

/// The colour of a state.
pub(super) fn state_tone(state: &OrderState) -> &'static str {
    match state {
        OrderState::Held => "warn",
        OrderState::Delivering => "live",
        OrderState::Settled => "good",
        OrderState::Cancelled => "",
        OrderState::Failed => "bad",
    }
}

/// Who started it.
pub(super) fn initiative(initiative: &Initiative) -> &'static str {
    match initiative {
        Initiative::Push => "sent by its owner (push)",
        Initiative::Pull => "ordered (pull)",
    }
}

/// By which way the bytes come.
pub(super) fn path(path: &Option<Path>) -> &'static str {
    match path {
        None => "–",
        Some(Path::Direct) => "direct",
        Some(Path::Relay) => "relay",
    }
}

/// A kind of media.
pub(super) fn kind(kind: &MediaKind) -> &'static str {
    match kind {
        MediaKind::Video => "Video",
        MediaKind::Image => "Picture",
        MediaKind::Audio => "Sound",
        MediaKind::Data => "Other file",
    }
}

/// A price; nothing to pay is a word.
pub(super) fn price(price: &Money) -> String {
    if price.is_zero() {
        "free".to_owned()
    } else {
        price.to_string()
    }
}

/// What came of an update in a home.
pub(super) fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Installed => "Installed",
        Outcome::Failed => "Failed",
    }
}

/// The colour of an outcome.
pub(super) fn outcome_tone(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Installed => "good",
        Outcome::Failed => "bad",
    }
}

/// Whom a release is for.
pub(super) fn rollout(row: &ReleaseRow) -> String {
    let named = match row.named {
        0 => String::new(),
        1 => "1 home by name".to_owned(),
        more => format!("{more} homes by name"),
    };
    match (row.withdrawn, row.percent, named.as_str()) {
        (Some(_), ..) => "withdrawn".to_owned(),
        (None, 0, "") => "nobody yet".to_owned(),
        (None, 0, _) => named,
        (None, 100, _) => "every home".to_owned(),
        (None, percent, "") => format!("{percent} % of all homes"),
        (None, percent, _) => format!("{percent} % of all homes, and {named}"),
    }
}

/// An amount with its sign.
pub(super) fn signed(amount: &Money) -> String {
    if amount.minor > 0 {
        format!("+{amount}")
    } else {
        amount.to_string()
    }
}

/// The style of a signed amount.
pub(super) fn sign(amount: &Money) -> &'static str {
    if amount.minor > 0 { "plus" } else { "minus" }
}

/// What a price buys, in words.
pub(super) fn terms(terms: &Option<Terms>) -> String {
    let Some(terms) = terms else {
        return "–".to_owned();
    };
    let mut parts = Vec::new();
    if let Some(seconds) = terms.start_within_s {
        parts.push(format!("start within {}", span(seconds)));
    }
    if let Some(seconds) = terms.viewing_window_s {
        parts.push(format!("watch for {}", span(seconds)));
    }
    if let Some(plays) = terms.plays {
        parts.push(if plays == 1 {
            "1 play".to_owned()
        } else {
            format!("{plays} plays")
        });
    }
    if parts.is_empty() {
        "to keep".to_owned()
    } else {
        parts.join(", ")
    }
}

fn span(seconds: u32) -> String {
    match seconds {
        s if s >= 3 * 86_400 && s % 86_400 == 0 => format!("{} days", s / 86_400),
        s if s >= 3_600 && s % 3_600 == 0 => format!("{} h", s / 3_600),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

/// How a title is offered.
pub(super) fn offer(row: &TitleRow) -> &'static str {
    match (&row.state, &row.mode) {
        (TitleState::Withdrawn, _) => "Withdrawn",
        (TitleState::Offered, TitleMode::Catalog) => "In the catalog",
        (TitleState::Offered, TitleMode::Private) => "Private share",
    }
}

/// The colour of an offer.
pub(super) fn offer_tone(row: &TitleRow) -> &'static str {
    match (&row.state, &row.mode) {
        (TitleState::Withdrawn, _) => "",
        (TitleState::Offered, TitleMode::Catalog) => "good",
        (TitleState::Offered, TitleMode::Private) => "live",
    }
}

/// Whether it is for the homes named alone.
pub(super) fn is_private(row: &TitleRow) -> bool {
    matches!(row.mode, TitleMode::Private)
}

/// Whether it can be ordered.
pub(super) fn is_offered(row: &TitleRow) -> bool {
    matches!(row.state, TitleState::Offered)
}

/// What a ledger entry is.
pub(super) fn entry(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Credit => "Credit",
        EntryKind::Hold => "Hold",
        EntryKind::Capture => "Payment",
        EntryKind::Release => "Release",
    }
}

/// The colour of a ledger entry.
pub(super) fn entry_tone(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Credit | EntryKind::Capture => "good",
        EntryKind::Hold => "warn",
        EntryKind::Release => "",
    }
}

/// Whether a list's entry is the one chosen.
pub(super) fn chosen(customer: &CustomerId, chosen: &Option<CustomerId>) -> bool {
    chosen.as_ref() == Some(customer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::money::Currency;

    #[test]
    fn figures_are_short_and_true() {
        assert_eq!(bytes(&0), "0 bytes");
        assert_eq!(bytes(&999), "999 bytes");
        assert_eq!(bytes(&1_000), "1.0 kB");
        assert_eq!(bytes(&999_600), "1.0 MB");
        assert_eq!(bytes(&52_428_800), "52 MB");
        assert_eq!(bytes(&u64::MAX), "18446744 TB");
        assert_eq!(percent(&999, &1_000), 99);
        assert_eq!(percent(&u64::MAX, &u64::MAX), 100);
        assert_eq!(percent(&5, &0), 0);
        assert_eq!(short(&"äöü"), "…äöü");
        assert_eq!(short(&"ord_0123456789"), "…23456789");
    }

    #[test]
    fn terms_and_money_in_words() {
        let rental = Terms {
            start_within_s: Some(30 * 86_400),
            viewing_window_s: Some(48 * 3_600),
            plays: None,
        };
        assert_eq!(terms(&Some(rental)), "start within 30 days, watch for 48 h");
        assert_eq!(terms(&Some(Terms::default())), "to keep");
        assert_eq!(signed(&Money::new(250, Currency::EUR)), "+2.50 EUR");
        assert_eq!(price(&Money::new(0, Currency::EUR)), "free");
    }
}
