//! Events (GENA, UPnP Device Architecture 1.1 §4): who follows SystemUpdateID and ContainerUpdateIDs, and telling them.
//!
//! A callback goes only to the address that subscribed, whatever the request says: else anybody could make this gateway
//! knock at other machines (the flaw known as CallStranger). Followers, their callbacks and the time spent on each are
//! bounded; changes are told at most every [`TELL_EVERY`].

use mantel_peripherals::url::DeviceUrl;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most followers.
pub const MAX_FOLLOWERS: usize = 64;
/// The most followers at one address.
const MAX_AT_ONE_ADDRESS: usize = 8;
/// The longest subscription, seconds.
pub const MAX_LIFE_S: u64 = 1800;
/// ContentDirectory:1 §2.5.20 moderates both variables; during an import this spares televisions as well.
pub const TELL_EVERY: Duration = Duration::from_secs(2);
/// How long telling one follower may take.
const TELL_TIME: Duration = Duration::from_secs(5);
/// Failures after which a follower is forgotten.
const MAX_FAILURES: u32 = 3;

/// Which service is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// ContentDirectory.
    Directory,
    /// ConnectionManager; its variables never change.
    Connections,
}

/// One follower.
#[derive(Debug, Clone)]
pub struct Follower {
    /// Its subscription id, `uuid:…`.
    pub sid: String,
    /// What it follows.
    pub service: Service,
    callback: DeviceUrl,
    address: IpAddr,
    /// Of a link-local address: on which interface it is.
    scope: u32,
    sequence: u32,
    failures: u32,
    ends: Duration,
}

/// Why a subscription is refused: the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 400: headers that exclude each other.
    Bad,
    /// 412: no such subscription, or no callback at the subscriber's address.
    Precondition,
    /// 503: there are too many.
    Full,
}

impl Refused {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Bad => 400,
            Self::Precondition => 412,
            Self::Full => 503,
        }
    }
}

/// All followers.
#[derive(Default)]
pub struct Followers(Mutex<Vec<Follower>>);

/// Seconds of a TIMEOUT header (`Second-1800`), within the limit.
pub fn life(header: Option<&str>) -> u64 {
    let asked = header
        .and_then(|text| text.trim().get(7..))
        .and_then(|text| text.parse().ok());
    asked.unwrap_or(MAX_LIFE_S).clamp(60, MAX_LIFE_S)
}

/// The first callback of a CALLBACK header (`<http://…><http://…>`) that is at `address`.
fn callback(header: &str, address: IpAddr) -> Option<DeviceUrl> {
    header
        .split('<')
        .skip(1)
        .filter_map(|part| part.split('>').next())
        .take(4)
        .find_map(|url| DeviceUrl::parse(url, address).ok())
}

impl Followers {
    fn change<T>(&self, now: Duration, change: impl FnOnce(&mut Vec<Follower>) -> T) -> T {
        let mut all = self.0.lock().expect("no holder of this lock panics");
        all.retain(|follower| follower.ends > now);
        change(&mut all)
    }

    /// Takes a new follower in.
    pub fn add(
        &self,
        service: Service,
        header: &str,
        peer: SocketAddr,
        life_s: u64,
        now: Duration,
    ) -> Result<Follower, Refused> {
        let address = peer.ip().to_canonical();
        let scope = match peer {
            SocketAddr::V6(peer) => peer.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let callback = callback(header, address).ok_or(Refused::Precondition)?;
        let mut random = [0u8; 16];
        aws_lc_rs::rand::fill(&mut random).expect("the operating system gives random bytes");
        let follower = Follower {
            sid: format!(
                "uuid:{}",
                uuid::Builder::from_random_bytes(random).into_uuid()
            ),
            service,
            callback,
            address,
            scope,
            sequence: 0,
            failures: 0,
            ends: now + Duration::from_secs(life_s),
        };
        self.change(now, |all| {
            let there = all.iter().filter(|one| one.address == address).count();
            if all.len() >= MAX_FOLLOWERS || there >= MAX_AT_ONE_ADDRESS {
                return Err(Refused::Full);
            }
            all.push(follower.clone());
            Ok(follower)
        })
    }

    /// Renews a subscription.
    pub fn renew(
        &self,
        sid: &str,
        address: IpAddr,
        life_s: u64,
        now: Duration,
    ) -> Result<(), Refused> {
        let address = address.to_canonical();
        self.change(now, |all| {
            let found = all
                .iter_mut()
                .find(|one| one.sid == sid && one.address == address);
            found.ok_or(Refused::Precondition)?.ends = now + Duration::from_secs(life_s);
            Ok(())
        })
    }

    /// Ends a subscription.
    pub fn remove(&self, sid: &str, address: IpAddr, now: Duration) -> Result<(), Refused> {
        let address = address.to_canonical();
        self.change(now, |all| {
            let before = all.len();
            all.retain(|one| one.sid != sid || one.address != address);
            if all.len() == before {
                return Err(Refused::Precondition);
            }
            Ok(())
        })
    }

    /// Who is to be told about a service, each with its next sequence number.
    pub fn of(&self, service: Service, now: Duration) -> Vec<Follower> {
        self.change(now, |all| {
            all.iter()
                .filter(|one| one.service == service)
                .cloned()
                .collect()
        })
    }

    /// Tells one follower. It is forgotten after [`MAX_FAILURES`] in a row.
    pub async fn tell(&self, follower: &Follower, properties: &[(&str, String)], now: Duration) {
        let sequence = self.change(now, |all| {
            let one = all.iter_mut().find(|one| one.sid == follower.sid)?;
            let sequence = one.sequence;
            // 0 is the first event only (§4.3.2).
            one.sequence = one.sequence.checked_add(1).unwrap_or(1);
            Some(sequence)
        });
        let Some(sequence) = sequence else { return };
        let message = notification(follower, sequence, properties);
        let sent = tokio::time::timeout(TELL_TIME, send(follower, &message)).await;
        let well = matches!(sent, Ok(Ok(true)));
        if !well {
            tracing::debug!(to = %follower.address, "a follower was not told");
        }
        self.change(now, |all| {
            all.retain_mut(|one| {
                if one.sid == follower.sid {
                    one.failures = if well { 0 } else { one.failures + 1 };
                }
                one.failures < MAX_FAILURES
            });
        });
    }
}

fn notification(follower: &Follower, sequence: u32, properties: &[(&str, String)]) -> String {
    use std::fmt::Write as _;
    let mut body = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<e:propertyset xmlns:e=\"urn:schemas-upnp-org:event-1-0\">",
    );
    for (name, value) in properties {
        let value = mantel_peripherals::xml::escape(value);
        write!(body, "<e:property><{name}>{value}</{name}></e:property>")
            .expect("a String takes all");
    }
    body.push_str("</e:propertyset>");
    format!(
        "NOTIFY {} HTTP/1.1\r\nHOST: {}\r\nCONTENT-TYPE: text/xml; charset=\"utf-8\"\r\nCONTENT-LENGTH: {}\r\n\
         NT: upnp:event\r\nNTS: upnp:propchange\r\nSID: {}\r\nSEQ: {sequence}\r\nCONNECTION: close\r\n\r\n{body}",
        follower.callback.target(),
        SocketAddr::new(follower.callback.host(), follower.callback.port()),
        body.len(),
        follower.sid
    )
}

/// Sends a notification; whether it was taken.
async fn send(follower: &Follower, message: &str) -> std::io::Result<bool> {
    let (host, port) = (follower.callback.host(), follower.callback.port());
    let to = match host {
        IpAddr::V4(_) => SocketAddr::new(host, port),
        IpAddr::V6(host) => SocketAddrV6::new(host, port, 0, follower.scope).into(),
    };
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(message.as_bytes()).await?;
    // The status line is all that counts: `HTTP/1.1 200`.
    let mut head = [0u8; 12];
    stream.read_exact(&mut head).await?;
    Ok(head.starts_with(b"HTTP/1.") && head.ends_with(b"200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_callback_stays_at_the_subscribers_address() {
        let followers = Followers::default();
        let add = |header: &str| {
            followers.add(
                Service::Directory,
                header,
                (at(7), 5).into(),
                1800,
                Duration::ZERO,
            )
        };
        assert!(add("<http://10.0.0.7:49152/event>").is_ok());
        assert!(add("<http://10.0.0.8/x><http://10.0.0.7:1/y>").is_ok());
        for header in [
            "<http://10.0.0.8:49152/event>",
            "<http://example.org/>",
            "<http://127.0.0.1/>",
            "http://10.0.0.7/",
            "",
        ] {
            assert_eq!(add(header).err(), Some(Refused::Precondition), "{header}");
        }
    }

    #[test]
    fn followers_are_bounded_and_end() {
        let followers = Followers::default();
        let add = |last: u8, now| {
            let header = format!("<http://10.0.0.{last}/>");
            followers.add(Service::Directory, &header, (at(last), 5).into(), 60, now)
        };
        for _ in 0..MAX_AT_ONE_ADDRESS {
            add(1, Duration::ZERO).expect("taken in");
        }
        assert_eq!(add(1, Duration::ZERO).err(), Some(Refused::Full));
        let mine = add(2, Duration::ZERO).expect("taken in");
        let sid = &mine.sid;
        let later = Duration::from_secs(50);
        assert_eq!(
            followers.renew(sid, at(3), 60, later),
            Err(Refused::Precondition)
        );
        assert_eq!(followers.renew(sid, at(2), 60, later), Ok(()));
        let then = Duration::from_secs(70);
        assert_eq!(followers.of(Service::Directory, then).len(), 1);
        assert!(followers.of(Service::Connections, then).is_empty());
        assert_eq!(followers.remove(sid, at(2), then), Ok(()));
        assert_eq!(
            followers.remove(sid, at(2), then),
            Err(Refused::Precondition)
        );
    }

    #[test]
    fn arbitrary_subscriptions_stay_at_the_subscriber() {
        proptest::proptest!(|(text: String, near in "[<>htp:/.0-9]{0,60}")| {
            for header in [text, near] {
                if let Some(url) = callback(&header, at(7)) {
                    assert_eq!(url.host(), at(7));
                }
                assert!((60..=MAX_LIFE_S).contains(&life(Some(&header))));
            }
        });
    }

    #[test]
    fn lives_are_read_within_bounds() {
        assert_eq!(life(Some("Second-300")), 300);
        assert_eq!(life(Some("Second-infinite")), MAX_LIFE_S);
        assert_eq!(life(Some("Second-1")), 60);
        assert_eq!(life(Some("é")), MAX_LIFE_S);
        assert_eq!(life(None), MAX_LIFE_S);
    }
}
