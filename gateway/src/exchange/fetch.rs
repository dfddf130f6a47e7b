//! Decides how one blob is fetched (F22, F30, F45): a pure state machine without I/O and without a clock.
//!
//! Events and the time go in, actions come out; `receive.rs` performs them. One blob may come from several sources, each
//! with grants of its own (today's server names one). For each source:
//!
//! ```text
//!            ┌────────────── wait (backoff) ◀────────────────────────────┐
//!            ▼                                                           │ lost, refused, wrong bytes
//!   Resting ──▶ Asking ──granted──▶ Dialling direct ──failed──▶ Dialling relay
//!      ▲          │ never again            │ open                  │ open
//!      │          ▼                        ▼                       ▼
//!      │         Over                     Open: portions of 4 MiB are wanted, four ahead
//!      └── grant about to end, or lost ◀───┘
//! ```
//! One invariant: a chunk counts as arrived once, when it is verified and written; until then it is wanted from at most
//! one source at a time. A grant serves one open connection: what a lost connection had under way may have used the
//! grant up, so the rest is asked for with a new one.

pub use super::fetch_words::{Action, ConnectionId, Event, Paths, SourceId, Trouble};

use mantel_protocol::blob::ChunkRange;
use mantel_protocol::grant::MAX_GRANT_RANGES;
use mantel_protocol::receipt::Path;
use std::collections::BTreeSet;
use std::time::Duration;

/// Chunks in one portion: 4 MiB.
pub const PORTION_CHUNKS: u64 = 4;
/// Portions wanted ahead on one connection, so that the line never waits for a question.
pub const PORTIONS_AHEAD: usize = 4;
/// A grant is renewed when it would end within this time.
pub const RENEW_BEFORE: Duration = Duration::from_mins(1);
/// A connection that brings nothing for so long is given up.
pub const STALL_LIMIT: Duration = Duration::from_secs(30);
/// The first wait after a failure; doubled for each one after it.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between tries: a home that comes back is found soon.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Connections that brought wrong bytes before a person is told; from then on tries are [`STRIKE_WAIT`] apart.
pub const MAX_STRIKES: u32 = 4;
/// The wait between tries of a source that keeps sending wrong bytes.
pub const STRIKE_WAIT: Duration = Duration::from_mins(5);
/// How often free space is looked at while the disk is full.
pub const ROOM_EVERY: Duration = Duration::from_secs(10);
/// Failures in a row before a person is told.
const TELL_AFTER: u32 = 2;
/// How long the direct path of a source rests after it did not connect and the relay did not either.
const DIRECT_REST: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
struct Held {
    chunks: Vec<ChunkRange>,
    reachable: bool,
    expires: Duration,
}

#[derive(Debug)]
enum State {
    Resting {
        until: Duration,
    },
    Asking,
    Dialling {
        connection: ConnectionId,
        path: Path,
        held: Held,
    },
    Open(Open),
    Over,
}

#[derive(Debug)]
struct Open {
    connection: ConnectionId,
    path: Path,
    held: Held,
    /// Chunks wanted and not here.
    wanted: BTreeSet<u64>,
    /// When the last chunk came, or the connection opened.
    heard: Duration,
    brought: u64,
}

#[derive(Debug)]
struct Source {
    state: State,
    /// Failures since the last chunk.
    failures: u32,
    /// Connections that brought wrong bytes.
    strikes: u32,
    direct_rests_until: Duration,
}

/// The machine that fetches one blob.
#[derive(Debug)]
pub struct Fetch {
    paths: Paths,
    /// Not here.
    missing: BTreeSet<u64>,
    /// Not here and wanted from nobody.
    free: BTreeSet<u64>,
    sources: Vec<Source>,
    next_connection: ConnectionId,
    random: u64,
    no_room: Option<Duration>,
    told: Option<Trouble>,
    finished: bool,
}

impl Fetch {
    /// A machine for what is `missing`. `seed` jitters the waits.
    pub fn new(paths: Paths, missing: &[ChunkRange], sources: usize, seed: u64) -> Self {
        let missing: BTreeSet<u64> = missing
            .iter()
            .flat_map(|range| range.start..range.end())
            .collect();
        let fresh = || Source {
            state: State::Resting {
                until: Duration::ZERO,
            },
            failures: 0,
            strikes: 0,
            direct_rests_until: Duration::ZERO,
        };
        Self {
            paths,
            free: missing.clone(),
            missing,
            sources: (0..sources.max(1)).map(|_| fresh()).collect(),
            next_connection: 1,
            random: seed | 1,
            no_room: None,
            told: None,
            finished: false,
        }
    }

    /// Takes an event at `now` (monotonic) and says what to do. Begin with [`Event::Tick`].
    pub fn on(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.finished {
            return actions;
        }
        self.take(event, now, &mut actions);
        self.advance(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is due next; `None`: only another event moves it.
    pub fn next_tick(&self) -> Option<Duration> {
        if self.finished {
            return None;
        }
        if let Some(at) = self.no_room {
            return Some(at);
        }
        let due = self
            .sources
            .iter()
            .filter_map(|source| match &source.state {
                // With nothing free there is nothing to ask for: another source's failure is the next event.
                State::Resting { until } if !self.free.is_empty() => Some(*until),
                State::Open(open) => Some(open.heard + STALL_LIMIT),
                _ => None,
            });
        due.min()
    }

    /// The way of the open connection, if there is one.
    pub fn path(&self) -> Option<Path> {
        self.sources.iter().find_map(|source| match &source.state {
            State::Open(open) => Some(open.path),
            _ => None,
        })
    }

    /// How many chunks are not here.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    fn take(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) {
        match event {
            Event::Granted {
                source,
                chunks,
                reachable,
                expires,
            } => {
                let held = Held {
                    chunks,
                    reachable,
                    expires,
                };
                self.granted(source, held, now, actions);
            }
            Event::NotGranted { source, why } if self.is_asking(source) => {
                self.failed(source, why, now, actions);
            }
            Event::NeverGranted { source } if self.is_asking(source) => {
                self.sources[source].state = State::Over;
                if self
                    .sources
                    .iter()
                    .all(|source| matches!(source.state, State::Over))
                {
                    self.finished = true;
                    actions.push(Action::GiveUp);
                }
            }
            Event::Opened { connection } => self.opened(connection, now),
            Event::NotOpened { connection, why } => self.not_opened(connection, why, now, actions),
            Event::Arrived { connection, index } => self.arrived(connection, index, now, actions),
            Event::Wrong { connection } => {
                if let Some(source) = self.source_of(connection) {
                    actions.push(Action::Drop { connection });
                    self.sources[source].strikes += 1;
                    self.failed(
                        source,
                        "the sending home sent wrong bytes".into(),
                        now,
                        actions,
                    );
                }
            }
            Event::Lost { connection, why } => {
                if let Some(source) = self.source_of(connection) {
                    self.failed(source, why, now, actions);
                }
            }
            Event::NoRoom { needed, free } => {
                self.no_room = Some(now + ROOM_EVERY);
                for source in 0..self.sources.len() {
                    if let Some(connection) = self.connection_of(source) {
                        actions.push(Action::Drop { connection });
                    }
                    self.rest(source, now);
                }
                self.tell(Some(Trouble::NoRoom { needed, free }), actions);
            }
            Event::Room => {
                if self.no_room.take().is_some() {
                    self.tell(None, actions);
                }
            }
            Event::Nudge => {
                for source in &mut self.sources {
                    if let State::Resting { until } = &mut source.state
                        && source.strikes < MAX_STRIKES
                    {
                        *until = now.min(*until);
                        source.direct_rests_until = now;
                    }
                }
            }
            Event::NotGranted { .. } | Event::NeverGranted { .. } | Event::Tick => {}
        }
    }

    /// Moves every source as far as it can go now.
    fn advance(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        if self.missing.is_empty() {
            self.finished = true;
            for source in 0..self.sources.len() {
                if let Some(connection) = self.connection_of(source) {
                    actions.push(Action::Done { connection });
                }
            }
            self.tell(None, actions);
            actions.push(Action::Finish);
            return;
        }
        if let Some(at) = self.no_room {
            if now >= at {
                self.no_room = Some(now + ROOM_EVERY);
                actions.push(Action::CheckRoom);
            }
            return;
        }
        for source in 0..self.sources.len() {
            self.advance_one(source, now, actions);
        }
    }

    fn advance_one(&mut self, source: SourceId, now: Duration, actions: &mut Vec<Action>) {
        match &mut self.sources[source].state {
            State::Resting { until } if now >= *until && !self.free.is_empty() => {
                self.sources[source].state = State::Asking;
                actions.push(Action::AskGrant {
                    source,
                    chunks: coalesced(&self.free),
                });
            }
            State::Open(open) => {
                let connection = open.connection;
                let ending = now + RENEW_BEFORE >= open.held.expires;
                if !open.wanted.is_empty() && now >= open.heard + STALL_LIMIT {
                    actions.push(Action::Drop { connection });
                    self.failed(
                        source,
                        "the connection to the sending home brought nothing more".into(),
                        now,
                        actions,
                    );
                    return;
                }
                while !ending
                    && open.wanted.len() as u64 <= (PORTIONS_AHEAD as u64 - 1) * PORTION_CHUNKS
                {
                    let Some(range) = portion(&self.free, &open.held.chunks) else {
                        break;
                    };
                    for chunk in range.start..range.end() {
                        self.free.remove(&chunk);
                        open.wanted.insert(chunk);
                    }
                    actions.push(Action::Want { connection, range });
                }
                if open.wanted.is_empty() {
                    // The grant is about to end, or it covers nothing more that is free.
                    actions.push(Action::Done { connection });
                    let idle_until = if ending || open.brought > 0 {
                        now
                    } else {
                        now + FIRST_WAIT
                    };
                    self.sources[source].state = State::Resting { until: idle_until };
                }
            }
            _ => {}
        }
    }

    fn granted(&mut self, source: SourceId, held: Held, now: Duration, actions: &mut Vec<Action>) {
        if !self.is_asking(source) {
            return;
        }
        let direct = held.reachable && now >= self.sources[source].direct_rests_until;
        let path = match self.paths {
            Paths::Direct if held.reachable => Path::Direct,
            Paths::Direct => {
                let why = "the order allows only a direct path, and the sending home cannot be reached directly";
                self.failed(source, why.into(), now, actions);
                return;
            }
            Paths::Any if direct => Path::Direct,
            Paths::Any | Paths::Relay => Path::Relay,
        };
        self.dial(source, path, held, actions);
    }

    fn dial(&mut self, source: SourceId, path: Path, held: Held, actions: &mut Vec<Action>) {
        let connection = self.next_connection;
        self.next_connection += 1;
        self.sources[source].state = State::Dialling {
            connection,
            path,
            held,
        };
        actions.push(Action::Dial {
            connection,
            source,
            path,
        });
    }

    fn opened(&mut self, opened: ConnectionId, now: Duration) {
        let Some(source) = self.source_of(opened) else {
            return;
        };
        let resting = State::Resting { until: now };
        let state = std::mem::replace(&mut self.sources[source].state, resting);
        self.sources[source].state = match state {
            State::Dialling {
                connection,
                path,
                held,
            } => {
                let wanted = BTreeSet::new();
                State::Open(Open {
                    connection,
                    path,
                    held,
                    wanted,
                    heard: now,
                    brought: 0,
                })
            }
            other => other,
        };
    }

    fn not_opened(
        &mut self,
        failed: ConnectionId,
        why: String,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(source) = self.source_of(failed) else {
            return;
        };
        let resting = State::Resting { until: now };
        let state = std::mem::replace(&mut self.sources[source].state, resting);
        match state {
            State::Dialling {
                path: Path::Direct,
                held,
                ..
            } if self.paths == Paths::Any => {
                // Nothing was sent under the grant yet: the relay may use it.
                self.sources[source].direct_rests_until = now + DIRECT_REST;
                self.dial(source, Path::Relay, held, actions);
            }
            state => {
                self.sources[source].state = state;
                self.failed(source, why, now, actions);
            }
        }
    }

    fn arrived(
        &mut self,
        connection: ConnectionId,
        index: u64,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let fresh = self.missing.remove(&index);
        self.free.remove(&index);
        for source in &mut self.sources {
            if let State::Open(open) = &mut source.state {
                open.wanted.remove(&index);
                if open.connection == connection && fresh {
                    open.heard = now;
                    open.brought += 1;
                    source.failures = 0;
                }
            }
        }
        if fresh && !matches!(self.told, Some(Trouble::NoRoom { .. })) {
            self.tell(None, actions);
        }
    }

    /// Notes a failure of a source: its chunks are free again, and it rests.
    fn failed(&mut self, source: SourceId, why: String, now: Duration, actions: &mut Vec<Action>) {
        self.sources[source].failures += 1;
        let (failures, strikes) = (self.sources[source].failures, self.sources[source].strikes);
        let wait = match strikes {
            MAX_STRIKES.. => STRIKE_WAIT,
            _ => FIRST_WAIT
                .saturating_mul(1 << failures.saturating_sub(1).min(10))
                .min(LONGEST_WAIT),
        };
        let until = now + self.jittered(wait);
        self.rest(source, until);
        if strikes >= MAX_STRIKES {
            self.tell(Some(Trouble::WrongBytes(strikes)), actions);
        } else if failures >= TELL_AFTER {
            self.tell(Some(Trouble::NoWay(why)), actions);
        }
    }

    fn rest(&mut self, source: SourceId, until: Duration) {
        if matches!(self.sources[source].state, State::Over) {
            return;
        }
        let resting = State::Resting { until };
        if let State::Open(open) = std::mem::replace(&mut self.sources[source].state, resting) {
            self.free.extend(
                open.wanted
                    .iter()
                    .filter(|chunk| self.missing.contains(chunk)),
            );
        }
    }

    fn tell(&mut self, trouble: Option<Trouble>, actions: &mut Vec<Action>) {
        if self.told != trouble {
            self.told.clone_from(&trouble);
            actions.push(Action::Tell(trouble));
        }
    }

    fn is_asking(&self, source: SourceId) -> bool {
        self.sources
            .get(source)
            .is_some_and(|source| matches!(source.state, State::Asking))
    }

    fn connection_of(&self, source: SourceId) -> Option<ConnectionId> {
        match &self.sources[source].state {
            State::Dialling { connection, .. } => Some(*connection),
            State::Open(open) => Some(open.connection),
            _ => None,
        }
    }

    fn source_of(&self, connection: ConnectionId) -> Option<SourceId> {
        (0..self.sources.len()).find(|&source| self.connection_of(source) == Some(connection))
    }

    /// Between half and whole. Xorshift (Marsaglia 2003): for spreading waits, not for secrets.
    fn jittered(&mut self, wait: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        wait.mul_f64(0.5 + (self.random % 1024) as f64 / 2048.0)
    }
}

/// The first run of free chunks that a grant covers, at most a portion.
fn portion(free: &BTreeSet<u64>, granted: &[ChunkRange]) -> Option<ChunkRange> {
    granted
        .iter()
        .filter(|range| range.count > 0)
        .find_map(|range| {
            let start = *free.range(range.start..range.end()).next()?;
            let limit = range.end().min(start.saturating_add(PORTION_CHUNKS));
            let count = (start..limit)
                .take_while(|chunk| free.contains(chunk))
                .count() as u64;
            Some(ChunkRange { start, count })
        })
}

/// Chunks as ranges, at most as many as a grant holds; the rest is asked for later.
fn coalesced(chunks: &BTreeSet<u64>) -> Vec<ChunkRange> {
    let mut ranges: Vec<ChunkRange> = Vec::new();
    for &chunk in chunks {
        let full = ranges.len() == MAX_GRANT_RANGES;
        match ranges.last_mut() {
            Some(last) if last.end() == chunk => last.count += 1,
            _ if full => break,
            _ => ranges.push(ChunkRange {
                start: chunk,
                count: 1,
            }),
        }
    }
    ranges
}
