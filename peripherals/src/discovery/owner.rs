//! The task that owns the registry: feeds it what is heard, does what it decides, and publishes what it knows.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    DESCRIBING_AT_ONCE, DESCRIBING_STRANGERS_AT_ONCE, PUBLISH_PAUSE, REFRESH_EVERY, STRANGER_TIME,
    Snapshot, TICK,
};
use crate::device::{Access, Device, DeviceState};
use crate::http::HttpError;
use crate::neighbours;
use crate::registry::{Action, Event, Input, Now, Registry};
use crate::upnp::{DescribeError, Described, describe};
use crate::url::DeviceUrl;

/// Most addresses of which it is remembered how often they were asked; then all begin anew.
const MAX_ASKED: usize = 4096;
/// Most inputs taken in before what they changed is published.
const INPUTS_AT_ONCE: usize = 64;

type Answer = (DeviceUrl, Instant, Result<Described, DescribeError>);

/// Where others are told.
pub(super) struct Told {
    pub(super) snapshot: watch::Sender<Snapshot>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) known: watch::Sender<Arc<HashSet<IpAddr>>>,
    pub(super) noisy: watch::Sender<usize>,
}

pub(super) struct Owner {
    registry: Registry,
    wall_clock: fn() -> Timestamp,
    started: Instant,
    /// Descriptions to fetch; the registry asks once per part, so it is bounded by its parts.
    waiting: VecDeque<(DeviceUrl, Instant)>,
    asking: JoinSet<Answer>,
    busy: BTreeSet<IpAddr>,
    /// Of `busy`, those of whom nothing useful is known.
    busy_strangers: BTreeSet<IpAddr>,
    /// How often an address was asked: who has many names is asked for each after those who have one.
    asked: HashMap<IpAddr, u32>,
    told: Told,
    published: Instant,
    /// Whether something is to be published.
    changed: bool,
}

impl Owner {
    pub(super) fn new(registry: Registry, wall_clock: fn() -> Timestamp, told: Told) -> Self {
        Self {
            registry,
            wall_clock,
            started: Instant::now(),
            waiting: VecDeque::new(),
            asking: JoinSet::new(),
            busy: BTreeSet::new(),
            busy_strangers: BTreeSet::new(),
            asked: HashMap::new(),
            told,
            published: Instant::now(),
            changed: false,
        }
    }

    pub(super) async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Input>,
        cancel: CancellationToken,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut inputs = Vec::with_capacity(INPUTS_AT_ONCE);
        loop {
            let wake = self.registry.next_wake().map(|at| self.started + at);
            let publish = self.changed.then(|| self.published + PUBLISH_PAUSE);
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = incoming.recv_many(&mut inputs, INPUTS_AT_ONCE) => {
                    for input in inputs.drain(..) {
                        self.apply(input);
                    }
                }
                Some(answer) = self.asking.join_next() => self.answered(answer),
                () = at(publish) => self.publish(),
                () = at(wake) => self.apply(Input::Tick),
                _ = tick.tick() => {
                    self.look_at_neighbours();
                    self.apply(Input::Tick);
                    self.tell_noise();
                    self.changed |= self.published.elapsed() >= REFRESH_EVERY;
                }
            }
        }
        self.asking.shutdown().await;
    }

    fn answered(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        let Ok((location, asked, result)) = answer else {
            // A panic in a description would be a defect of ours; the part stays unasked, all else goes on.
            tracing::error!("a description task failed");
            return;
        };
        let took_ms = asked.elapsed().as_millis();
        tracing::debug!(%location, took_ms, ok = result.is_ok(), "description");
        self.busy.remove(&location.host());
        self.busy_strangers.remove(&location.host());
        if self.asked.len() >= MAX_ASKED {
            self.asked.clear();
        }
        *self.asked.entry(location.host()).or_default() += 1;
        if result.is_ok() {
            // The exchange has just resolved the hardware address.
            self.look_at_neighbours();
        }
        self.apply(Input::Described {
            location,
            result: Box::new(result),
        });
    }

    fn look_at_neighbours(&mut self) {
        // The kernel answers from memory, at once.
        self.apply(Input::Neighbours(neighbours::table()));
    }

    fn apply(&mut self, input: Input) {
        let now = Now {
            monotonic: self.started.elapsed(),
            wall: (self.wall_clock)(),
        };
        let decision = self.registry.apply(input, now);
        for Action::Describe(location) in decision.actions {
            self.waiting.push_back((location, Instant::now()));
        }
        self.ask_next();
        for event in decision.events {
            self.changed = true;
            match &event {
                Event::Changed(key) => tracing::debug!(%key, "device changed"),
                Event::Appeared(key) => tracing::info!(%key, "device appeared"),
                Event::Gone(key) => tracing::info!(%key, "device gone"),
            }
            // Nobody may listen; the snapshot is the truth.
            let _ = self.told.events.send(event);
        }
    }

    /// Starts as many descriptions as may run: one per address, so that one slow device holds up only itself; and
    /// strangers hold up strangers only.
    fn ask_next(&mut self) {
        while !self.waiting.is_empty() {
            let known = self.told.known.borrow().clone();
            // Addresses of IPv6 can be invented without end; they hold up their own kind only.
            let strangers = |v4: bool| {
                let busy = self.busy_strangers.iter();
                busy.filter(|ip| ip.is_ipv4() == v4).count()
            };
            let room_v4 = strangers(true) < DESCRIBING_STRANGERS_AT_ONCE / 2;
            let room_v6 = strangers(false) < DESCRIBING_STRANGERS_AT_ONCE / 2;
            let room_known = self.busy.len() - self.busy_strangers.len() < DESCRIBING_AT_ONCE;
            let may = |host: IpAddr| match (known.contains(&host), host) {
                (true, _) => room_known,
                (false, IpAddr::V4(_)) => room_v4,
                (false, IpAddr::V6(_)) => room_v6,
            };
            let next = self
                .waiting
                .iter()
                .enumerate()
                .filter(|(_, (url, _))| !self.busy.contains(&url.host()) && may(url.host()))
                .min_by_key(|(index, (url, _))| {
                    let asked = self.asked.get(&url.host()).copied().unwrap_or(0);
                    (!known.contains(&url.host()), asked, *index)
                })
                .map(|(index, _)| index);
            let Some((location, asked)) = next.and_then(|index| self.waiting.remove(index)) else {
                return;
            };
            let stranger = !known.contains(&location.host());
            self.busy.insert(location.host());
            if stranger {
                self.busy_strangers.insert(location.host());
            }
            self.asking.spawn(async move {
                let result = if stranger {
                    let late = || Err(HttpError::TimedOut(STRANGER_TIME).into());
                    let within = timeout(STRANGER_TIME, describe(&location)).await;
                    within.unwrap_or_else(|_| late())
                } else {
                    describe(&location).await
                };
                (location, asked, result)
            });
        }
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        self.changed = false;
        let snapshot = self.registry.snapshot();
        let works = |device: &&Device| {
            let mut parts = device.parts.iter();
            parts.any(|part| part.state == DeviceState::Online && part.access != Access::None)
        };
        let known: HashSet<IpAddr> = snapshot
            .iter()
            .filter(works)
            .flat_map(|device| device.addresses.iter().copied())
            .collect();
        self.told.known.send_if_modified(|before| {
            let changed = **before != known;
            if changed {
                *before = Arc::new(known);
            }
            changed
        });
        self.told.snapshot.send_replace(Arc::new(snapshot));
    }

    fn tell_noise(&mut self) {
        let now = self.registry.noisy();
        let before = *self.told.noisy.borrow();
        if (before == 0) != (now == 0) {
            tracing::warn!(
                addresses = now,
                "devices announce too much; what is beyond the limits is not heard"
            );
        }
        self.told
            .noisy
            .send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

/// Waits until then; for ever if there is no such time.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
