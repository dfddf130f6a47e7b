//! What the gateway's unit lets it open (systemd/mantel-gateway.service): sound, video, USB and disc drives, and no
//! other device of the machine.

use anyhow::{Result, ensure};
use mantel_tests::lab::Guest;

use super::bench::Bench;

/// The gateway's groups, in order.
const GROUPS: [&str; 4] = ["audio", "cdrom", "mantel", "video"];
/// What it opens for reading and writing; the phone's node is added.
const OPEN: [&str; 3] = ["/dev/video0", "/dev/snd/controlC0", "/dev/snd/pcmC0D0p"];
/// What it opens for reading.
const READ: &str = "/dev/sr0";
/// What even root does not open from within the unit, though it does from without.
const CLOSED: [&str; 6] = [
    "/dev/vda",
    "/dev/sda",
    "/dev/sda1",
    "/dev/ttyS0",
    "/dev/kmsg",
    "/dev/mem",
];
/// Where the unit's processes are.
const UNIT: &str = "/sys/fs/cgroup/system.slice/mantel-gateway.service/cgroup.procs";

/// Who opens a device.
#[derive(Clone, Copy)]
enum Who {
    Root,
    RootInUnit,
    Gateway,
}

/// Opens devices as the gateway would: with its user, its groups and its unit's filter.
pub async fn rights(bench: &Bench) -> Result<()> {
    let guest = &bench.guest;
    let pid = guest
        .shell("systemctl show --property=MainPID --value mantel-gateway")
        .await?;
    let groups = guest
        .shell(&format!(
            "for g in $(sed -n 's/^Groups://p' /proc/{pid}/status); do getent group $g | cut -d: -f1; done | sort"
        ))
        .await?;
    ensure!(
        groups.lines().eq(GROUPS),
        "the gateway's groups: {groups:?}"
    );
    let rights = guest
        .shell(&format!(
            "sed -n 's/^Cap[PEBA][a-z]*:[^0-9]*//p' /proc/{pid}/status | sort -u"
        ))
        .await?;
    ensure!(
        rights == "0000000000000000",
        "the gateway's capabilities: {rights}"
    );
    let phone = guest
        .shell(
            "for d in /sys/bus/usb/devices/*; do if grep -qs ^0004 $d/idProduct; then \
             sed -n 's/^DEVNAME=/\\/dev\\//p' $d/uevent; fi; done",
        )
        .await?;
    for file in OPEN.into_iter().chain([phone.as_str()]) {
        let said = open(guest, Who::Gateway, "<>", file).await?;
        ensure!(said.is_empty(), "the gateway cannot open {file}: {said}");
    }
    let said = open(guest, Who::Gateway, "<", READ).await?;
    ensure!(said.is_empty(), "the gateway cannot read {READ}: {said}");
    for file in CLOSED {
        let said = open(guest, Who::Root, "<", file).await?;
        ensure!(said.is_empty(), "root cannot open {file}: {said}");
        let said = open(guest, Who::RootInUnit, "<", file).await?;
        ensure!(
            said.contains("not permitted"),
            "the gateway's unit lets one open {file}: {said:?}"
        );
    }
    println!("    groups {groups:?}; opens {OPEN:?}, {phone}, {READ}; not {CLOSED:?}");
    Ok(())
}

/// Opens `file` in a process of its own; what the shell complained of.
async fn open(guest: &Guest, who: Who, how: &str, file: &str) -> Result<String> {
    let enter = match who {
        Who::Root => String::new(),
        Who::RootInUnit | Who::Gateway => format!("echo $$ >{UNIT} && "),
    };
    let become_it = match who {
        Who::Root | Who::RootInUnit => String::new(),
        Who::Gateway => format!(
            "setpriv --reuid=mantel --regid=mantel --groups={} ",
            GROUPS.join(",")
        ),
    };
    guest
        .shell(&format!(
            "sh -c '{enter}exec {become_it}sh -c \"exec 3{how}{file}\"' 2>&1 || true"
        ))
        .await
}
