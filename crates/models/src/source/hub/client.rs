//! Requests to the hub, through hf-hub's client: its endpoint, headers, TLS and redirect rules.
//!
//! hf-hub's own `download` is not used. It has no timeouts, so that a silent network hangs it forever; it
//! panics on some redirects; it takes file names from response headers, and it does not look at what arrived.
//! Requests are therefore built here, on the one request that hf-hub hands out, and bounded by
//! `HF_HUB_ETAG_TIMEOUT` (connecting, and waiting for an answer) and `HF_HUB_DOWNLOAD_TIMEOUT` (waiting for
//! more of a file).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use ureq::http::{Response, StatusCode, Uri, header};

use crate::source::cache::{self, At};
use crate::source::checksum::Checksum;
use crate::source::environment::Environment;
use crate::{Error, Result};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The variables that name one, in upper or lower case.
const PROXIES: [&str; 3] = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"];
/// Within the hub, for one file; it uses one.
const MAX_LOCAL_REDIRECTS: usize = 5;
const MAX_REDIRECTS: u32 = 10;

/// A repository on the hub.
#[derive(Debug)]
pub(super) struct Client {
    api: Api,
    repo: String,
    has_proxy: bool,
    answer_timeout: Duration,
    stall_timeout: Duration,
}

/// What the hub says about a file before it sends it.
#[derive(Debug)]
pub(super) struct Description {
    /// The commit that the revision stands for. Mirrors may leave it out.
    pub(super) commit: Option<String>,
    /// The file's checksum.
    pub(super) checksum: Checksum,
    /// Its size. Mirrors may leave it out.
    pub(super) size: Option<u64>,
}

impl Client {
    pub(super) fn new(env: &Environment, repo: &str) -> Result<Client> {
        let unusable = |url: &str, source: Option<Box<dyn std::error::Error + Send + Sync>>| Error::Hub {
            url: url.into(),
            reason: "HF_ENDPOINT must be an http or https address".into(),
            source,
        };
        // A cache is only where hf-hub would look for a token.
        let mut builder = ApiBuilder::from_cache(Cache::new(cache::hub_home(env).unwrap_or_default()))
            .with_token(token(env))
            .with_user_agent("candlewick", env!("CARGO_PKG_VERSION"));
        if let Some(endpoint) = env.text("HF_ENDPOINT") {
            let endpoint = endpoint.trim_end_matches('/');
            let uri: Uri = endpoint.parse().map_err(|error| unusable(endpoint, Some(Box::new(error))))?;
            if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
                return Err(unusable(endpoint, None));
            }
            builder = builder.with_endpoint(endpoint.to_owned());
        }
        let api = builder.build().map_err(|error| Error::Hub {
            url: format!("hub {repo}"),
            reason: error.to_string(),
            source: Some(Box::new(error)),
        })?;
        let is_set = |name: &str| env.var(name).is_some();
        // More than a day is as good as forever, and could not be added to every time.
        let seconds = |name| env.text(name)?.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
        let timeout = |name, default| seconds(name).map_or(default, Duration::from_secs);
        Ok(Client {
            api,
            repo: repo.to_owned(),
            has_proxy: PROXIES.iter().any(|name| is_set(name) || is_set(&name.to_lowercase())),
            answer_timeout: timeout("HF_HUB_ETAG_TIMEOUT", ANSWER_TIMEOUT),
            stall_timeout: timeout("HF_HUB_DOWNLOAD_TIMEOUT", STALL_TIMEOUT),
        })
    }

    pub(super) fn url(&self, revision: &str, file: &str) -> String {
        let repo = Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned());
        self.api.repo(repo).url(file)
    }

    /// Asks for a file's checksum and size; `None` when the repository does not have the file.
    pub(super) fn describe(&self, revision: &str, file: &str) -> Result<Option<Description>> {
        let mut url = self.url(revision, file);
        for _ in 0..=MAX_LOCAL_REDIRECTS {
            let response = self.get(&url, "bytes=0-0", 0, self.answer_timeout)?;
            // Only the hub itself tells checksums, so redirects are followed within it, and not beyond.
            match local_redirect(&url, &response) {
                Some(next) => url = next,
                None => return read_description(&url, &response),
            }
        }
        Err(Error::Hub { url, reason: "too many redirects".into(), source: None })
    }

    /// Downloads a file into `part`, continuing what is there. `advance` is told the bytes that are there.
    ///
    /// A connection that breaks off is made again, from where it ended, as long as each brings the file
    /// further than any before it. What did arrive stays in `part`.
    pub(super) fn download(
        &self,
        url: &str,
        part: &Path,
        size: Option<u64>,
        advance: &mut dyn FnMut(u64),
    ) -> Result<()> {
        cache::create_parent(part)?;
        let mut file = OpenOptions::new().append(true).create(true).open(part).at(part)?;
        let mut reached = length(&file, part)?;
        if size.is_some_and(|size| reached > size) {
            file.set_len(0).at(part)?;
            reached = 0;
        }
        loop {
            if size == Some(reached) {
                return Ok(());
            }
            let broken = self.download_rest(url, &mut file, part, size, advance)?;
            let arrived = length(&file, part)?;
            match (size, broken) {
                (None, None) => return Ok(()),
                (Some(size), _) if arrived == size => return Ok(()),
                (Some(size), _) if arrived > size => {
                    file.set_len(0).at(part)?;
                    let reason = format!("sent more than the {size} bytes that it announced");
                    return Err(Error::Hub { url: url.into(), reason, source: None });
                }
                (_, _) if arrived > reached => reached = arrived,
                (size, broken) => return Err(cut_short(url, arrived, size, broken)),
            }
        }
    }

    /// One request for what `file` lacks. Returns why the connection broke, if it did.
    fn download_rest(
        &self,
        url: &str,
        file: &mut File,
        part: &Path,
        size: Option<u64>,
        advance: &mut dyn FnMut(u64),
    ) -> Result<Option<io::Error>> {
        let start = length(file, part)?;
        let response = self.get(url, &format!("bytes={start}-"), MAX_REDIRECTS, self.stall_timeout)?;
        let mut arrived = match response.status() {
            StatusCode::PARTIAL_CONTENT => start,
            StatusCode::OK => {
                file.set_len(0).at(part)?;
                0
            }
            _ => return Err(refused(url, &response)),
        };
        // One byte more than announced is enough to see that there is more.
        let limit = size.map_or(u64::MAX, |size| size.saturating_sub(arrived).saturating_add(1));
        let mut body = response.into_body().into_reader().take(limit);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => {
                    file.write_all(&buffer[..read]).at(part)?;
                    arrived += read as u64;
                    advance(arrived);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(Some(error)),
            }
        }
    }

    fn get(
        &self,
        url: &str,
        range: &str,
        max_redirects: u32,
        answer_timeout: Duration,
    ) -> Result<Response<ureq::Body>> {
        let request = self
            .api
            .model(self.repo.clone())
            .info_request()
            .uri(url)
            .header(header::RANGE, range)
            // Checksums and ranges are those of the content, not of a compressed form.
            .header(header::ACCEPT_ENCODING, "identity")
            .config()
            .http_status_as_error(false)
            .max_redirects(max_redirects)
            .timeout_resolve(Some(self.answer_timeout))
            .timeout_connect(Some(self.answer_timeout))
            .timeout_recv_response(Some(answer_timeout))
            .timeout_per_read(Some(self.stall_timeout));
        // The default is a proxy that the process's environment names.
        let request = if self.has_proxy { request } else { request.proxy(None) };
        request.build().call().map_err(|error| Error::Hub {
            url: url.into(),
            reason: unreachable_because(&error),
            source: Some(Box::new(error)),
        })
    }
}

fn token(env: &Environment) -> Option<String> {
    let from_file = || {
        let path = env.path("HF_TOKEN_PATH").or_else(|| Some(cache::hub_home(env)?.join("token")))?;
        let token = std::fs::read_to_string(path).ok()?.trim().to_owned();
        (!token.is_empty()).then_some(token)
    };
    env.text("HF_TOKEN").map(str::to_owned).or_else(from_file)
}

fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().at(path)?.len())
}

/// The URL that a response points to, when it is on the same host.
fn local_redirect(url: &str, response: &Response<ureq::Body>) -> Option<String> {
    if !response.status().is_redirection() {
        return None;
    }
    let path = header(response, "location")?;
    let uri: Uri = url.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.authority()?);
    let is_local = path.starts_with('/') && !path.starts_with("//");
    is_local.then(|| format!("{scheme}://{host}{path}"))
}

fn read_description(url: &str, response: &Response<ureq::Body>) -> Result<Option<Description>> {
    let status = response.status();
    let missing_file = matches!(header(response, "x-error-code"), None | Some("EntryNotFound"));
    if status == StatusCode::NOT_FOUND && missing_file {
        return Ok(None);
    }
    if !status.is_success() && !status.is_redirection() {
        return Err(refused(url, response));
    }
    let etag = header(response, "x-linked-etag").or(header(response, "etag")).unwrap_or_default();
    let checksum = Checksum::from_etag(etag).ok_or_else(|| Error::Hub {
        url: url.into(),
        reason: format!("its ETag `{etag}` is no checksum, so that a download could not be verified"),
        source: None,
    })?;
    let whole = header(response, "content-range").and_then(|range| range.rsplit('/').next());
    let alone = header(response, "content-length").filter(|_| status == StatusCode::OK);
    let size = header(response, "x-linked-size").or(whole).or(alone);
    Ok(Some(Description {
        commit: header(response, "x-repo-commit").map(str::to_owned),
        checksum,
        size: size.and_then(|size| size.parse().ok()),
    }))
}

fn header<'r>(response: &'r Response<ureq::Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// An answer that is no file, in words that say what to do.
fn refused(url: &str, response: &Response<ureq::Body>) -> Error {
    let meaning = match (response.status().as_u16(), header(response, "x-error-code")) {
        (401, _) => "the repository does not exist, or needs a token: set HF_TOKEN",
        (403, _) => "access is restricted: accept the model's terms on the hub and set HF_TOKEN",
        (404, Some("RepoNotFound")) => "no such repository",
        (404, Some("RevisionNotFound")) => "no such revision",
        (404, _) => "no such file",
        (429, _) => "too many requests; try again later",
        (500.., _) => "the hub is in trouble; try again later",
        _ => "not what was asked for",
    };
    Error::Hub {
        url: url.into(),
        reason: format!("HTTP {}: {meaning}", response.status().as_u16()),
        source: None,
    }
}

fn unreachable_because(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => "connection refused".into(),
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "host not found".into(),
        ureq::Error::Timeout(_) => "no answer in time".into(),
        other => other.to_string(),
    }
}

fn cut_short(url: &str, arrived: u64, size: Option<u64>, broken: Option<io::Error>) -> Error {
    let of_size = size.map(|size| format!(" of {size}")).unwrap_or_default();
    let why = broken.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    Error::Hub {
        url: url.into(),
        reason: format!("the connection broke after {arrived}{of_size} bytes{why}"),
        source: broken.map(Into::into),
    }
}
