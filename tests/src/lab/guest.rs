//! The appliance as a machine: its kernel and root file system started by QEMU, with devices on its buses.
//!
//! The guest takes the place of a home's gateway: it has its address and its cable, sees the other devices of the home's
//! network, and reaches the server through the home's router. There is no KVM to rely on: TCG emulates the processor, and
//! a boot takes a minute or two.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::agent::Agent;
use super::lan::Lan;
use super::net::{Home, Place};
use super::process::{Proc, ProcBuilder};
use super::wait::until;

/// Memory of a guest, MiB: a quarter of it is its data partition, of which the gateway keeps 256 MiB free.
const MEMORY_MIB: u32 = 2048;
/// Processors of a guest.
const PROCESSORS: u64 = 2;
/// How long a boot may take, emulated, while the host does other things too.
const BOOT: Duration = Duration::from_mins(10);
/// How long a short script inside may take.
const COMMAND: Duration = Duration::from_mins(2);
/// How long QEMU may take to answer a command.
const ANSWER: Duration = Duration::from_secs(30);
/// How long QEMU may take to end: it writes what it still holds of the disk.
const END: Duration = Duration::from_mins(5);
/// How long a snapshot with the memory may take.
const KEEP: Duration = Duration::from_mins(3);
/// Where the household's pages are in the guest.
const PAGES: u16 = 8080;
/// The firmware of a machine with a disk (Debian package ovmf).
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// Starts QEMU anew at each restart of the machine, from the snapshot only the first time, until the file `$1` is there:
/// OVMF under TCG takes minutes to find a disk in a machine that ran Linux before, seconds in a new one. SIGTERM is a
/// power cut; this ends when QEMU has, which holds the disk's lock until then.
const ANEW: &str = r#"stop=$1 once=$2; shift 2
trap 'kill -KILL $!; wait $!; exit' TERM
while [ ! -e "$stop" ]; do setpriv --pdeathsig KILL -- "$@" $once & wait $! || exit; once=; done"#;

/// What a machine starts from.
#[derive(Clone, Debug)]
enum Start {
    /// A folder with `vmlinuz`, `initrd` and `root.squashfs`: no firmware, no slots, no lasting data.
    Kernel(PathBuf),
    /// A disk (qcow2) as a buyer gets it, and the snapshot in it to go on from.
    Disk(PathBuf, Option<String>),
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct GuestBuilder {
    start: Start,
    arguments: Vec<OsString>,
    kernel: Vec<String>,
    without: Vec<String>,
    credentials: Vec<(String, String)>,
    processors: u64,
    usb: bool,
}

impl GuestBuilder {
    /// A machine from a folder with `vmlinuz`, `initrd` and `root.squashfs` (image/rootfs.sh).
    pub fn new(image: &Path) -> Self {
        Self {
            start: Start::Kernel(image.to_owned()),
            arguments: Vec::new(),
            kernel: Vec::new(),
            without: Vec::new(),
            credentials: Vec::new(),
            processors: PROCESSORS,
            usb: false,
        }
    }

    /// A machine with the disk `file` (qcow2), started by its firmware.
    pub fn from_disk(file: &Path) -> Self {
        Self {
            start: Start::Disk(file.to_owned(), None),
            arguments: Vec::new(),
            kernel: Vec::new(),
            without: Vec::new(),
            credentials: Vec::new(),
            processors: PROCESSORS,
            usb: false,
        }
    }

    /// Goes on from the snapshot `name` of its disk (see [`Guest::keep`]); what came after it is lost.
    #[must_use]
    pub fn resume(mut self, name: &str) -> Self {
        if let Start::Disk(_, snapshot) = &mut self.start {
            *snapshot = Some(name.to_owned());
        }
        self
    }

    /// Adds words to QEMU's command line: devices and what is behind them.
    #[must_use]
    pub fn device(mut self, words: &[&str]) -> Self {
        self.arguments.extend(words.iter().map(OsString::from));
        self
    }

    /// Its disk is a stick.
    #[must_use]
    pub fn usb(mut self) -> Self {
        self.usb = true;
        self
    }

    /// How many processors it has, in place of two.
    #[must_use]
    pub fn processors(mut self, count: u64) -> Self {
        self.processors = count;
        self
    }

    /// Adds a word to the kernel's command line, such as `modules_load=vivid`.
    #[must_use]
    pub fn kernel(mut self, word: &str) -> Self {
        self.kernel.push(word.to_owned());
        self
    }

    /// Leaves out a unit.
    #[must_use]
    pub fn without(mut self, unit: &str) -> Self {
        self.without.push(unit.to_owned());
        self
    }

    /// Gives it a credential of the machine, such as `mantel-gateway.toml`.
    #[must_use]
    pub fn credential(mut self, name: &str, text: &str) -> Self {
        self.credentials.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Starts it as the gateway of `home`; its console and sockets go to `folder`.
    pub async fn start(self, home: &Home, folder: &Path) -> Result<Guest> {
        let place = home.gateway();
        let console = folder.join(format!("{}-console.log", place.name()));
        let qmp = folder.join(format!("{}-qmp", place.name()));
        std::fs::write(&console, "").context("making the console's file")?;
        let lan = Lan::plug(home, folder).await?;
        let agent = folder.join(format!("{}-agent", place.name()));
        let keys = folder.join(format!("{}-keys", place.name()));
        let stop = folder.join(format!("{}-stop", place.name()));
        let _gone = std::fs::remove_file(&stop);
        let proc = self
            .qemu(place, &stop)
            .args([
                "-no-reboot",
                "-accel",
                "tcg,thread=multi",
                "-M",
                "q35",
                "-cpu",
                "max",
            ])
            .args([
                "-smp",
                &self.processors.to_string(),
                "-m",
                &MEMORY_MIB.to_string(),
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-display", "none"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=console,path={},server=on,wait=off,logfile={},logappend=on",
                keys.display(),
                console.display()
            ))
            .args(["-serial", "chardev:console"])
            .args(Agent::words(&agent, &self.without, &self.credentials))
            .args(self.beginning()?)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()))
            .args(Lan::words())
            .args(&self.arguments)
            .log(folder.join(format!("{}-qemu.log", place.name())))
            .spawn()
            .await?;
        Ok(Guest {
            proc,
            console,
            keys,
            qmp,
            stop,
            agent: Agent::new(agent),
            _lan: lan,
        })
    }

    /// QEMU at `place`: for a machine with a disk, as often as the machine restarts.
    fn qemu(&self, place: &Place, stop: &Path) -> ProcBuilder {
        let program = "qemu-system-x86_64";
        let Start::Disk(_, snapshot) = &self.start else {
            return place.run(program);
        };
        let once = snapshot.as_ref().map(|name| format!("-loadvm {name}"));
        place
            .run("bash")
            .args(["-c", ANEW, program])
            .args([stop])
            .args([once.unwrap_or_default(), program.to_owned()])
    }

    /// QEMU's words for what the machine starts from.
    fn beginning(&self) -> Result<Vec<OsString>> {
        let mut words: Vec<OsString> = Vec::new();
        match &self.start {
            Start::Kernel(image) => {
                for file in ["vmlinuz", "initrd", "root.squashfs"] {
                    let file = image.join(file);
                    let there = file.is_file();
                    ensure!(there, "{} is missing: run ./mantel image", file.display());
                }
                let mut line = "console=ttyS0 root=/dev/vda rootfstype=squashfs ro quiet panic=5 \
                                mitigations=off systemd.volatile=state systemd.show_status=1"
                    .to_owned();
                for word in &self.kernel {
                    line = format!("{line} {word}");
                }
                words.push("-kernel".into());
                words.push(image.join("vmlinuz").into());
                words.push("-initrd".into());
                words.push(image.join("initrd").into());
                words.extend(["-append", &line, "-drive"].map(OsString::from));
                let root = image.join("root.squashfs");
                let root = root.display();
                words.push(format!("if=virtio,format=raw,readonly=on,file={root}").into());
            }
            Start::Disk(disk, _) => {
                let firmware = Path::new(FIRMWARE);
                ensure!(firmware.is_file(), "{FIRMWARE} is missing: ./mantel setup");
                let disk = disk.display();
                let bus = if self.usb { "none,id=stick" } else { "virtio" };
                let mut devices = vec![
                    "-drive".to_owned(),
                    format!("if=pflash,format=raw,readonly=on,file={FIRMWARE}"),
                    "-drive".to_owned(),
                    format!("if={bus},format=qcow2,cache=writeback,file={disk}"),
                ];
                if self.usb {
                    let stick = ["-device", "qemu-xhci", "-device", "usb-storage,drive=stick"];
                    devices.extend(stick.map(str::to_owned));
                }
                words.extend(devices.into_iter().map(OsString::from));
            }
        }
        Ok(words)
    }
}

/// A running machine. Dropping it is a power cut.
#[derive(Debug)]
pub struct Guest {
    /// QEMU, or what starts it anew.
    pub proc: Proc,
    console: PathBuf,
    keys: PathBuf,
    qmp: PathBuf,
    stop: PathBuf,
    agent: Agent,
    _lan: Lan,
}

impl Guest {
    /// Where the household's pages are.
    pub fn url(&self) -> String {
        self.proc.place().url(PAGES)
    }

    /// What its serial console showed so far.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Types a line on its serial console, and waits until the machine has shown it: QEMU forgets what it has not yet
    /// handed over when the wire is let go.
    pub async fn type_in(&self, line: &str) -> Result<()> {
        let shown = || self.console().matches(line).count();
        let before = shown();
        let mut stream = UnixStream::connect(&self.keys).await?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        until("what was typed", COMMAND, async || {
            (shown() > before).then_some(())
        })
        .await
    }

    /// Runs a script inside, as root, and returns what it printed. Fails when the script does. The way in is one that
    /// only the owner of the (virtual) hardware has: see [`Agent`].
    pub async fn run(&self, script: &str, deadline: Duration) -> Result<String> {
        let (status, said) = self.agent.run(script, deadline).await?;
        ensure!(status == 0, "\"{script}\" ended with {status}: {said}");
        Ok(said)
    }

    /// [`Guest::run`] for what takes two minutes at most.
    pub async fn shell(&self, script: &str) -> Result<String> {
        self.run(script, COMMAND).await
    }

    /// Keeps the whole machine, memory included, as a snapshot in its disk.
    pub async fn keep(&self, name: &str) -> Result<()> {
        let line = json!({ "command-line": format!("savevm {name}") });
        let wait = self.converse("human-monitor-command", line);
        let said = tokio::time::timeout(KEEP, wait).await??;
        ensure!(said == "" || said == "\r\n", "savevm said {said}");
        Ok(())
    }

    /// Waits until its gateway answers.
    pub async fn wait_up(&self) -> Result<()> {
        let site = super::http::Session::new(&self.url())?;
        let up = self
            .proc
            .wait_while_alive("the gateway in the guest", BOOT, async || {
                site.get("/healthz").await.ok()?.ok().ok().map(drop)
            })
            .await;
        up.with_context(|| {
            let console = self.console();
            let tail = console.len().saturating_sub(3000);
            let tail = console.get(tail..).unwrap_or(&console);
            format!("the guest's console ended with:\n{tail}")
        })
    }

    /// Gives QEMU a command (QEMU Machine Protocol) and returns its answer: `device_add`, `device_del` …
    pub async fn command(&self, command: &str, arguments: Value) -> Result<Value> {
        tokio::time::timeout(ANSWER, self.converse(command, arguments))
            .await
            .with_context(|| format!("QEMU did not answer to {command}"))?
    }

    async fn converse(&self, command: &str, arguments: Value) -> Result<Value> {
        let (mut lines, mut writer) = connect(&self.qmp).await?;
        for (execute, arguments) in [("qmp_capabilities", json!({})), (command, arguments)] {
            let words = json!({ "execute": execute, "arguments": arguments });
            writer.write_all(format!("{words}\n").as_bytes()).await?;
            loop {
                let Some(line) = lines.next_line().await? else {
                    bail!("QEMU closed the connection");
                };
                let answer: Value = serde_json::from_str(&line)?;
                if let Some(error) = answer.get("error") {
                    bail!("QEMU refused {execute}: {error}");
                }
                if let Some(result) = answer.get("return") {
                    if execute == command {
                        return Ok(result.clone());
                    }
                    break;
                }
            }
        }
        bail!("QEMU said nothing to {command}")
    }

    /// Cuts the power of a machine with a disk.
    pub async fn cut(self) -> Result<()> {
        self.proc.signal(Signal::TERM)?;
        self.proc.wait_exit(END).await.map(drop)
    }

    /// Presses the power button and waits until the machine is off: sound files are whole only then.
    pub async fn power_off(self) -> Result<()> {
        std::fs::write(&self.stop, "").context("it shall not start anew")?;
        self.command("system_powerdown", json!({})).await?;
        self.proc.wait_exit(BOOT).await.map(drop)
    }

    /// Ends QEMU orderly, the machine not: its files on the host are closed.
    pub async fn quit(self) -> Result<()> {
        std::fs::write(&self.stop, "").context("it shall not start anew")?;
        self.command("quit", json!({})).await?;
        self.proc.wait_exit(END).await.map(drop)
    }
}

type Talk = (Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf);

async fn connect(socket: &Path) -> Result<Talk> {
    let stream = until("QEMU's socket", ANSWER, async || {
        UnixStream::connect(socket).await.ok()
    })
    .await?;
    let (reader, writer) = stream.into_split();
    Ok((BufReader::new(reader).lines(), writer))
}
