//! How far an order is: to the page by a watch, to the server by MQTT, each at most twice a second (F24).

use super::Stage;
use crate::link::Link;
use mantel_protocol::blob::BlobId;
use mantel_protocol::bus::Event;
use mantel_protocol::ids::{DeliveryId, OrderId};
use mantel_protocol::receipt::Path;
use mantel_runtime::clock::Clock;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;

/// The shortest time between two reports.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// The rate is the mean over so long.
const RATE_OVER: Duration = Duration::from_secs(3);

/// How far an order is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) stage: Stage,
    pub(super) bytes_done: u64,
    pub(super) rate: u64,
    pub(super) path: Option<Path>,
    pub(super) problem: Option<String>,
}

/// Measures one order's progress and tells it.
pub(super) struct Meter {
    clock: Clock,
    order: OrderId,
    delivery: DeliveryId,
    done: HashMap<BlobId, u64>,
    marks: VecDeque<(Duration, u64)>,
    now: Progress,
    told: Option<(Duration, Progress)>,
    page: mpsc::Sender<(OrderId, Progress)>,
}

impl Meter {
    pub(super) fn new(
        clock: Clock,
        order: OrderId,
        delivery: DeliveryId,
        page: mpsc::Sender<(OrderId, Progress)>,
    ) -> Self {
        let (done, marks) = (HashMap::new(), VecDeque::new());
        Self {
            clock,
            order,
            delivery,
            done,
            marks,
            now: Progress::default(),
            told: None,
            page,
        }
    }

    pub(super) fn set_blob(&mut self, blob: BlobId, bytes: u64) {
        self.done.insert(blob, bytes);
        self.now.bytes_done = self.done.values().sum();
    }

    pub(super) fn add(&mut self, blob: BlobId, bytes: u64) {
        let done = self.done.get(&blob).copied().unwrap_or(0) + bytes;
        self.set_blob(blob, done);
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.now.stage = stage;
        if stage != Stage::Receiving {
            self.now.path = None;
            self.now.rate = 0;
        }
        self.tell_page();
    }

    pub(super) fn set_path(&mut self, path: Option<Path>) {
        self.now.path = path;
        self.now.stage = if path.is_some() {
            Stage::Receiving
        } else {
            Stage::Connecting
        };
    }

    pub(super) fn set_problem(&mut self, problem: Option<String>) {
        if self.now.problem != problem {
            self.now.problem = problem;
            if self.now.problem.is_some() {
                self.now.stage = Stage::Paused;
            }
            self.tell_page();
        }
    }

    /// Tells page and server, if it is time.
    pub(super) fn report(&mut self, link: &Link) {
        let now = self.clock.monotonic();
        if self
            .told
            .as_ref()
            .is_some_and(|(at, _)| now.saturating_sub(*at) < REPORT_EVERY)
        {
            return;
        }
        self.measure(now);
        if self
            .told
            .as_ref()
            .is_some_and(|(_, told)| *told == self.now)
        {
            return;
        }
        self.tell_page();
        let (delivery, order, bytes_done) = (self.delivery, self.order, self.now.bytes_done);
        link.report(Event::Progress {
            delivery,
            order,
            bytes_done,
        });
    }

    fn measure(&mut self, now: Duration) {
        self.marks.push_back((now, self.now.bytes_done));
        while self.marks.len() > 2
            && self
                .marks
                .front()
                .is_some_and(|(at, _)| now.saturating_sub(*at) > RATE_OVER)
        {
            self.marks.pop_front();
        }
        if let Some((at, bytes)) = self.marks.front() {
            let ms = now.saturating_sub(*at).as_millis().max(1) as u64;
            self.now.rate = self.now.bytes_done.saturating_sub(*bytes) * 1_000 / ms;
        }
    }

    fn tell_page(&mut self) {
        self.told = Some((self.clock.monotonic(), self.now.clone()));
        // A full queue: a newer word follows.
        let _ = self.page.try_send((self.order, self.now.clone()));
    }
}
