//! Nothing is left behind: names of a run, its slot of addresses, and the cleaning up.
//!
//! Three nets under each other: drop of the owner; a signal thread for SIGINT, SIGTERM and SIGHUP;
//! and [`sweep`], which removes what a killed run left. Programs die with their test by
//! `PR_SET_PDEATHSIG` (see `process.rs`).

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::signal::unix::{SignalKind, signal};

/// All names in the kernel begin with this, the process ID, `x` and a number.
const PREFIX: &str = "mt";
/// How many nets can stand on one machine at a time: each has its own slot of addresses.
pub(super) const SLOTS: u8 = 32;
/// Folders of failed runs are kept so long.
const KEEP_FOLDERS: Duration = Duration::from_hours(24);
/// Where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";

/// What this process has to clean up when a signal ends it.
static LIVE: Mutex<Live> = Mutex::new(Live {
    prefixes: BTreeSet::new(),
    groups: BTreeSet::new(),
});

/// Set once a signal is ending this process.
static ENDING: AtomicBool = AtomicBool::new(false);

struct Live {
    prefixes: BTreeSet<String>,
    groups: BTreeSet<u32>,
}

/// The name and the slot of one net; giving it back removes everything of that name.
#[derive(Debug)]
pub(super) struct Claim {
    /// What all names in the kernel begin with.
    pub(super) prefix: String,
    /// The number of the slot of addresses, below [`SLOTS`].
    pub(super) slot: u8,
    /// Holds the slot while open.
    _lock: File,
}

impl Claim {
    /// Takes a fresh name and a free slot, and removes what dead runs left.
    pub(super) fn take() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        watch_signals();
        sweep();
        // Addresses clash only within one network namespace, and its users cannot share locks.
        let here = Path::new("/proc/self/ns/net")
            .metadata()
            .map_or(0, |found| found.ino());
        let user = rustix::process::geteuid().as_raw();
        let folder = std::env::temp_dir().join(format!("mantel-lab-{here}-{user}"));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        for slot in 0..SLOTS {
            let path = folder.join(format!("slot-{slot}"));
            let lock =
                File::create(&path).with_context(|| format!("creating {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    let prefix = format!("{PREFIX}{}x{number}", std::process::id());
                    live(|live| live.prefixes.insert(prefix.clone()));
                    return Ok(Self {
                        prefix,
                        slot,
                        _lock: lock,
                    });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
        }
        bail!("all {SLOTS} slots of addresses are taken; wait for other runs to end")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove(&self.prefix);
        live(|live| live.prefixes.remove(&self.prefix));
    }
}

/// Never returns if a signal is ending this process: what the cleaning up kills is no one's failure.
pub(super) async fn unless_ending() {
    if ENDING.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
}

/// Notes a process group to be killed when a signal ends this process.
pub(super) fn note_group(leader: u32) {
    watch_signals();
    live(|live| live.groups.insert(leader));
}

/// Kills a process group and forgets it.
pub(super) fn kill_group(leader: u32) {
    live(|live| live.groups.remove(&leader));
    if let Some(group) = pid(leader) {
        // An empty group is what we want: "no such process" is success.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Whether a process runs: it exists, and is not a zombie that waits for a parent to reap it.
pub fn is_running(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // proc(5): the state follows the name, which is in parentheses and may hold any character.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// A process ID as the kernel's own type; `None` for 0 and beyond its range.
pub(super) fn pid(raw: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(raw).ok()?)
}

/// Removes all that carries the name of a run that is no longer alive.
fn sweep() {
    let mut dead = BTreeSet::new();
    for name in names_in(Path::new(NETNS)).into_iter().chain(links()) {
        if let Some((owner, prefix)) = parse_name(&name)
            && !is_running(owner)
        {
            dead.insert(prefix.to_owned());
        }
    }
    for prefix in dead {
        remove(&prefix);
    }
    let folder = runs_folder();
    for name in names_in(&folder) {
        let path = folder.join(&name);
        let age = path
            .metadata()
            .and_then(|found| found.modified())
            .ok()
            .and_then(|changed| SystemTime::now().duration_since(changed).ok());
        let orphan = parse_name(&name).is_some_and(|(owner, _)| !is_running(owner));
        if orphan && age.is_some_and(|age| age > KEEP_FOLDERS) {
            // Another run may be removing it at the same time.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Where runs keep their logs and data, one folder each.
pub(super) fn runs_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab")
}

/// Kills all that lives in namespaces whose names begin with `prefix`, then removes those and links.
fn remove(prefix: &str) {
    let own = |name: &String| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let spaces: Vec<_> = names_in(Path::new(NETNS)).into_iter().filter(own).collect();
    for space in &spaces {
        let listed = Command::new("ip").args(["netns", "pids", space]).output();
        let listed = listed.map(|done| done.stdout).unwrap_or_default();
        for line in String::from_utf8_lossy(&listed).lines() {
            if let Some(process) = line.trim().parse().ok().and_then(pid) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(process, Signal::KILL);
            }
        }
    }
    for link in links().into_iter().filter(own) {
        quietly(&["link", "del", &link]);
    }
    for space in &spaces {
        quietly(&["netns", "del", space]);
    }
}

fn quietly(args: &[&str]) {
    // Cleaning up goes on whatever fails: the next run's sweep tries again.
    let _ = Command::new("ip").args(args).output();
}

/// The network interfaces of this process's namespace, from `/proc/net/dev` (proc(5)).
fn links() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Splits `mt<pid>x<n>...` into the owner's process ID and the prefix `mt<pid>x<n>`.
fn parse_name(name: &str) -> Option<(u32, &str)> {
    let rest = name.strip_prefix(PREFIX)?;
    let (owner, tail) = rest.split_once('x')?;
    let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
    let owner: u32 = owner.parse().ok()?;
    (digits > 0).then(|| (owner, &name[..name.len() - tail.len() + digits]))
}

fn live<T>(change: impl FnOnce(&mut Live) -> T) -> T {
    change(&mut LIVE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Starts, once, the thread that cleans up and ends this process upon SIGINT, SIGTERM or SIGHUP.
fn watch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let spawned = std::thread::Builder::new()
            .name("lab-signals".to_owned())
            .spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let Ok(runtime) = runtime else { return };
                let number = runtime.block_on(async {
                    let mut interrupt = signal(SignalKind::interrupt()).ok()?;
                    let mut terminate = signal(SignalKind::terminate()).ok()?;
                    let mut hangup = signal(SignalKind::hangup()).ok()?;
                    Some(tokio::select! {
                        _ = interrupt.recv() => 2,
                        _ = terminate.recv() => 15,
                        _ = hangup.recv() => 1,
                    })
                });
                let Some(number) = number else { return };
                ENDING.store(true, Ordering::SeqCst);
                let (prefixes, groups) =
                    live(|live| (live.prefixes.clone(), std::mem::take(&mut live.groups)));
                for group in groups {
                    kill_group(group);
                }
                for prefix in prefixes {
                    remove(&prefix);
                }
                // The shell's convention for a program that a signal ended.
                std::process::exit(128 + number);
            });
        // Without the thread a signal ends the process as usual, and the next run sweeps.
        drop(spawned);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        assert_eq!(parse_name("mt12x3a-gw"), Some((12, "mt12x3")));
        assert_eq!(parse_name("mt12x30"), Some((12, "mt12x30")));
        assert_eq!(parse_name("mt12x"), None);
        assert_eq!(parse_name("mtprobe12"), None);
        assert_eq!(parse_name("eth0"), None);
    }
}
