//! Real programs, started in a place, watched, and never outliving their test.
//!
//! Every program is started by one thread that lives as long as this process: the kernel sends the
//! death signal asked for by `setpriv --pdeathsig` when the *thread* that started a program ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use tokio::sync::{oneshot, watch};

use super::guard;
use super::net::{Place, accepts, has_root_rights};
use super::wait::until;

/// How long [`Proc::stop`] waits for a program to end by itself before it kills it.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// How many bytes of a log an error shows.
const TAIL_LEN: usize = 3000;

/// A program to be started in a place.
#[derive(Clone, Debug)]
pub struct ProcBuilder {
    place: Place,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    log: Option<PathBuf>,
    alone: bool,
}

impl ProcBuilder {
    pub(super) fn new(place: Place, program: &Path) -> Self {
        Self {
            place,
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            log: None,
            alone: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment; the rest is inherited, without proxies.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the folder it is started in.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Sets the file its output is appended to; needed.
    #[must_use]
    pub fn log(mut self, file: impl AsRef<Path>) -> Self {
        self.log = Some(file.as_ref().to_owned());
        self
    }

    /// Gives it a process namespace of its own, which ends with it: for programs that start others
    /// in groups of their own. [`Proc::pid`] is then that of the wrapper. Ignored without root.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Starts it.
    pub async fn spawn(self) -> Result<Proc> {
        let name = self
            .program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let log = self
            .log
            .clone()
            .with_context(|| format!("{name} was given no log file"))?;
        let mark = log.metadata().map_or(0, |found| found.len());
        let child = start(self.command(&log)?).await.with_context(|| {
            format!("starting {name} (setpriv and ip must be there: ./mantel setup)")
        })?;
        let pid = child.id();
        guard::note_group(pid);
        let (told, status) = watch::channel(None);
        std::thread::Builder::new()
            .name("lab-wait".to_owned())
            .spawn(move || reap(child, &told))
            .context("starting a thread")?;
        Ok(Proc {
            name,
            pid,
            log,
            mark,
            status,
            builder: self,
        })
    }

    fn command(&self, log: &Path) -> Result<Command> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut words: Vec<OsString> = Vec::new();
        if let Some(space) = self.place.netns() {
            words.extend(["ip", "netns", "exec", space].map(OsString::from));
        }
        words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsString::from));
        if self.alone && has_root_rights() {
            words.extend(["unshare", "--pid", "--fork", "--kill-child=KILL"].map(OsString::from));
            words.extend(["--mount-proc", "--"].map(OsString::from));
        }
        words.push(self.program.clone().into());
        words.extend(self.args.iter().cloned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing the log file")?)
            .stderr(output)
            .process_group(0);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
        for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(proxy).env_remove(proxy.to_uppercase());
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        Ok(command)
    }
}

/// A running program. Dropping it kills it and its process group.
#[derive(Debug)]
pub struct Proc {
    name: String,
    pid: u32,
    log: PathBuf,
    /// Where in the log its own output begins.
    mark: u64,
    status: watch::Receiver<Option<ExitStatus>>,
    builder: ProcBuilder,
}

impl Proc {
    /// Its process ID: of the program itself, not of a wrapper.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.builder.place
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<ExitStatus> {
        *self.status.borrow()
    }

    /// Its output so far.
    pub fn output(&self) -> String {
        read_from(&self.log, self.mark)
    }

    /// Waits for a line of its output that holds `text`, and returns that line.
    pub async fn wait_line(&self, text: &str, deadline: Duration) -> Result<String> {
        self.wait_map(&format!("the line '{text}'"), deadline, |line| {
            line.contains(text).then(|| line.to_owned())
        })
        .await
    }

    /// Waits for a line of its output of which `read` makes something, from the first line on.
    pub async fn wait_map<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut read: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        self.wait_while_alive(what, deadline, async || {
            let output = self.output();
            // A line without its end may still grow.
            let whole = output.rfind('\n').map_or("", |end| &output[..end]);
            whole.lines().find_map(&mut read)
        })
        .await
    }

    /// Waits until it accepts TCP connections at its place's address.
    pub async fn wait_port(&self, port: u16, deadline: Duration) -> Result<()> {
        let addr = self.place().addr();
        let what = format!("{addr}:{port} to accept connections");
        self.wait_while_alive(&what, deadline, async || {
            accepts(addr, port).await.then_some(())
        })
        .await
    }

    /// Waits for `look` to find something; fails early, with the end of the log, if the program ends.
    pub async fn wait_while_alive<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T> {
        let outcome = until(
            &format!("{} of {}", what, self.name),
            deadline,
            async || {
                // Its end is looked at first: what it did last is then seen by the look that follows.
                let ended = self.exit();
                match (look().await, ended) {
                    (Some(found), _) => Some(Ok(found)),
                    (None, Some(status)) => {
                        Some(Err(anyhow!("{} ended ({status}) before {what}", self.name)))
                    }
                    (None, None) => None,
                }
            },
        )
        .await;
        outcome
            .flatten()
            .with_context(|| format!("the end of its log:\n{}", self.tail()))
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        let mut status = self.status.clone();
        let ended = tokio::time::timeout(deadline, status.wait_for(Option::is_some)).await;
        guard::unless_ending().await;
        match ended {
            Ok(Ok(status)) => status.context("waited for a status"),
            Ok(Err(_)) => bail!("the thread that waits for {} is gone", self.name),
            Err(_) => bail!(
                "waited {deadline:?} for {} to end; the end of its log:\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exit().is_some() {
            bail!("{} has ended already", self.name);
        }
        let pid = guard::pid(self.pid).context("a process ID above 0")?;
        rustix::process::kill_process(pid, signal)
            .with_context(|| format!("sending {signal:?} to {}", self.name))
    }

    /// Kills the program alone with SIGKILL, as a crash would, and waits until it is gone.
    pub async fn kill9(&self) -> Result<ExitStatus> {
        if self.exit().is_none() {
            self.signal(Signal::KILL)?;
        }
        self.wait_exit(STOP_GRACE).await
    }

    /// Asks it to end (SIGTERM), waits, kills it and its group if need be, and says how it ended.
    pub async fn stop(self) -> Result<ExitStatus> {
        if self.exit().is_none() {
            self.signal(Signal::TERM)?;
        }
        if let Ok(status) = self.wait_exit(STOP_GRACE).await {
            return Ok(status);
        }
        guard::kill_group(self.pid);
        self.wait_exit(STOP_GRACE).await
    }

    /// Starts the same program again, after ending this one if it still runs. The log goes on.
    pub async fn restart(self) -> Result<Self> {
        if self.exit().is_none() {
            self.kill9().await?;
        }
        let builder = self.builder.clone();
        drop(self);
        builder.spawn().await
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let output = self.output();
        let from = output.len().saturating_sub(TAIL_LEN);
        output
            .get(output.ceil_char_boundary(from)..)
            .unwrap_or_default()
            .to_owned()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // Its group goes with it. A number freed meanwhile is not given out again so soon.
        guard::kill_group(self.pid);
    }
}

fn read_from(path: &Path, mark: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(mark))?;
        file.read_to_end(&mut bytes)
    });
    // A log that cannot be read shows nothing; what waits for a line will say so.
    drop(read);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reap(mut child: Child, told: &watch::Sender<Option<ExitStatus>>) {
    // Waiting fails only for a child that is not ours any more; that too is an end.
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(-1));
    told.send_replace(Some(status));
}

type Order = (Command, oneshot::Sender<std::io::Result<Child>>);

async fn start(command: Command) -> Result<Child> {
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        let thread = std::thread::Builder::new()
            .name("lab-start".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // Who ordered may have given up; the child is then dropped and dies with the group.
                    let _ = answer.send(command.spawn());
                }
            });
        // Without the thread its inbox is gone, and sending fails below.
        drop(thread);
        orders
    });
    let (answer, child) = oneshot::channel();
    starter
        .send((command, answer))
        .ok()
        .context("the thread that starts programs is gone")?;
    Ok(child
        .await
        .context("the thread that starts programs is gone")??)
}
