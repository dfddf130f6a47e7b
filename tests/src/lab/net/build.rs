//! Building a net: bridges, cables, addresses and routes.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::super::guard::Claim;
use super::{Home, Mode, Net, Place, ip};

/// The last number of a router's address in its home.
pub(super) const ROUTER_HOST: u8 = 1;
/// The last number of a gateway's address in its home.
const GATEWAY_HOST: u8 = 2;
/// The last number of the address of a home's first device.
const FIRST_DEVICE_HOST: u8 = 10;
/// The last number of the address of a home's router on the internet, for the first home.
const FIRST_ROUTER_HOST: u8 = 11;
/// The last number of the laboratory's own address on each network.
const LAB_HOST: u8 = 254;

pub(super) fn loopback(claim: Claim, homes: &[(String, Vec<String>)], folder: PathBuf) -> Net {
    let slot = claim.slot;
    let place = |name: String, network: u8, host: u8| Place {
        name,
        netns: None,
        interface: "lo".to_owned(),
        addr: Ipv4Addr::new(127, 64 + slot, network, host),
        lab_addr: Ipv4Addr::LOCALHOST,
        port: None,
    };
    let homes = (1u8..).zip(homes).map(|(network, (name, devices))| Home {
        name: name.clone(),
        router: None,
        wan: Ipv4Addr::LOCALHOST,
        network: String::new(),
        gateway: place(format!("{name}-gw"), network, GATEWAY_HOST),
        devices: (FIRST_DEVICE_HOST..)
            .zip(devices)
            .map(|(host, device)| place(format!("{name}-{device}"), network, host))
            .collect(),
    });
    let homes = homes.collect();
    let server = place("server".to_owned(), 0, 1);
    Net {
        mode: Mode::Loopback,
        server,
        homes,
        folder,
        claim,
    }
}

pub(super) fn namespaces(
    claim: Claim,
    homes: &[(String, Vec<String>)],
    folder: PathBuf,
) -> Result<Net> {
    let prefix = claim.prefix.clone();
    let slot = claim.slot;
    let internet = Network {
        space: format!("{prefix}i"),
        base: Ipv4Addr::new(198, 18, slot, 0),
        leg: format!("{prefix}l"),
    };
    new_space(&internet.space, "0")?;
    internet.bridge()?;
    internet.add_leg()?;
    let server = internet.attach("server", &format!("{prefix}s"), "srv", 1)?;

    let mut built = Vec::new();
    for (index, (name, devices)) in (0u8..).zip(homes) {
        // The router of a home is where its LAN's bridge is, as in the box from the shop.
        let lan = Network {
            space: format!("{prefix}r{name}"),
            base: Ipv4Addr::new(10, 213, slot * 8 + index + 1, 0),
            leg: format!("{prefix}l{index}"),
        };
        new_space(&lan.space, "1")?;
        lan.bridge()?;
        ip(&[
            "-n",
            &lan.space,
            "addr",
            "add",
            &format!("{}/24", lan.host(ROUTER_HOST)),
            "dev",
            "br0",
        ])?;
        lan.add_leg()?;
        let wan = internet.host(FIRST_ROUTER_HOST + index);
        let port = format!("h{index}");
        cable(&lan.space, "wan0", &internet.space, &port)?;
        ip(&[
            "-n",
            &lan.space,
            "addr",
            "add",
            &format!("{wan}/24"),
            "dev",
            "wan0",
        ])?;
        ip(&["-n", &lan.space, "link", "set", "wan0", "up"])?;
        ip(&[
            "-n",
            &internet.space,
            "link",
            "set",
            &port,
            "master",
            "br0",
            "up",
        ])?;
        ip(&[
            "-n",
            &internet.space,
            "link",
            "set",
            &port,
            "type",
            "bridge_slave",
            "isolated",
            "on",
        ])?;
        // The server answers homes through their routers, and has no other way into them.
        let server_space = server.netns().context("the server has a namespace")?;
        let via = wan.to_string();
        ip(&[
            "-n",
            server_space,
            "route",
            "add",
            &lan.network(),
            "via",
            &via,
        ])?;

        let member = |device: &str, host: u8| -> Result<Place> {
            let space = format!("{prefix}{name}-{device}");
            let place = lan.attach(&format!("{name}-{device}"), &space, device, host)?;
            ip(&[
                "-n",
                &space,
                "route",
                "add",
                "default",
                "via",
                &lan.host(ROUTER_HOST).to_string(),
            ])?;
            Ok(place)
        };
        let gateway = member("gw", GATEWAY_HOST)?;
        let devices = (FIRST_DEVICE_HOST..)
            .zip(devices)
            .map(|(host, device)| member(device, host))
            .collect::<Result<_>>()?;
        let network = lan.network();
        let router = Some(lan.space);
        built.push(Home {
            name: name.clone(),
            router,
            wan,
            network,
            gateway,
            devices,
        });
    }
    Ok(Net {
        mode: Mode::Namespaces,
        server,
        homes: built,
        folder,
        claim,
    })
}

/// A network under construction: a bridge in a namespace, and the laboratory's leg on it.
struct Network {
    space: String,
    base: Ipv4Addr,
    leg: String,
}

impl Network {
    fn host(&self, host: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.base.octets();
        Ipv4Addr::new(a, b, c, host)
    }

    fn network(&self) -> String {
        format!("{}/24", self.base)
    }

    fn bridge(&self) -> Result<()> {
        // A snooping bridge without a multicast router would lose SSDP and mDNS after a while.
        ip(&[
            "-n",
            &self.space,
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ])?;
        ip(&["-n", &self.space, "link", "set", "br0", "up"])
    }

    /// Gives the laboratory an address on this network; it forwards nothing from there.
    fn add_leg(&self) -> Result<()> {
        let leg = &self.leg;
        ip(&[
            "link",
            "add",
            leg,
            "type",
            "veth",
            "peer",
            "name",
            "lab",
            "netns",
            &self.space,
        ])?;
        ip(&[
            "-n",
            &self.space,
            "link",
            "set",
            "lab",
            "master",
            "br0",
            "up",
        ])?;
        let forwarding = format!("/proc/sys/net/ipv4/conf/{leg}/forwarding");
        std::fs::write(&forwarding, "0").with_context(|| format!("writing {forwarding}"))?;
        ip(&[
            "addr",
            "add",
            &format!("{}/24", self.host(LAB_HOST)),
            "dev",
            leg,
        ])?;
        ip(&["link", "set", leg, "up"])
    }

    /// A new namespace with a cable to this network and an address on it.
    fn attach(&self, name: &str, space: &str, port: &str, host: u8) -> Result<Place> {
        new_space(space, "0")?;
        cable(space, "eth0", &self.space, port)?;
        ip(&[
            "-n",
            &self.space,
            "link",
            "set",
            port,
            "master",
            "br0",
            "up",
        ])?;
        ip(&[
            "-n",
            space,
            "addr",
            "add",
            &format!("{}/24", self.host(host)),
            "dev",
            "eth0",
        ])?;
        ip(&["-n", space, "link", "set", "eth0", "up"])?;
        ip(&["-n", space, "route", "add", "224.0.0.0/4", "dev", "eth0"])?;
        Ok(Place {
            name: name.to_owned(),
            netns: Some(space.to_owned()),
            interface: "eth0".to_owned(),
            addr: self.host(host),
            lab_addr: self.host(LAB_HOST),
            port: Some((self.space.clone(), port.to_owned())),
        })
    }
}

/// Makes a namespace with its loopback up; `forwarding` is "1" for a router, else "0".
fn new_space(space: &str, forwarding: &str) -> Result<()> {
    ip(&["netns", "add", space])?;
    ip(&["-n", space, "link", "set", "lo", "up"])?;
    // Duplicate address detection would make binds to IPv6 fail for 1.5 s.
    let settings = format!(
        "cd /proc/sys/net && echo {forwarding} > ipv4/ip_forward && \
         if [ -d ipv6 ]; then echo 0 > ipv6/conf/all/accept_dad; echo 0 > ipv6/conf/default/accept_dad; fi"
    );
    ip(&["netns", "exec", space, "sh", "-c", &settings])
}

/// Makes a cable between two namespaces.
fn cable(from: &str, from_name: &str, to: &str, to_name: &str) -> Result<()> {
    let mut args = vec!["link", "add", from_name, "netns", from, "type", "veth"];
    args.extend(["peer", "name", to_name, "netns", to]);
    ip(&args)
}
