//! Events of UPnP devices (GENA, UPnP Device Architecture 2.0 §4): subscribe, renew, unsubscribe, and ask where a device
//! tells nothing.
//!
//! One driver per followed device, ended with its [`Changes`]. A subscription is given up and made anew when a
//! notification was lost; while a device grants none, it is asked at longer and longer intervals and polled meanwhile.

mod listener;
pub mod wire;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderName;
use tokio::time::{Instant, sleep_until};

use self::listener::{Expected, Listener, Notice};
use self::wire::{Granted, Heard, Sequence};
use super::session::call;
use super::wire::Service;
use crate::changes::{Change, Changes, MediaChange, Teller};
use crate::http::{self, HttpError, Request};

/// Time for one request about a subscription.
const REQUEST_TIME: Duration = Duration::from_secs(8);
/// Largest answer to such a request; it has no body.
const ANSWER_BYTES: u64 = 16 * 1024;
/// A subscription lost by a gap is made anew no sooner than this after it was made.
const RENEW_PAUSE: Duration = Duration::from_secs(5);
/// How long after a refusal a subscription is tried again; doubles up to [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_secs(30);
/// See [`RETRY_FIRST`].
const RETRY_MOST: Duration = Duration::from_mins(10);

/// What a service's events are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// AVTransport.
    Transport,
    /// RenderingControl.
    Rendering,
    /// ContentDirectory.
    Directory,
}

impl Topic {
    /// How often the device is asked: while it told nothing by a subscription, and otherwise. A granted subscription
    /// alone says little: minidlna 1.3.0 grants it, connects to the callback and sends nothing, not even the first
    /// notification.
    fn polls(self) -> (Duration, Duration) {
        match self {
            Self::Transport | Self::Rendering => (Duration::from_secs(5), Duration::from_secs(30)),
            Self::Directory => (Duration::from_mins(1), Duration::from_mins(10)),
        }
    }
}

/// Follows `services` of the device at `address`.
pub(super) fn follow(address: IpAddr, services: Vec<(Topic, Service)>) -> Changes {
    Changes::by(|teller, stop| async move {
        let mut driver = Driver::new(address, services, teller).await;
        stop.run_until_cancelled(driver.run()).await;
        driver.leave().await;
    })
}

/// One subscription, or the wish for one.
struct Subscription {
    topic: Topic,
    service: Service,
    granted: Option<(Granted, Sequence)>,
    /// A subscription that lost something and is taken back before the next one.
    stale: Option<Granted>,
    /// When to subscribe or to renew; none: the device has no events for this service.
    next: Option<Instant>,
    retry: Duration,
    poll: Instant,
    /// SystemUpdateID as last heard.
    update: Option<u32>,
}

struct Driver {
    listener: Option<Listener>,
    subscriptions: Vec<Subscription>,
    teller: Teller,
}

impl Driver {
    async fn new(address: IpAddr, services: Vec<(Topic, Service)>, teller: Teller) -> Self {
        let listener = match Listener::open(address, services.len()).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::debug!(%address, %error, "no listener for events; the device is asked instead");
                None
            }
        };
        let now = Instant::now();
        let subscriptions = services
            .into_iter()
            .map(|(topic, service)| Subscription {
                topic,
                next: (listener.is_some() && service.events.is_some()).then_some(now),
                service,
                granted: None,
                stale: None,
                retry: RETRY_FIRST,
                poll: now,
                update: None,
            })
            .collect();
        Self {
            listener,
            subscriptions,
            teller,
        }
    }

    async fn run(&mut self) {
        loop {
            let due = self
                .subscriptions
                .iter()
                .flat_map(|one| [one.next, Some(one.poll)])
                .flatten()
                .min();
            let Some(due) = due else { return };
            let notice = async {
                match &mut self.listener {
                    Some(listener) => listener.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                notice = notice => match notice {
                    Some(notice) => self.hear(&notice),
                    None => self.listener = None,
                },
                () = sleep_until(due) => self.act().await,
            }
        }
    }

    /// Does what is due.
    async fn act(&mut self) {
        for index in 0..self.subscriptions.len() {
            let now = Instant::now();
            if self.subscriptions[index].next.is_some_and(|at| at <= now) {
                self.subscribe(index).await;
            }
            if self.subscriptions[index].poll <= now {
                self.poll(index).await;
            }
        }
    }

    /// Renews a subscription, or makes it (§4.1.2, §4.1.3).
    async fn subscribe(&mut self, index: usize) {
        let (Some(listener), Some(one)) = (&self.listener, self.subscriptions.get_mut(index))
        else {
            return;
        };
        if let Some((granted, sequence)) = one.granted.take() {
            let renewed = request(&one.service, "SUBSCRIBE", &[("sid", &granted.sid)]).await;
            if let Ok(Some(now)) = renewed
                && now.sid == granted.sid
            {
                one.next = Some(Instant::now() + now.life / 2);
                one.granted = Some((now, sequence));
                return;
            }
        }
        if let Some(stale) = one.stale.take() {
            // It would end by itself.
            let _ = request(&one.service, "UNSUBSCRIBE", &[("sid", &stale.sid)]).await;
        }
        listener.expect(index, Expected::Unnamed);
        let callback = listener.callback(index);
        let headers = [("callback", callback.as_str()), ("nt", "upnp:event")];
        match request(&one.service, "SUBSCRIBE", &headers).await {
            Ok(Some(granted)) => {
                listener.expect(index, Expected::Named(granted.sid.clone()));
                one.next = Some(Instant::now() + granted.life / 2);
                one.granted = Some((granted, Sequence::default()));
                one.retry = RETRY_FIRST;
            }
            refused => {
                listener.expect(index, Expected::Nothing);
                tracing::debug!(service = one.service.service_type, ?refused, "no events");
                one.next = Some(Instant::now() + one.retry);
                one.retry = (one.retry * 2).min(RETRY_MOST);
            }
        }
    }

    /// Takes in a notification.
    fn hear(&mut self, notice: &Notice) {
        let Some(one) = self.subscriptions.get_mut(notice.index) else {
            return;
        };
        let Some((granted, sequence)) = &mut one.granted else {
            return;
        };
        if granted.sid != notice.sid {
            return;
        }
        match sequence.hear(notice.number) {
            Heard::Again => {}
            Heard::Initial | Heard::Next => one.judge(&notice.properties, &self.teller),
            Heard::Gap => {
                // What the lost ones said is asked for; a new subscription starts from the whole state.
                one.tell_anything(&self.teller);
                one.next = Some(Instant::now() + RENEW_PAUSE);
                let lost = one.granted.take();
                if let (Some(listener), Some((granted, _))) = (&self.listener, lost) {
                    listener.expect(notice.index, Expected::Nothing);
                    tracing::debug!(sid = granted.sid, "events were lost; subscribing anew");
                    one.stale = Some(granted);
                }
            }
        }
    }

    async fn poll(&mut self, index: usize) {
        let one = &mut self.subscriptions[index];
        let (alone, subscribed) = one.topic.polls();
        let tells = one
            .granted
            .as_ref()
            .is_some_and(|(_, sequence)| *sequence != Sequence::default());
        let every = if tells { subscribed } else { alone };
        if one.topic == Topic::Directory {
            let answer = call(&one.service, "GetSystemUpdateID", &[]).await;
            let id = answer.ok().and_then(|a| a.text("Id").ok()?.parse().ok());
            if let Some(id) = id {
                one.updated(id, None, &self.teller);
            }
        } else {
            one.tell_anything(&self.teller);
        }
        one.poll = Instant::now() + every;
    }

    /// Tells the device that nobody listens any more (§4.1.4).
    async fn leave(&mut self) {
        for one in &mut self.subscriptions {
            let granted = one.granted.take().map(|(granted, _)| granted);
            for granted in [granted, one.stale.take()].into_iter().flatten() {
                // It would forget us by itself.
                let _ = request(&one.service, "UNSUBSCRIBE", &[("sid", &granted.sid)]).await;
            }
        }
    }
}

impl Subscription {
    /// Says what a notification means.
    fn judge(&mut self, properties: &[(String, String)], teller: &Teller) {
        let of = |name: &str| {
            let found = properties.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        match self.topic {
            Topic::Directory => {
                let changed = of("ContainerUpdateIDs").and_then(wire::parse_container_updates);
                let id = of("SystemUpdateID").and_then(|text| text.trim().parse().ok());
                match (id, changed) {
                    (Some(id), changed) => self.updated(id, changed, teller),
                    // Only containers are told: the first notification lists the latest, which are no news.
                    (None, Some(changed)) if self.update.is_some() => {
                        teller.tell(Change::Media(changed));
                    }
                    (None, _) => {}
                }
            }
            Topic::Transport | Topic::Rendering => {
                let names = of("LastChange").map(wire::parse_last_change);
                // A LastChange that cannot be read still says that something changed; an empty one says nothing.
                if !matches!(names, Some(Ok(ref names)) if names.is_empty()) {
                    self.tell_anything(teller);
                }
            }
        }
    }

    /// SystemUpdateID is `id` now. What changed is told when it is not what it was; the first one is no news.
    fn updated(&mut self, id: u32, changed: Option<MediaChange>, teller: &Teller) {
        if self.update.replace(id).is_some_and(|before| before != id) {
            teller.tell(Change::Media(changed.unwrap_or(MediaChange::Anything)));
        }
    }

    fn tell_anything(&self, teller: &Teller) {
        teller.tell(match self.topic {
            Topic::Transport => Change::Playing,
            Topic::Rendering => Change::Loudness,
            Topic::Directory => Change::Media(MediaChange::Anything),
        });
    }
}

/// One request about a subscription; what was granted, if anything.
async fn request(
    service: &Service,
    method: &'static str,
    headers: &[(&'static str, &str)],
) -> Result<Option<Granted>, HttpError> {
    let Some(url) = &service.events else {
        return Ok(None);
    };
    let mut all: Vec<(HeaderName, String)> = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), (*value).to_owned()))
        .collect();
    if method == "SUBSCRIBE" {
        let wanted = format!("Second-{}", wire::WANTED_SECONDS);
        all.push((HeaderName::from_static("timeout"), wanted));
    }
    let request = Request {
        method: Method::from_bytes(method.as_bytes()).expect("both methods are tokens"),
        url,
        headers: all,
        body: Bytes::new(),
    };
    let answer = http::exchange(request, ANSWER_BYTES, REQUEST_TIME).await?;
    if !answer.status.is_success() {
        return Err(HttpError::Status(answer.status.as_u16()));
    }
    let header = |name: &str| answer.headers.get(name)?.to_str().ok();
    Ok(wire::parse_granted(header("sid"), header("timeout")))
}
