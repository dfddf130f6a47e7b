//! An emulated machine's cable into a home's network: a bridge at the gateway's place, and a router that gives the
//! machine that place's address by DHCP (dnsmasq). It is a device among the others: they see its multicast, it sees
//! theirs.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::net::{Home, ip};
use super::process::Proc;

/// The machine's hardware address.
const MAC: &str = "52:54:00:12:34:56";
/// Its interface at the place, beside the place's own.
const TAP: &str = "tap0";

/// A cable that is plugged in; the router stops giving addresses when it is dropped.
#[derive(Debug)]
pub(super) struct Lan {
    _router: Proc,
}

impl Lan {
    /// Takes the place of the home's gateway for a machine: its address, its cable.
    pub(super) async fn plug(home: &Home, folder: &Path) -> Result<Self> {
        let (place, router) = (home.gateway(), home.router()?);
        let space = place.netns().context("a namespace")?;
        let port = place.interface();
        // A second machine at the same place finds the cable there.
        if ip(&["-n", space, "link", "show", TAP]).is_err() {
            for words in [
                &[
                    "link",
                    "add",
                    "lan",
                    "type",
                    "bridge",
                    "mcast_snooping",
                    "0",
                ][..],
                &["tuntap", "add", TAP, "mode", "tap"],
                &["addr", "flush", "dev", port],
                &["link", "set", port, "master", "lan"],
                &["link", "set", TAP, "master", "lan", "up"],
                &["link", "set", "lan", "up"],
            ] {
                ip(&[&["-n", space], words].concat())?;
            }
        }
        let address = place.addr();
        let router = router
            .run("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--user=root",
                "--port=0",
            ])
            .args([
                "--leasefile-ro",
                "--no-ping",
                "--dhcp-authoritative",
                "--pid-file",
            ])
            .arg(format!("--interface={}", router.interface()))
            .arg("--bind-interfaces")
            .arg(format!(
                "--dhcp-range={address},{address},255.255.255.0,12h"
            ))
            .arg(format!("--dhcp-host={MAC},{address}"))
            .log(folder.join(format!("{}-dhcp.log", place.name())))
            .spawn()
            .await?;
        Ok(Self { _router: router })
    }

    /// QEMU's words for it.
    pub(super) fn words() -> [String; 4] {
        [
            "-netdev".to_owned(),
            format!("tap,id=lan,ifname={TAP},script=no,downscript=no"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=lan,mac={MAC}"),
        ]
    }
}
