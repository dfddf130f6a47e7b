//! What a capture asks of a UPnP device, and reading it again (see [`crate::capture`]).

use std::net::IpAddr;

use super::didl::parse_listing;
use super::session::{MAX_ANSWER_BYTES, ask};
use super::wire::{Service, ServiceKind, SoapAnswer, parse_soap_answer};
use crate::capture::{Record, told};
use crate::media::Entry;
use crate::xml;

/// Containers opened below the root.
const DEPTH: usize = 4;
/// Entries asked of each.
const ENTRIES: &str = "12";

/// Asks `service` the questions that a report needs.
pub(crate) async fn capture_calls(service: &Service) -> Vec<Record> {
    let instance = ("InstanceID", "0");
    match service.kind {
        ServiceKind::ConnectionManager => vec![one(service, "GetProtocolInfo", &[]).await],
        ServiceKind::AvTransport => {
            let mut records = Vec::new();
            for action in ["GetTransportInfo", "GetPositionInfo", "GetMediaInfo"] {
                records.push(one(service, action, &[instance]).await);
            }
            records
        }
        ServiceKind::RenderingControl => {
            let channel = ("Channel", "Master");
            let mut records = Vec::new();
            for action in ["GetVolume", "GetMute"] {
                records.push(one(service, action, &[instance, channel]).await);
            }
            records
        }
        ServiceKind::ContentDirectory => {
            let mut records = Vec::new();
            for action in [
                "GetSearchCapabilities",
                "GetSortCapabilities",
                "GetSystemUpdateID",
            ] {
                records.push(one(service, action, &[]).await);
            }
            records.extend(listings(service).await);
            records
        }
    }
}

/// The first entries of the root, of its first container, of that one's …
async fn listings(service: &Service) -> Vec<Record> {
    let mut records = Vec::new();
    let mut container = "0".to_owned();
    for _ in 0..DEPTH {
        let arguments = [
            ("ObjectID", container.as_str()),
            ("BrowseFlag", "BrowseDirectChildren"),
            ("Filter", "*"),
            ("StartingIndex", "0"),
            ("RequestedCount", ENTRIES),
            ("SortCriteria", ""),
        ];
        let record = one(service, "Browse", &arguments).await;
        let listing = entries(&record.answer, service.control.host());
        records.push(record);
        let next = listing.into_iter().flatten().find_map(|entry| match entry {
            Entry::Container(container) => Some(container.id.as_str().to_owned()),
            Entry::Item(_) => None,
        });
        match next {
            Some(next) => container = next,
            None => break,
        }
    }
    records
}

async fn one(service: &Service, action: &str, arguments: &[(&str, &str)]) -> Record {
    let words: Vec<String> = arguments
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let what = format!("{}#{action}({})", service.service_type, words.join(", "));
    match ask(service, action, arguments).await {
        Ok(answer) if answer.body.len() as u64 <= MAX_ANSWER_BYTES => {
            Record::new("call", what, &xml::decode(&answer.body))
        }
        Ok(_) => Record::new("failed", what, "too large"),
        Err(error) => Record::new("failed", what, &told(&error)),
    }
}

fn entries(answer: &str, owner: IpAddr) -> Option<Vec<Entry>> {
    let Ok(SoapAnswer::Done(arguments)) = parse_soap_answer(answer.as_bytes(), "Browse") else {
        return None;
    };
    let (_, result) = arguments.iter().find(|(name, _)| name == "Result")?;
    if result.is_empty() {
        return Some(Vec::new());
    }
    parse_listing(result, owner).ok().map(|found| found.entries)
}

/// How many entries a recorded answer to Browse has; `None`: it cannot be read. A refusal has none.
pub(crate) fn replay_browse(answer: &str, owner: Option<IpAddr>) -> Option<u32> {
    if let Ok(SoapAnswer::Fault(_)) = parse_soap_answer(answer.as_bytes(), "Browse") {
        return Some(0);
    }
    entries(answer, owner?).map(|entries| entries.len() as u32)
}
