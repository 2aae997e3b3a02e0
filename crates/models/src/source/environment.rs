//! The environment variables that sources obey. They are values, not look-ups in the process: two callers
//! may use different ones, and tests need not change variables that all threads share.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// Environment variables and the home folder. The default is what the process has.
///
/// Obeyed are `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`,
/// `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT` as the hub's Python client does, `XDG_CACHE_HOME`,
/// `CANDLEWICK_CACHE` (where wheels are unpacked) and `CANDLEWICK_PIP` (the command to call instead of
/// `python3 -m pip`). pip itself is run with all of them.
///
/// Proxy variables are obeyed as far as the process has them too: the HTTP client reads them there.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    home: Option<PathBuf>,
}

impl Environment {
    /// A copy of the process's environment.
    pub fn process() -> Environment {
        Environment { variables: std::env::vars_os().collect(), home: std::env::home_dir() }
    }

    /// All variables.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// The home folder.
    pub(super) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// A variable's value; an empty variable counts as unset.
    pub(super) fn var(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// A variable's value, without surrounding white space, when it is Unicode.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.var(name)?.to_str().map(str::trim).filter(|value| !value.is_empty())
    }

    /// Whether a variable says yes, in the words that the hub's Python client knows.
    pub(super) fn flag(&self, name: &str) -> bool {
        let yes = ["1", "true", "yes", "on"];
        self.text(name).is_some_and(|value| yes.iter().any(|word| value.eq_ignore_ascii_case(word)))
    }

    /// A variable that holds a path; `~/` at its start stands for the home folder.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let path = Path::new(self.var(name)?);
        match (path.strip_prefix("~"), self.home()) {
            (Ok(inside), Some(home)) => Some(home.join(inside)),
            _ => Some(path.to_owned()),
        }
    }
}

impl Default for Environment {
    fn default() -> Self {
        Environment::process()
    }
}

/// An environment of exactly these variables; `HOME` is the home folder.
impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let variables: BTreeMap<OsString, OsString> =
            pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let home = variables.get(OsStr::new("HOME")).filter(|home| !home.is_empty()).map(PathBuf::from);
        Environment { variables, home }
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_the_python_client_reads_them() {
        let offline =
            |value: &str| Environment::from_iter([("HF_HUB_OFFLINE", value)]).flag("HF_HUB_OFFLINE");
        assert!(["1", "true", "YES", "On", " 1 "].into_iter().all(offline));
        assert!(!["", "0", "false", "no", "2"].into_iter().any(offline));
    }

    #[test]
    fn paths_may_start_at_home() {
        let env = Environment::from_iter([("HOME", "/home/me"), ("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "")]);
        assert_eq!(env.path("HF_HOME").unwrap(), Path::new("/home/me/hf"));
        assert_eq!(env.path("XDG_CACHE_HOME"), None);
        assert_eq!(env.home(), Some(Path::new("/home/me")));
    }

    #[test]
    fn debug_shows_no_secrets() {
        let env = Environment::from_iter([("HF_TOKEN", "hf_secret")]);
        assert_eq!(format!("{env:?}"), r#"{"HF_TOKEN"}"#);
    }
}
