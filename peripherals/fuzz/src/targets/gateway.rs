//! What players, other homes' gateways and the household's broker send to the gateway.

use std::cell::RefCell;

use mantel_peripherals::upnp::wire::soap_request;
use mantel_protocol::chunk::{Answer, Request};
use tokio::runtime::{Builder, Runtime};

use super::{lines, number};
use crate::library::shelf::{Condition, MAX_TERMS};
use crate::media_server::frames::Frames;
use crate::media_server::home_assistant::{Command, Topics};
use crate::media_server::object::Object;
use crate::media_server::soap::Call;
use crate::media_server::{part, search as criteria};

thread_local! {
    /// Of the clock only: nothing here does I/O.
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread().enable_time().build().expect("a runtime without I/O"),
    );
}

/// Frames cut out of a stream; the first byte says how large they may be.
pub fn frames(mut data: &[u8]) {
    let [limit] = number(&mut data);
    let limit = 1 + 16 * usize::from(limit);
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let (mut frames, mut from) = (Frames::new(limit), data);
            while frames.read::<Request, _>(&mut from).await.is_ok() {}
            let (mut frames, mut from) = (Frames::new(limit), data);
            while frames.read::<Answer, _>(&mut from).await.is_ok() {}
        });
    });
}

pub fn soap_call(data: &[u8]) {
    if let Some(call) = Call::parse(data) {
        for name in ["ObjectID", "Filter", "SearchCriteria"] {
            if let Ok(text) = call.text(name) {
                assert!(text.len() <= 8 * 1024);
                let _ = (
                    criteria::parse(text),
                    criteria::sort(text),
                    Object::parse(text),
                );
            }
        }
        let _ = call.number("StartingIndex");
    }
    let plain: String = String::from_utf8_lossy(data)
        .chars()
        .filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        .collect();
    let sent = soap_request("urn:x:1", "Browse", &[("ObjectID", &plain)]);
    let call = Call::parse(sent.as_bytes());
    if plain.len() <= 8 * 1024 {
        let call = call.expect("a call of our own is read");
        assert_eq!(call.text("ObjectID"), Ok(plain.trim()));
    }
}

pub fn search(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(found) = criteria::parse(&text) {
        assert!(
            terms(&found.items) <= 2 * MAX_TERMS,
            "each is a term of the statement"
        );
    }
    let _ = criteria::sort(&text);
}

fn terms(condition: &Condition) -> usize {
    match condition {
        Condition::And(parts) | Condition::Or(parts) => parts.iter().map(terms).sum(),
        _ => 1,
    }
}

pub fn object(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Object::parse(&text) {
        Some(Object::Container(container)) => {
            let id = container.to_string();
            assert_eq!(Object::parse(&id), Some(Object::Container(container)));
            let steps = std::iter::successors(Some(container), |at| at.parent()).count();
            assert!((1..=4).contains(&steps), "every container has a way up");
        }
        Some(Object::Item(Some(container), slot)) => {
            let id = format!("{container}/i{slot}");
            assert_eq!(Object::parse(&id), Object::parse(&text));
        }
        Some(Object::Item(None, slot)) => {
            assert_eq!(Object::parse(&format!("i{slot}")), Object::parse(&text));
        }
        None => {}
    }
}

pub fn range(mut data: &[u8]) {
    let size = u64::from_le_bytes(number(&mut data));
    for size in [size, size % 1000] {
        if let Some((start, end)) = part(&String::from_utf8_lossy(data), size) {
            assert!(start < end && end <= size);
        }
    }
}

pub fn home_assistant(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let [topic, payload] = lines(&text);
    let topics = Topics::new("homeassistant", "mfrggzdfmztwq2lk");
    if let Some((player, command)) = topics.command(topic, payload.as_bytes()) {
        assert!(player.len() == 16 && player.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(!matches!(command, Command::Volume(percent) if percent > 100));
    }
}
