//! What the gateway's unit lets it open (systemd/mantel-gateway.service): sound, video, USB and disc drives, and no
//! other device of the machine.

use anyhow::{Result, ensure};
use mantel_tests::lab::{Guest, Session, until_ok};

use super::bench::{Bench, STEP};

/// The gateway's groups: its own, to which the devices belong (systemd/99-mantel-media.rules).
const GROUPS: [&str; 1] = ["mantel"];
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

/// How exposed a unit may be at most, in tenths, as systemd-analyze(1) counts: 0 is closed, 100 is open.
const EXPOSURE: [(&str, u32); 9] = [
    ("mantel-gateway.service", 15),
    ("mantel-server.service", 13),
    ("mantel-media-worker@.service", 5),
    ("mantel-media-eject.service", 25),
    ("mantel-console.service", 25),
    ("mantel-good.service", 25),
    ("mantel-request.service", 25),
    ("mantel-safe@.service", 25),
    ("mantel-system.service", 25),
];
/// The server's unit is no part of the appliance.
const SERVER_UNIT: &str = include_str!("../../../systemd/mantel-server.service");

/// Who opens a device.
#[derive(Clone, Copy)]
enum Who {
    Root,
    RootInUnit,
    Gateway,
}

/// What systemd says of the units that this project adds; there is none that is not looked at.
pub async fn exposure(bench: &Bench) -> Result<()> {
    let guest = &bench.guest;
    guest
        .shell(&format!(
            "mkdir -p /run/exposure && cat >/run/exposure/mantel-server.service <<'UNIT'\n{SERVER_UNIT}UNIT"
        ))
        .await?;
    let all = guest
        .shell("cd /usr/lib/systemd/system && ls -1 mantel-*.service")
        .await?;
    let known = |unit: &str| EXPOSURE.iter().any(|(name, _)| *name == unit);
    ensure!(all.lines().all(known), "a unit is not looked at: {all}");
    for (unit, most) in EXPOSURE {
        let said = guest
            .shell(&format!(
                "cd /run/exposure; f={unit}; [ -f $f ] || f=/usr/lib/systemd/system/$f; \
                 systemd-analyze security --offline=yes --threshold={most} $f >out && echo closed; \
                 sed -n 's/.*exposure level for //p' out"
            ))
            .await?;
        println!("    {}", said.trim_start_matches("closed").trim());
        ensure!(said.starts_with("closed"), "{unit} is open too far: {said}");
    }
    Ok(())
}

/// The server starts under its unit, and answers; then it is let go.
pub async fn server(bench: &Bench) -> Result<()> {
    let guest = &bench.guest;
    guest
        .shell(
            "set -e; mkdir -p /run/server /run/credstore /run/systemd/system/mantel-server.service.d
             mount -t squashfs -o ro $(blkid -t TYPE=squashfs -o device /dev/vd[b-z]) /run/server
             cp /run/exposure/mantel-server.service /run/systemd/system/
             echo 'name = \"Trial server\"' >/run/credstore/mantel-server.toml; chmod 600 /run/credstore/*
             printf '[Service]\\nExecStart=\\nExecStart=/run/server/mantel-server\\n' \
                 >/run/systemd/system/mantel-server.service.d/program.conf
             systemctl daemon-reload; systemctl start mantel-server || { journalctl -u mantel-server -n 30; exit 1; }",
        )
        .await?;
    let address = bench.site.net.home("h")?.gateway().addr();
    let api = Session::new(&format!("https://{address}:8443"))?;
    let card = until_ok("the server's API", STEP, async || {
        api.get("/v1/server").await?.ok()
    })
    .await?;
    let named = card.body.contains("Trial server");
    ensure!(named, "its configuration was not read: {}", card.body);
    let said = guest
        .shell("systemctl show -P StatusText,NRestarts mantel-server; systemctl stop mantel-server; systemctl is-failed mantel-server || true")
        .await?;
    ensure!(said.ends_with("inactive"), "it did not end well: {said}");
    Ok(())
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
