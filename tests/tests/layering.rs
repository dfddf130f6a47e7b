//! Keeps the layering that ARCHITECTURE.md draws: crates and modules may use what lies below them, never what lies
//! above. Reads `Cargo.toml` dependencies and `crate::` paths; a new module must be given its place here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of the project's crates each crate may use.
const CRATES: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("runtime", &["protocol"]),
    ("peripherals", &["runtime"]),
    ("server", &["protocol", "runtime"]),
    ("gateway", &["peripherals", "protocol", "runtime"]),
];

/// The gateway's modules, top first. Modules of one row may not use each other's rows above.
const GATEWAY: &[&[&str]] = &[
    &["app"],
    &["config"],
    &["web"],
    &["media_server", "home_assistant", "updates"],
    &["playback", "uploads"],
    &["exchange"],
    &["rights", "catalog", "recording", "cameras"],
    &["library", "devices", "link"],
    &["attempts", "zone"],
];

/// The server's modules, top first.
const SERVER: &[&[&str]] = &[
    &["app"],
    &["console", "api"],
    &["state"],
    &["orders"],
    &["passes", "vault", "catalog", "restrictions", "releases"],
    &["ledger", "customers", "directory"],
    &["config"],
    &["relay", "bus"],
    &["db", "error", "identity", "limit", "notice"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// The top-level modules that a source text names by `crate::`, also inside `use crate::{a::…, b::…}`. Comments may
/// name what they like.
fn used_modules(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let line = text[..at].matches('\n').count() + 1;
        let before = text[..at].chars().next_back();
        let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let comment = text[line_start..].trim_start().starts_with("//");
        if comment || before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let word = |s: &str| {
            s.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        };
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = true;
            for (offset, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' => item = true,
                    c if item && depth == 1 && c.is_alphabetic() => {
                        found.push((line, word(&list[offset..])));
                        item = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.push((line, word(rest)));
        }
    }
    found
}

fn upward_edges(krate: &str, layers: &[&[&str]]) -> Vec<String> {
    let rank: BTreeMap<&str, usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(rank, row)| row.iter().map(move |m| (*m, rank)))
        .collect();
    let src = root().join(krate).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).expect("below src").to_owned();
        let first = relative
            .components()
            .next()
            .expect("a name")
            .as_os_str()
            .to_string_lossy()
            .into_owned();
        let module = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some(own) = rank.get(module.as_str()) else {
            wrong.push(format!(
                "{krate}/src/{first}: has no place in the layers; give it one"
            ));
            continue;
        };
        for (line, used) in used_modules(&fs::read_to_string(&file).expect("UTF-8 source")) {
            if rank.get(used.as_str()).is_some_and(|theirs| theirs < own) {
                wrong.push(format!(
                    "{krate}/src/{}:{line}: `{module}` uses `{used}` above it",
                    relative.display()
                ));
            }
        }
    }
    wrong
}

#[test]
fn modules_use_only_what_lies_below() {
    let mut wrong = upward_edges("gateway", GATEWAY);
    wrong.extend(upward_edges("server", SERVER));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_use_only_what_lies_below() {
    for (krate, allowed) in CRATES {
        let manifest =
            fs::read_to_string(root().join(krate).join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest
            .split("[dependencies]")
            .nth(1)
            .expect("dependencies");
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies
            .lines()
            .filter_map(|l| l.strip_prefix("mantel-"))
        {
            let used: String = line.chars().take_while(|c| c.is_alphanumeric()).collect();
            assert!(
                allowed.contains(&used.as_str()),
                "{krate} may not use {used}"
            );
        }
    }
}

#[test]
fn the_reader_of_paths_sees_single_and_grouped_uses() {
    let text = "use crate::link::Link;\nuse crate::{rights::{A, B}, web, library::Title};\nlet x = crate::app::start();\nmycrate::no";
    let names: Vec<String> = used_modules(text)
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert_eq!(names, ["link", "rights", "web", "library", "app"]);
}
