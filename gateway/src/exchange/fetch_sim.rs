//! Seeded simulation over the fetcher: losses, restarts, duplicates, wrong bytes, full disks, several sources. A failing
//! seed is printed; run it alone with [`run`].

use super::fetch::{Action, ConnectionId, Event, Fetch, Paths, RENEW_BEFORE, SourceId};
use mantel_protocol::blob::ChunkRange;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// More steps than any run needs.
const MAX_STEPS: usize = 200_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

struct World {
    random: Random,
    chunks: u64,
    sources: usize,
    now: Duration,
    sequence: u64,
    coming: BTreeMap<(Duration, u64), Event>,
    /// What each source's newest grant still allows.
    grants: HashMap<SourceId, BTreeSet<u64>>,
    /// Open or dialled connections: whose, what was wanted and did not come.
    connections: HashMap<ConnectionId, (SourceId, BTreeSet<u64>)>,
    /// When the last chunk wanted on a connection will come: chunks come in order.
    busy_until: HashMap<ConnectionId, Duration>,
    disk: BTreeSet<u64>,
    /// What the machine was told since its start.
    told: BTreeSet<u64>,
    counted: u64,
    room: bool,
    finished: bool,
    seed: u64,
}

impl World {
    fn later(&mut self, wait: Duration, event: Event) {
        self.sequence += 1;
        self.coming.insert((self.now + wait, self.sequence), event);
    }

    fn missing(&self) -> Vec<ChunkRange> {
        let lacking = (0..self.chunks).filter(|chunk| !self.disk.contains(chunk));
        lacking
            .map(|start| ChunkRange { start, count: 1 })
            .collect()
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::AskGrant { source, chunks } => self.answer_grant(source, &chunks),
            Action::Dial {
                connection, source, ..
            } => {
                self.connections
                    .insert(connection, (source, BTreeSet::new()));
                let wait = self.random.ms(1, 300);
                let event = match self.random.next() % 20 {
                    0..=10 => Event::Opened { connection },
                    11 => Event::Wrong { connection },
                    _ => Event::NotOpened {
                        connection,
                        why: "no answer".into(),
                    },
                };
                self.later(wait, event);
            }
            Action::Want { connection, range } => self.want(connection, range),
            Action::Done { connection } => {
                let (_, lacking) = self
                    .connections
                    .remove(&connection)
                    .expect("a known connection");
                // What a closed connection had left in the writer's hands may have come first.
                assert!(
                    lacking.is_subset(&self.told),
                    "seed {}: done before all came",
                    self.seed
                );
            }
            Action::Drop { connection } => {
                self.connections.remove(&connection);
            }
            Action::CheckRoom => {
                self.room = self.room || self.random.percent(50);
                let event = if self.room {
                    Event::Room
                } else {
                    Event::NoRoom { needed: 9, free: 1 }
                };
                self.later(Duration::from_millis(1), event);
            }
            Action::Tell(_) => {}
            Action::Finish => self.finished = true,
            Action::GiveUp => panic!("seed {}: gave up without being told to", self.seed),
        }
    }

    fn answer_grant(&mut self, source: SourceId, chunks: &[ChunkRange]) {
        assert!(!chunks.is_empty(), "seed {}: asked for nothing", self.seed);
        let wait = self.random.ms(1, 400);
        if self.random.percent(15) {
            return self.later(
                wait,
                Event::NotGranted {
                    source,
                    why: "the server is away".into(),
                },
            );
        }
        let all = chunks
            .iter()
            .flat_map(|range| range.start..range.end())
            .collect();
        self.grants.insert(source, all);
        let life = RENEW_BEFORE + self.random.ms(100, 20_000);
        let expires = self.now + wait + life;
        let reachable = self.random.percent(60);
        self.later(
            wait,
            Event::Granted {
                source,
                chunks: chunks.to_vec(),
                reachable,
                expires,
            },
        );
    }

    fn want(&mut self, connection: ConnectionId, range: ChunkRange) {
        let seed = self.seed;
        let wanted_elsewhere = |world: &Self, chunk: u64| {
            world
                .connections
                .iter()
                .any(|(id, (_, lacking))| *id != connection && lacking.contains(&chunk))
        };
        let mut silent = false;
        for chunk in range.start..range.end() {
            assert!(
                !self.told.contains(&chunk),
                "seed {seed}: wanted again after it came: {chunk}"
            );
            assert!(
                !wanted_elsewhere(self, chunk),
                "seed {seed}: wanted twice at once: {chunk}"
            );
            let (source, lacking) = self
                .connections
                .get_mut(&connection)
                .expect("an open connection");
            assert!(
                lacking.insert(chunk),
                "seed {seed}: wanted twice on one connection: {chunk}"
            );
            let grant = self.grants.get_mut(source).expect("dialled with a grant");
            assert!(
                grant.remove(&chunk),
                "seed {seed}: not granted, or used: {chunk}"
            );
            let from = self
                .busy_until
                .get(&connection)
                .copied()
                .unwrap_or(self.now)
                .max(self.now);
            let at = from + self.random.ms(1, 120);
            self.busy_until.insert(connection, at);
            let wait = at.saturating_sub(self.now);
            match self.random.next() % 100 {
                _ if silent => {}
                0..=2 => {
                    self.later(
                        wait,
                        Event::Lost {
                            connection,
                            why: "cut".into(),
                        },
                    );
                    silent = true;
                }
                3 => {
                    self.later(wait, Event::Wrong { connection });
                    silent = true;
                }
                4 => silent = true,
                5 => {
                    self.room = false;
                    self.later(wait, Event::NoRoom { needed: 9, free: 1 });
                    silent = true;
                }
                6..=9 => {
                    self.later(
                        wait,
                        Event::Arrived {
                            connection,
                            index: chunk,
                        },
                    );
                    let again = wait + self.random.ms(1, 500);
                    self.later(
                        again,
                        Event::Arrived {
                            connection,
                            index: chunk,
                        },
                    );
                }
                _ => self.later(
                    wait,
                    Event::Arrived {
                        connection,
                        index: chunk,
                    },
                ),
            }
        }
    }

    /// What happens to the world by an event, before the machine hears of it; `false`: the machine never does.
    fn happen(&mut self, event: &Event) -> bool {
        match event {
            Event::Arrived { connection, index } => {
                let open = self.connections.get_mut(connection);
                // Bytes of a closed connection are lost, or were in the writer's hands already.
                let written = open.is_some() || self.random.percent(50);
                if let Some((_, lacking)) = self.connections.get_mut(connection) {
                    lacking.remove(index);
                }
                if written {
                    self.counted += u64::from(self.disk.insert(*index));
                    self.told.insert(*index);
                }
                written
            }
            Event::Lost { connection, .. } | Event::NotOpened { connection, .. } => {
                self.connections.remove(connection).is_some()
            }
            Event::Opened { connection } | Event::Wrong { connection } => {
                self.connections.contains_key(connection)
            }
            _ => true,
        }
    }
}

/// One run; panics with the seed when an invariant breaks.
fn run(seed: u64) {
    let mut random = Random(seed);
    let chunks = 1 + random.next() % 120;
    let sources = 1 + (random.next() % 3) as usize;
    let mut world = World {
        random,
        chunks,
        sources,
        now: Duration::ZERO,
        sequence: 0,
        coming: BTreeMap::new(),
        grants: HashMap::new(),
        connections: HashMap::new(),
        busy_until: HashMap::new(),
        disk: BTreeSet::new(),
        told: BTreeSet::new(),
        counted: 0,
        room: true,
        finished: false,
        seed,
    };
    let mut machine = Fetch::new(Paths::Any, &world.missing(), world.sources, seed);
    let mut event = Event::Tick;
    for _ in 0..MAX_STEPS {
        for action in machine.on(event, world.now) {
            world.perform(action);
        }
        if world.finished {
            assert_eq!(world.disk.len() as u64, world.chunks, "seed {seed}");
            assert_eq!(
                world.counted, world.chunks,
                "seed {seed}: each chunk counts once"
            );
            assert_eq!(machine.missing(), 0);
            assert_eq!(machine.next_tick(), None);
            return;
        }
        if world.random.next().is_multiple_of(400) {
            // Killed: what was under way is gone, what was written stays.
            world.coming.clear();
            world.connections.clear();
            world.grants.clear();
            world.told = world.disk.clone();
            machine = Fetch::new(
                Paths::Any,
                &world.missing(),
                world.sources,
                seed ^ world.sequence,
            );
            event = Event::Tick;
            continue;
        }
        event = next_event(&mut world, &machine);
    }
    panic!(
        "seed {seed}: did not finish; {} of {} chunks",
        world.disk.len(),
        world.chunks
    );
}

fn next_event(world: &mut World, machine: &Fetch) -> Event {
    loop {
        let tick = machine.next_tick();
        let first = world.coming.keys().next().copied();
        match (first, tick) {
            (Some(key), tick) if tick.is_none_or(|tick| key.0 <= tick.max(world.now)) => {
                world.now = key.0;
                let event = world.coming.remove(&key).expect("it was there");
                if world.happen(&event) {
                    return event;
                }
            }
            (_, Some(tick)) => {
                world.now = world.now.max(tick);
                return Event::Tick;
            }
            (None, None) => panic!("seed {}: the machine waits for nothing", world.seed),
            (Some(_), None) => unreachable!("the first arm takes it"),
        }
    }
}

#[test]
fn always_completes_and_counts_each_chunk_once() {
    for seed in 0..400 {
        run(seed);
    }
}

fn opened(machine: &mut Fetch, now: Duration) -> (ConnectionId, Vec<Action>) {
    let asked = machine.on(Event::Tick, now);
    let Some(Action::AskGrant { source, chunks }) = asked.first().cloned() else {
        panic!("a grant is asked for first: {asked:?}")
    };
    let expires = now + Duration::from_mins(10);
    let dialled = machine.on(
        Event::Granted {
            source,
            chunks,
            reachable: true,
            expires,
        },
        now,
    );
    let Some(Action::Dial { connection, .. }) = dialled.first().cloned() else {
        panic!("then dialled: {dialled:?}")
    };
    (connection, machine.on(Event::Opened { connection }, now))
}

#[test]
fn a_dead_direct_path_falls_back_to_the_relay_with_the_same_grant() {
    use mantel_protocol::receipt::Path;
    let mut machine = Fetch::new(Paths::Any, &[ChunkRange { start: 0, count: 9 }], 1, 7);
    let now = Duration::from_secs(1);
    let chunks = vec![ChunkRange { start: 0, count: 9 }];
    assert_eq!(
        machine.on(Event::Tick, now),
        [Action::AskGrant {
            source: 0,
            chunks: chunks.clone()
        }]
    );
    let expires = now + Duration::from_mins(10);
    let dial = machine.on(
        Event::Granted {
            source: 0,
            chunks,
            reachable: true,
            expires,
        },
        now,
    );
    assert_eq!(
        dial,
        [Action::Dial {
            connection: 1,
            source: 0,
            path: Path::Direct
        }]
    );
    let dial = machine.on(
        Event::NotOpened {
            connection: 1,
            why: "refused".into(),
        },
        now,
    );
    assert_eq!(
        dial,
        [Action::Dial {
            connection: 2,
            source: 0,
            path: Path::Relay
        }]
    );
    let wants = machine.on(Event::Opened { connection: 2 }, now);
    assert_eq!(wants.len(), 3, "all portions ahead: {wants:?}");
}

#[test]
fn wrong_bytes_are_told_after_some_strikes_and_tried_again_rarely() {
    use super::fetch::{MAX_STRIKES, STRIKE_WAIT, Trouble};
    let mut machine = Fetch::new(Paths::Any, &[ChunkRange { start: 0, count: 1 }], 1, 7);
    let mut now = Duration::from_secs(1);
    let mut told = None;
    for _ in 0..MAX_STRIKES {
        let (connection, _) = opened(&mut machine, now);
        let actions = machine.on(Event::Wrong { connection }, now);
        assert!(actions.contains(&Action::Drop { connection }));
        told = actions.into_iter().find_map(|action| match action {
            Action::Tell(trouble) => trouble,
            _ => None,
        });
        now = machine.next_tick().expect("it is tried again");
    }
    assert_eq!(told, Some(Trouble::WrongBytes(MAX_STRIKES)));
    assert!(now >= STRIKE_WAIT / 2);
    let (connection, _) = opened(&mut machine, now);
    let end = machine.on(
        Event::Arrived {
            connection,
            index: 0,
        },
        now,
    );
    assert!(
        end.contains(&Action::Finish) && end.contains(&Action::Tell(None)),
        "{end:?}"
    );
}

#[test]
fn a_full_disk_pauses_and_goes_on_by_itself() {
    let mut machine = Fetch::new(Paths::Any, &[ChunkRange { start: 0, count: 3 }], 1, 7);
    let now = Duration::from_secs(1);
    let (connection, _) = opened(&mut machine, now);
    let full = machine.on(
        Event::NoRoom {
            needed: 5_000_000,
            free: 1_000_000,
        },
        now,
    );
    assert!(full.contains(&Action::Drop { connection }));
    let check = machine.next_tick().expect("room is looked for");
    assert_eq!(machine.on(Event::Tick, check), [Action::CheckRoom]);
    let on = machine.on(Event::Room, check);
    assert!(on.contains(&Action::Tell(None)), "{on:?}");
    assert!(
        on.iter()
            .any(|action| matches!(action, Action::AskGrant { .. })),
        "{on:?}"
    );
}

#[test]
fn a_grant_that_ends_soon_is_renewed_between_portions() {
    let mut machine = Fetch::new(
        Paths::Any,
        &[ChunkRange {
            start: 0,
            count: 40,
        }],
        1,
        7,
    );
    let mut now = Duration::from_secs(1);
    let (connection, _) = opened(&mut machine, now);
    now += Duration::from_secs(560);
    let mut actions = Vec::new();
    for index in 0..16 {
        actions = machine.on(Event::Arrived { connection, index }, now);
    }
    assert_eq!(actions[0], Action::Done { connection });
    actions = machine.on(Event::Tick, now);
    let rest = vec![ChunkRange {
        start: 16,
        count: 24,
    }];
    assert_eq!(
        actions,
        [Action::AskGrant {
            source: 0,
            chunks: rest
        }]
    );
}

#[test]
fn an_order_that_is_over_ends_the_fetch() {
    let mut machine = Fetch::new(Paths::Any, &[ChunkRange { start: 0, count: 1 }], 1, 7);
    machine.on(Event::Tick, Duration::ZERO);
    assert_eq!(
        machine.on(Event::NeverGranted { source: 0 }, Duration::ZERO),
        [Action::GiveUp]
    );
}
