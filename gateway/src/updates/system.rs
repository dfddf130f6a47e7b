//! What the appliance's system tells the gateway, and what the gateway asks of it: files in one folder
//! (`image/root/usr/lib/mantel/{system-facts,request}` are the other side).

use super::decide::Said;
use mantel_protocol::update::Version;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The largest file that is read from the folder, bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// What `system.json` says; it is written once at each start of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// What runs.
    pub version: Version,
    /// Whether both slots had their tries.
    pub safe: bool,
    /// The update from which the system went back; `unknown` where it cannot tell.
    pub failed_update: Option<String>,
}

/// What is asked of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To install the bundle: the system checks its own copy by these.
    Install {
        /// The SHA-256, in hexadecimal digits.
        sum: String,
        /// What was offered.
        version: Version,
    },
    /// To restart.
    Restart,
    /// Not to start what was put in place.
    Cancel,
    /// To erase the household's data and start anew.
    FactoryReset,
}

/// The names of their files.
const FILES: [&str; 4] = ["install", "restart", "cancel", "factory-reset"];

impl Request {
    fn file(&self) -> (&'static str, String) {
        match self {
            Self::Install { sum, version } => (FILES[0], format!("{sum} {version}")),
            Self::Restart => (FILES[1], String::new()),
            Self::Cancel => (FILES[2], String::new()),
            Self::FactoryReset => (FILES[3], String::new()),
        }
    }
}

#[derive(Deserialize)]
struct SystemFile {
    version: String,
    #[serde(default)]
    safe: bool,
    failed_update: Option<String>,
}

#[derive(Deserialize)]
struct UpdateFile {
    state: String,
    #[serde(default)]
    message: String,
}

/// The folder, `/run/mantel` on an appliance.
#[derive(Debug, Clone)]
pub struct SystemFolder(PathBuf);

impl SystemFolder {
    /// At this path.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// What the system says; `None`: this is no appliance. `InvalidData`: it is one, and its words make no sense.
    pub fn system(&self) -> io::Result<Option<System>> {
        let Some(text) = read(&self.0.join("system.json"))? else {
            return Ok(None);
        };
        let file: SystemFile = serde_json::from_slice(&text)?;
        let version = file.version.parse();
        Ok(Some(System {
            version: version.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
            safe: file.safe,
            failed_update: file.failed_update.filter(|version| !version.is_empty()),
        }))
    }

    /// Whether this start of the machine has proved good.
    pub fn is_good(&self) -> bool {
        self.0.join("good").exists()
    }

    /// Which `update.json` lies there: another text for each that was ever written; empty: none.
    pub fn mark(&self) -> String {
        match fs::metadata(self.0.join("update.json")) {
            Ok(data) => format!("{}:{}.{}", data.ino(), data.mtime(), data.mtime_nsec()),
            Err(_) => String::new(),
        }
    }

    /// What the system said of an installation since the mark was `heard`.
    pub fn said_since(&self, heard: &str) -> Option<Said> {
        if self.mark() == heard {
            return None;
        }
        let text = read(&self.0.join("update.json")).ok()??;
        let file: UpdateFile = serde_json::from_slice(&text).ok()?;
        match file.state.as_str() {
            "installing" => Some(Said::Installing),
            "installed" => Some(Said::Installed),
            "refused" => Some(Said::Refused(file.message)),
            _ => None,
        }
    }

    /// Whether any request lies there.
    pub fn is_asked(&self) -> bool {
        let folder = self.requests();
        FILES.iter().any(|name| folder.join(name).exists())
    }

    /// Asks. Asking twice is asking once.
    pub fn ask(&self, request: &Request) -> io::Result<()> {
        let (name, words) = request.file();
        // The system looks for names without a dot, as soon as they are there.
        let new = self.requests().join(format!(".{name}"));
        fs::write(&new, words)?;
        fs::rename(new, self.requests().join(name))
    }

    fn requests(&self) -> PathBuf {
        self.0.join("requests")
    }
}

/// A small file; `None`: there is none.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_system_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let system = SystemFolder::new(folder.path());
        assert_eq!(system.system().expect("readable"), None, "no appliance");
        let write = |text: &str| {
            fs::write(folder.path().join("system.json"), text).expect("written");
            system.system()
        };
        let read = write(
            r#"{"version":"1.1.0","slot":"A","data":"tpm2","safe":false,"failed_update":"1.2.0"}"#,
        );
        let read = read.expect("readable").expect("an appliance");
        assert_eq!(read.version.to_string(), "1.1.0");
        assert_eq!(read.failed_update.as_deref(), Some("1.2.0"));
        let none = write(
            r#"{"version":"1.1.0","slot":"A","data":"tpm2","safe":true,"failed_update":null}"#,
        );
        let none = none.expect("readable").expect("an appliance");
        assert!(none.safe && none.failed_update.is_none());
        for text in ["", "{}", r#"{"version":"eleven"}"#, "\u{0}"] {
            assert!(write(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_old_word_of_the_system_is_not_taken_for_a_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("requests")).expect("made");
        let system = SystemFolder::new(folder.path());
        let say = |state: &str| {
            let new = folder.path().join("update.json.new");
            fs::write(&new, format!(r#"{{"state":"{state}","message":"why"}}"#)).expect("written");
            fs::rename(new, folder.path().join("update.json")).expect("renamed");
        };
        let before = system.mark();
        assert_eq!(system.said_since(&before), None);
        say("installed");
        assert_eq!(system.said_since(&before), Some(Said::Installed));
        let heard = system.mark();
        assert_eq!(system.said_since(&heard), None);
        say("refused");
        assert_eq!(system.said_since(&heard), Some(Said::Refused("why".into())));
        assert!(!system.is_asked());
        let install = Request::Install {
            sum: "5e".repeat(32),
            version: "1.10.0".parse().expect("a version"),
        };
        system.ask(&install).expect("asked");
        system.ask(&install).expect("asked again");
        assert!(system.is_asked());
        let asked = fs::read_to_string(folder.path().join("requests/install"));
        let words = asked.expect("readable");
        assert_eq!(words, format!("{} 1.10.0", "5e".repeat(32)));
        system.ask(&Request::FactoryReset).expect("asked");
        assert!(folder.path().join("requests/factory-reset").exists());
    }
}
