//! Configuration: one TOML tree per daemon; an unknown key is an error, a missing one has its default.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why the configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}; check that it exists and who may read it")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type; the source names line and key.
    #[error("the configuration {path} is not valid; the commented default lists every key")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// Reads `path`, or takes all defaults where no path is given. `T` must be `deny_unknown_fields` with defaults.
pub fn load<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, ConfigError> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// The file that the service manager hands this daemon under `name`, if it does (systemd.exec(5), "Credentials"): a
/// configuration that only root may read where it lies, such as `/etc/credstore/mantel-server.toml`.
pub fn credential(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    let path = PathBuf::from(folder).join(name);
    path.is_file().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Tree {
        port: u16,
    }

    #[test]
    fn unknown_keys_are_errors_and_name_the_file() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        writeln!(file, "port = 7\nprot = 8").expect("written");
        let error = load::<Tree>(Some(file.path())).expect_err("a typing error");
        assert!(
            error
                .to_string()
                .contains(&file.path().display().to_string())
        );
        assert_eq!(load::<Tree>(None).expect("defaults").port, 0);
    }
}
