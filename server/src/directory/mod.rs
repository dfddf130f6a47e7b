//! The directory: knows a home by name, IP address, MAC address, serial number or device key (F5), and tells one home
//! where another is (F6). Presence comes from the broker and from the gateways' reports.

pub mod store;

use crate::customers::{Caller, read_mac};
use crate::error::{Result, bad, clean};
use crate::notice::Notices;
use jiff::{SignedDuration, Timestamp};
use mantel_protocol::api::{MAX_ADDRESSES, PresenceReport};
use mantel_protocol::ids::{CustomerId, HomeId};
use mantel_protocol::key::{DeviceId, SealKey};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};

/// A home that reported by the API within this time is online, even if the broker does not see it.
pub const REPORT_HOLDS: SignedDuration = SignedDuration::from_secs(75);
/// The longest address in a look-up, characters.
pub const MAX_ADDRESS_CHARS: usize = 100;
/// The longest version text of a gateway, characters.
const MAX_VERSION_CHARS: usize = 60;

/// A home, with where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeRow {
    /// Which.
    pub id: HomeId,
    /// Whose.
    pub customer: CustomerId,
    /// Their name.
    pub customer_name: String,
    /// What the household calls itself.
    pub name: String,
    /// Its gateway.
    pub device: DeviceId,
    /// The gateway's key for encryption.
    pub seal_key: SealKey,
    /// The gateway's serial number.
    pub serial: Option<String>,
    /// The gateway's MAC addresses.
    pub macs: Vec<String>,
    /// Since when.
    pub enrolled: Timestamp,
    /// Whether the account is in good standing.
    pub active: bool,
    /// Whether it is connected now.
    pub online: bool,
    /// Its last report.
    pub last_seen: Option<Timestamp>,
    /// Where its chunk listener may be reached.
    pub addresses: Vec<SocketAddr>,
    /// The address from which its last report came.
    pub observed: Option<String>,
    /// Free bytes in its store.
    pub free_bytes: Option<u64>,
    /// The version of its program.
    pub version: Option<String>,
}

impl HomeRow {
    /// Where it may be reached: as reported, and at the observed address with the reported port (a port forwarded by
    /// hand, or a router that the gateway does not know of).
    pub fn reachable_at(&self) -> Vec<SocketAddr> {
        let mut addresses = self.addresses.clone();
        let observed = self
            .observed
            .as_deref()
            .and_then(|text| text.parse::<IpAddr>().ok());
        if let (Some(ip), Some(first)) = (observed, self.addresses.first())
            && !self.addresses.iter().any(|address| address.ip() == ip)
        {
            addresses.push(SocketAddr::new(ip, first.port()));
        }
        addresses
    }
}

/// What a look-up names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An IP address.
    Ip(IpAddr),
    /// A MAC address.
    Mac(String),
    /// A device key.
    Device(DeviceId),
    /// A home's id.
    Home(HomeId),
    /// A home's name or its gateway's serial number.
    Text(String),
}

impl Found {
    /// Tells what kind of address a text is.
    pub fn read(text: &str) -> Result<Self> {
        let text = clean(text, MAX_ADDRESS_CHARS, "the address")?;
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        if let Some(mac) = read_mac(&text) {
            return Ok(Self::Mac(mac));
        }
        if let Ok(device) = text.parse() {
            return Ok(Self::Device(device));
        }
        Ok(text.parse().map_or(Self::Text(text), Self::Home))
    }
}

/// The directory; cheap to clone.
#[derive(Clone)]
pub struct Directory {
    db: Db,
    clock: Clock,
    notices: Notices,
    /// `None`: connected to the broker; otherwise when it left.
    broker: Arc<RwLock<HashMap<DeviceId, Option<Timestamp>>>>,
}

impl Directory {
    /// Over an open database; nobody is connected yet.
    pub fn new(db: Db, clock: Clock, notices: Notices) -> Self {
        Self {
            db,
            clock,
            notices,
            broker: Arc::default(),
        }
    }

    /// The broker saw a gateway connect.
    pub fn online(&self, device: DeviceId) {
        self.broker
            .write()
            .expect("no holder of this lock panics")
            .insert(device, None);
        self.notices.changed();
    }

    /// The broker saw a gateway go.
    pub fn offline(&self, device: DeviceId) {
        let now = self.clock.now();
        self.broker
            .write()
            .expect("no holder of this lock panics")
            .insert(device, Some(now));
        self.notices.changed();
    }

    /// Takes a gateway's report; the canonical observed address comes back.
    pub async fn report(
        &self,
        caller: &Caller,
        report: PresenceReport,
        from: IpAddr,
    ) -> Result<String> {
        if report.addresses.len() > MAX_ADDRESSES {
            return Err(bad(format!(
                "a gateway reports at most {MAX_ADDRESSES} addresses"
            )));
        }
        let version = clean(&report.version, MAX_VERSION_CHARS, "the version")?;
        let usable = |address: &SocketAddr| {
            address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
        };
        let addresses: Vec<SocketAddr> = report.addresses.into_iter().filter(usable).collect();
        let (observed, now, home) = (
            from.to_canonical().to_string(),
            self.clock.now(),
            caller.home,
        );
        let (seen, free) = (observed.clone(), report.free_bytes);
        self.db
            .write(move |tx| store::report(tx, home, &addresses, &seen, free, &version, now))
            .await?;
        Ok(observed)
    }

    /// All homes, or those of one customer, by name.
    pub async fn homes(&self, customer: Option<CustomerId>) -> Result<Vec<HomeRow>> {
        let rows = self
            .db
            .read(move |c| match customer {
                Some(customer) => store::homes_of(c, &customer.to_string()),
                None => store::homes(c),
            })
            .await?;
        Ok(self.seen(rows))
    }

    /// One home.
    pub async fn home(&self, id: HomeId) -> Result<Option<HomeRow>> {
        let row = self.db.read(move |c| store::home(c, id)).await?;
        Ok(self.seen(row.into_iter().collect()).pop())
    }

    /// The homes that an address names (F5, F6).
    pub async fn look_up(&self, address: &str) -> Result<Vec<HomeRow>> {
        let address = Found::read(address)?;
        Ok(self.seen(self.db.read(move |c| store::look_up(c, &address)).await?))
    }

    fn seen(&self, mut rows: Vec<HomeRow>) -> Vec<HomeRow> {
        let now = self.clock.now();
        let broker = self.broker.read().expect("no holder of this lock panics");
        for row in &mut rows {
            let left = broker.get(&row.device);
            row.online = match (left, row.last_seen) {
                (Some(None), _) => true,
                (Some(Some(left)), Some(seen)) => {
                    seen > *left && now.duration_since(seen) < REPORT_HOLDS
                }
                (None, Some(seen)) => now.duration_since(seen) < REPORT_HOLDS,
                (_, None) => false,
            };
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_kinds_of_address_apart() {
        let home = HomeId::generate();
        let device = DeviceId([7; 32]);
        let cases = [
            ("::ffff:10.0.0.1", Found::Ip(IpAddr::from([10, 0, 0, 1]))),
            ("AA:BB:CC:00:11:22", Found::Mac("aa:bb:cc:00:11:22".into())),
            (&device.to_string(), Found::Device(device)),
            (&home.to_string(), Found::Home(home)),
            (" Home of Anna ", Found::Text("Home of Anna".into())),
        ];
        for (text, found) in cases {
            assert_eq!(Found::read(text).expect("fine"), found);
        }
        assert!(Found::read("").is_err() && Found::read(&"x".repeat(200)).is_err());
    }
}
