//! A shell in a booted appliance, which itself has no way in.
//!
//! The machine's owner, here QEMU, may hand systemd a unit in the firmware's tables (SMBIOS type 11, systemd's "system
//! credentials"). The unit is a shell on the second serial port. The image under test is the one that is shipped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use data_encoding::BASE64;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::wait::until;

/// How long the shell may take to answer to an empty word before it is asked again: it may not run yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long QEMU may take to start, or to start anew.
const PLUGGED_IN: Duration = Duration::from_mins(1);

const UNIT: &str = "[Unit]
Description=Shell for the test
DefaultDependencies=no
After=basic.target
[Service]
ExecStart=/bin/bash --norc --noediting
StandardInput=tty
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
TTYReset=yes
Restart=always
Environment=TERM=dumb PS1= HOME=/run SYSTEMD_PAGER=
";
const NEVER: &str = "[Unit]
ConditionPathExists=/nonexistent
";
const WANTED: &str = "[Unit]
Wants=test-shell.service
";

/// The shell's wire.
#[derive(Debug)]
pub(super) struct Agent {
    socket: PathBuf,
    number: AtomicU32,
}

impl Agent {
    pub(super) fn new(socket: PathBuf) -> Self {
        let number = AtomicU32::new(0);
        Self { socket, number }
    }

    /// QEMU's words for it, for units that shall not start, and for more credentials of the machine.
    pub(super) fn words(
        socket: &Path,
        without: &[String],
        more: &[(String, String)],
    ) -> Vec<String> {
        let credential = |name: &str, text: &str| {
            let text = BASE64.encode(text.as_bytes());
            format!("value=io.systemd.credential.binary:{name}={text}")
        };
        let mut credentials = vec![
            credential("systemd.extra-unit.test-shell.service", UNIT),
            credential("systemd.unit-dropin.multi-user.target", WANTED),
        ];
        credentials.extend(
            without
                .iter()
                .map(|unit| credential(&format!("systemd.unit-dropin.{unit}"), NEVER)),
        );
        credentials.extend(more.iter().map(|(name, text)| credential(name, text)));
        let socket = socket.display();
        vec![
            "-chardev".to_owned(),
            format!("socket,id=shell,path={socket},server=on,wait=off"),
            "-serial".to_owned(),
            "chardev:shell".to_owned(),
            "-smbios".to_owned(),
            format!("type=11,{}", credentials.join(",")),
        ]
    }

    /// Runs a script and returns its exit code and what it printed.
    pub(super) async fn run(&self, script: &str, deadline: Duration) -> Result<(i32, String)> {
        tokio::time::timeout(deadline, self.converse(script))
            .await
            .with_context(|| format!("waited {deadline:?} for \"{script}\" in the guest"))?
    }

    async fn converse(&self, script: &str) -> Result<(i32, String)> {
        let mut stream = until("the guest's second serial port", PLUGGED_IN, async || {
            UnixStream::connect(&self.socket).await.ok()
        })
        .await?;
        // The shell is there when it answers; what came before is thrown away.
        loop {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let ask = format!("\nstty -echo -onlcr; PS1= PS2=; echo '@@'ready {number}'@@'\n");
            stream.write_all(ask.as_bytes()).await?;
            let wanted = format!("@@ready {number}@@");
            let heard = read_to(&mut stream, &wanted);
            if tokio::time::timeout(PATIENCE, heard).await.is_ok() {
                break;
            }
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let script = BASE64.encode(script.as_bytes());
        // A terminal takes lines of 4095 bytes at most.
        let mut ask = "words=\n".to_owned();
        for part in script.as_bytes().chunks(1000) {
            ask = format!("{ask}words+={}\n", String::from_utf8_lossy(part));
        }
        ask = format!(
            "{ask}echo '@@'begin {number}'@@'; bash -c \"$(base64 -d <<<$words)\" 2>&1 \
             </dev/null; echo '@@'\"end {number} $?@@\"\n"
        );
        stream.write_all(ask.as_bytes()).await?;
        read_to(&mut stream, &format!("@@begin {number}@@\n")).await?;
        let said = read_to(&mut stream, &format!("@@end {number} ")).await?;
        let status = read_to(&mut stream, "@@").await?;
        let status = status.trim().parse().context("an exit code")?;
        Ok((status, said.trim().to_owned()))
    }
}

/// Reads until `mark` and returns what came before it.
async fn read_to(stream: &mut UnixStream, mark: &str) -> Result<String> {
    let mut heard = Vec::new();
    loop {
        let byte = stream.read_u8().await.context("the guest's shell")?;
        if byte != b'\r' {
            heard.push(byte);
        }
        if heard.ends_with(mark.as_bytes()) {
            heard.truncate(heard.len() - mark.len());
            return Ok(String::from_utf8_lossy(&heard).into_owned());
        }
    }
}
