//! The appliance as a machine: its kernel and root file system started by QEMU, with devices on its buses.
//!
//! The guest stands at a [`Place`] like a program: its ports 8080 and 8445 answer at the place's address, and what it
//! opens goes out from there (QEMU's user network). It has no LAN of its own, so what it finds is on its own buses:
//! USB, sound, video. There is no KVM to rely on: TCG emulates the processor, and a boot takes a minute or two.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::net::Place;
use super::process::Proc;
use super::wait::until;

/// Memory of a guest, MiB: a quarter of it is its data partition, of which the gateway keeps 256 MiB free.
const MEMORY_MIB: u32 = 2048;
/// How long a boot may take, emulated, while the host does other things too.
const BOOT: Duration = Duration::from_mins(10);
/// How long a command of the guest's shell may take.
const COMMAND: Duration = Duration::from_mins(2);
/// How long QEMU may take to answer a command.
const ANSWER: Duration = Duration::from_secs(30);
/// Where the household's pages are in the guest.
const PAGES: u16 = 8080;

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct GuestBuilder {
    image: PathBuf,
    arguments: Vec<OsString>,
    kernel: Vec<String>,
}

impl GuestBuilder {
    /// A machine from a folder with `vmlinuz`, `initrd` and `root.squashfs` (image/rootfs.sh).
    pub fn new(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
            arguments: Vec::new(),
            kernel: Vec::new(),
        }
    }

    /// Adds words to QEMU's command line: devices and what is behind them.
    #[must_use]
    pub fn device(mut self, words: &[&str]) -> Self {
        self.arguments.extend(words.iter().map(OsString::from));
        self
    }

    /// Adds a word to the kernel's command line, such as `modules_load=vivid`.
    #[must_use]
    pub fn kernel(mut self, word: &str) -> Self {
        self.kernel.push(word.to_owned());
        self
    }

    /// Starts it at `place`; its console and sockets go to `folder`.
    pub async fn start(self, place: &Place, folder: &Path) -> Result<Guest> {
        for file in ["vmlinuz", "initrd", "root.squashfs"] {
            let file = self.image.join(file);
            ensure!(
                file.is_file(),
                "{} is missing: run ./mantel image",
                file.display()
            );
        }
        let console = folder.join(format!("{}-console.log", place.name()));
        let qmp = folder.join(format!("{}-qmp", place.name()));
        let shell = folder.join(format!("{}-shell", place.name()));
        std::fs::write(&console, "").context("making the console's file")?;
        let mut line =
            "console=ttyS0 root=/dev/vda rootfstype=squashfs ro quiet panic=5 mitigations=off \
                        systemd.volatile=state systemd.show_status=1 systemd.debug_shell=ttyS1"
                .to_owned();
        for word in &self.kernel {
            line = format!("{line} {word}");
        }
        let address = place.addr();
        let proc = place
            .run("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", "2"])
            .args(["-m", &MEMORY_MIB.to_string(), "-nodefaults", "-no-user-config"])
            .args(["-display", "none", "-no-reboot", "-kernel"])
            .arg(self.image.join("vmlinuz"))
            .arg("-initrd")
            .arg(self.image.join("initrd"))
            .args(["-append", &line, "-drive"])
            .arg(format!(
                "if=virtio,format=raw,readonly=on,file={}",
                self.image.join("root.squashfs").display()
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "chardev:shell", "-chardev"])
            .arg(format!(
                "socket,id=shell,server=on,wait=off,path={}",
                shell.display()
            ))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()))
            .arg("-nic")
            .arg(format!(
                "user,model=virtio-net-pci,hostfwd=tcp:{address}:8080-:8080,hostfwd=tcp:{address}:8445-:8445"
            ))
            .args(&self.arguments)
            .log(folder.join(format!("{}-qemu.log", place.name())))
            .spawn()
            .await?;
        Ok(Guest {
            proc,
            console,
            qmp,
            shell,
        })
    }
}

/// A running machine. Dropping it is a power cut.
#[derive(Debug)]
pub struct Guest {
    /// QEMU.
    pub proc: Proc,
    console: PathBuf,
    qmp: PathBuf,
    shell: PathBuf,
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

    /// Runs a line in a root shell inside (systemd's debug shell, which a test asks for on the kernel's command line) and
    /// returns what it printed. One at a time; it must succeed.
    pub async fn shell(&self, line: &str) -> Result<String> {
        let (code, text) = tokio::time::timeout(COMMAND, self.type_in(line))
            .await
            .with_context(|| format!("the guest's shell did not answer to: {line}"))??;
        ensure!(code == "0", "in the guest: {line}: status {code}: {text}");
        Ok(text)
    }

    async fn type_in(&self, line: &str) -> Result<(String, String)> {
        let (mut lines, mut writer) = connect(&self.shell).await?;
        // The terminal echoes what is typed; the marks are put together only where it is run.
        let typed =
            format!("printf '%s%s\\n' @@ BEGIN; {{ {line}; }}; printf '\\n%s%s %s\\n' @@ END $?\n");
        writer.write_all(typed.as_bytes()).await?;
        let (mut begun, mut text) = (false, String::new());
        while let Some(said) = lines.next_line().await? {
            let said = said.trim_end_matches('\r');
            if let Some(code) = said.strip_prefix("@@END ") {
                return Ok((code.to_owned(), text.trim().to_owned()));
            }
            if begun {
                text.push_str(said);
                text.push('\n');
            }
            begun |= said.ends_with("@@BEGIN");
        }
        bail!("the shell's line was closed");
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

    /// Presses the power button and waits until the machine is off: sound files are whole only then.
    pub async fn power_off(self) -> Result<()> {
        self.command("system_powerdown", json!({})).await?;
        self.proc.wait_exit(BOOT).await.map(drop)
    }

    /// Ends QEMU orderly, the machine not: its files on the host are closed.
    pub async fn quit(self) -> Result<()> {
        self.command("quit", json!({})).await?;
        self.proc.wait_exit(ANSWER).await.map(drop)
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
