//! A stand-in for the Hugging Face hub: a small HTTP server on the loopback interface that speaks as much of
//! the hub's protocol as its clients need, and misbehaves on request.
//!
//! ```no_run
//! let hub = candlewick_tests::hub::HubStandIn::start();
//! hub.add_model("owner/tiny", [("config.json", "{}"), ("model.safetensors", "...")]);
//! // Point a program at it: HF_ENDPOINT=hub.endpoint()
//! assert_eq!(hub.downloads("config.json"), 1);
//! ```
//!
//! Like the real hub it keeps weights in large file storage: asked for one, it answers with a redirect to
//! another host (`localhost` instead of 127.0.0.1) and tells the sha256 in `X-Linked-ETag`. For other files it redirects within itself and
//! tells their git hash in `ETag`. Every answer names the commit in `X-Repo-Commit`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A hub that runs until it is dropped.
#[derive(Debug)]
pub struct HubStandIn {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: Option<JoinHandle<()>>,
}

/// A way to misbehave that [`HubStandIn::break_file`] sets for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers requests for the file with this HTTP status.
    Status(u16),
    /// Closes the connection when this many bytes of the file have been sent, wherever the request began.
    CutAfter(usize),
    /// Closes the connection when this many bytes have been sent over it.
    CutEvery(usize),
    /// Sends this many bytes of what was asked for, and then nothing more, for as long as the client waits.
    StallAfter(usize),
    /// Sends as many bytes as it should, but other ones.
    Garble,
    /// Sends the whole file, whatever range was asked for.
    IgnoreRange,
    /// Waits this long before it answers.
    Delay(Duration),
}

/// A request that the hub has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path of the URL.
    pub path: String,
    /// The file that it is about, if it is about one.
    pub file: Option<String>,
    /// Where the range that was asked for begins.
    pub start: Option<usize>,
    /// Whether it asked for the file itself, not just for its description.
    pub is_download: bool,
    /// The value of the `Authorization` header.
    pub authorization: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    token: Option<String>,
    models: HashMap<String, Model>,
    faults: HashMap<String, Fault>,
    requests: Vec<Request>,
}

#[derive(Debug, Default)]
struct Model {
    main: String,
    commits: HashMap<String, HashMap<String, Arc<[u8]>>>,
}

impl HubStandIn {
    /// Starts a hub without any model, on a port of its own.
    pub fn start() -> HubStandIn {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback interface has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if lock(&shared).stopped {
                    break;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || Connection { stream: connection, address, state }.serve());
            }
        });
        HubStandIn { address, state, server: Some(server) }
    }

    /// What `HF_ENDPOINT` should be.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a model, or a commit to the `main` branch of one that is there. Returns the commit.
    pub fn add_model<N, C>(&self, repo: &str, files: impl IntoIterator<Item = (N, C)>) -> String
    where
        N: Into<String>,
        C: Into<Vec<u8>>,
    {
        let files: HashMap<String, Arc<[u8]>> =
            files.into_iter().map(|(name, content)| (name.into(), content.into().into())).collect();
        let mut names: Vec<&String> = files.keys().collect();
        names.sort();
        let tree: String = names.iter().map(|name| format!("{name} {}\n", git_hash(&files[*name]))).collect();
        let commit = git_hash(tree.as_bytes());
        let mut state = lock(&self.state);
        let model = state.models.entry(repo.to_owned()).or_default();
        model.main.clone_from(&commit);
        model.commits.insert(commit.clone(), files);
        commit
    }

    /// Adds a model with all files of a folder, those of folders inside it too. Returns the commit.
    pub fn add_model_folder(&self, repo: &str, folder: &Path) -> String {
        let mut files = Vec::new();
        read_folder(folder, "", &mut files);
        self.add_model(repo, files)
    }

    /// Refuses requests without this token, as for a private repository.
    pub fn require_token(&self, token: &str) {
        lock(&self.state).token = Some(token.to_owned());
    }

    /// Misbehaves for a file, in all models, until [`mend_file`](Self::mend_file).
    pub fn break_file(&self, file: &str, fault: Fault) {
        lock(&self.state).faults.insert(file.to_owned(), fault);
    }

    /// Behaves again.
    pub fn mend_file(&self, file: &str) {
        lock(&self.state).faults.remove(file);
    }

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state).requests.clone()
    }

    /// How often a file itself, not just its description, was asked for.
    pub fn downloads(&self, file: &str) -> usize {
        let is_download = |request: &&Request| request.is_download && request.file.as_deref() == Some(file);
        lock(&self.state).requests.iter().filter(is_download).count()
    }
}

impl Drop for HubStandIn {
    fn drop(&mut self) {
        lock(&self.state).stopped = true;
        // Wakes the server up.
        let _ = TcpStream::connect(self.address);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// The name of a blob with this content, as git and the hub compute it.
pub fn git_hash(content: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content).finalize())
}

/// The sha256 of a content.
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display())).path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            read_folder(&path, &format!("{name}/"), files);
        } else {
            let content = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            files.push((name, content));
        }
    }
}

/// The suffixes that a new repository's .gitattributes sends to large file storage.
fn is_large(file: &str) -> bool {
    [".safetensors", ".bin", ".onnx", ".onnx_data", ".pt"].iter().any(|suffix| file.ends_with(suffix))
}

/// One connection, which serves one request.
struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// A file of a commit.
struct Located {
    repo: String,
    commit: String,
    file: String,
    content: Arc<[u8]>,
}

impl Connection {
    /// The client may go away at any point; that is its own business.
    fn serve(mut self) {
        let _ = self.answer();
    }

    fn answer(&mut self) -> std::io::Result<()> {
        let mut reader = BufReader::new(self.stream.try_clone()?).take(1 << 16);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path =
            line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }

        let range = headers.get("range").map(String::as_str);
        let located = self.locate(&path);
        let is_answered_by_content = !path.contains("/resolve/");
        let request = Request {
            file: located.as_ref().ok().map(|located| located.file.clone()),
            start: range.and_then(range_start),
            is_download: located.is_ok() && is_answered_by_content && range != Some("bytes=0-0"),
            authorization: headers.get("authorization").cloned(),
            path,
        };
        let (fault, token) = {
            let mut state = lock(&self.state);
            state.requests.push(request.clone());
            let fault = request.file.as_ref().and_then(|file| state.faults.get(file).copied());
            (fault, state.token.clone())
        };
        // An address in large file storage is a secret itself, as the real one's signed URLs are.
        let is_open = is_answered_by_content && request.file.as_deref().is_some_and(is_large);
        if !is_open && token.is_some_and(|token| request.authorization != Some(format!("Bearer {token}"))) {
            return self.send(401, "X-Error-Code: GatedRepo\r\n", b"");
        }
        match fault {
            Some(Fault::Status(status)) => return self.send(status, "", b""),
            Some(Fault::Delay(delay)) => std::thread::sleep(delay),
            _ => {}
        }
        match located {
            Ok(located) if is_answered_by_content => self.send_content(&located, &request, range, fault),
            Ok(located) => self.redirect(&located),
            Err(_) if request.path.starts_with("/api/models/") => self.send_info(&request.path),
            Err(code) => self.send(404, &format!("X-Error-Code: {code}\r\n"), b""),
        }
    }

    /// Finds the file that a path means, or the hub's code for why there is none.
    fn locate(&self, path: &str) -> Result<Located, &'static str> {
        let state = lock(&self.state);
        let (repo, rest) = match path.split_once("/resolve/") {
            Some((repo, rest)) => (repo.trim_start_matches('/'), rest),
            None => {
                let path = path.strip_prefix("/content/").ok_or("EntryNotFound")?;
                state
                    .models
                    .keys()
                    .find_map(|repo| Some((repo.as_str(), path.strip_prefix(repo)?.strip_prefix('/')?)))
                    .ok_or("RepoNotFound")?
            }
        };
        let model = state.models.get(repo).ok_or("RepoNotFound")?;
        let (revision, file) = rest.split_once('/').ok_or("EntryNotFound")?;
        let commit = if revision == "main" { &model.main } else { revision };
        let files = model.commits.get(commit).ok_or("RevisionNotFound")?;
        let content = Arc::clone(files.get(file).ok_or("EntryNotFound")?);
        Ok(Located { repo: repo.to_owned(), commit: commit.to_owned(), file: file.to_owned(), content })
    }

    fn redirect(&mut self, located: &Located) -> std::io::Result<()> {
        let Located { repo, commit, file, content } = located;
        let place = format!("/content/{repo}/{commit}/{file}");
        let headers = match is_large(file) {
            true => format!(
                "X-Linked-ETag: \"{}\"\r\nX-Linked-Size: {}\r\nLocation: http://localhost:{}{place}\r\n",
                sha256(content),
                content.len(),
                self.address.port()
            ),
            false => format!("Location: {place}\r\n"),
        };
        let status = if is_large(file) { 302 } else { 307 };
        self.send(status, &format!("X-Repo-Commit: {commit}\r\n{headers}"), b"")
    }

    fn send_content(
        &mut self,
        located: &Located,
        request: &Request,
        range: Option<&str>,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let Located { commit, file, content, .. } = located;
        let mut headers = match is_large(file) {
            // A storage has its own ideas of an ETag, and knows no commits.
            true => "ETag: \"a-storage-tag\"\r\n".to_owned(),
            false => format!("X-Repo-Commit: {commit}\r\nETag: \"{}\"\r\n", git_hash(content)),
        };
        let size = content.len();
        let honoured = request.start.filter(|_| fault != Some(Fault::IgnoreRange) || !request.is_download);
        let start = honoured.unwrap_or(0);
        if start >= size && honoured.is_some() {
            return self.send(416, &format!("Content-Range: bytes */{size}\r\n"), b"");
        }
        let end = if range == Some("bytes=0-0") { 1 } else { size };
        if honoured.is_some() {
            let _ = write!(headers, "Content-Range: bytes {start}-{}/{size}\r\n", end - 1);
        }
        let mut body = content[start..end].to_vec();
        match fault.filter(|_| request.is_download) {
            Some(Fault::Garble) => body.iter_mut().for_each(|byte| *byte ^= 0x55),
            Some(Fault::CutAfter(limit)) => body.truncate(limit.saturating_sub(start)),
            Some(Fault::CutEvery(limit) | Fault::StallAfter(limit)) => body.truncate(limit),
            _ => {}
        }
        let status = if honoured.is_some() { 206 } else { 200 };
        self.send_announcing(status, &headers, &body, end - start)?;
        if let (Some(Fault::StallAfter(_)), true) = (fault, request.is_download) {
            // Ends when the client hangs up.
            let _ = self.stream.read(&mut [0]);
        }
        Ok(())
    }

    fn send_info(&mut self, path: &str) -> std::io::Result<()> {
        let path = path.trim_start_matches("/api/models/");
        let (repo, revision) = path.split_once("/revision/").unwrap_or((path, "main"));
        let info = {
            let state = lock(&self.state);
            state.models.get(repo).and_then(|model| {
                let commit = if revision == "main" { model.main.as_str() } else { revision };
                let names = model.commits.get(commit)?.keys();
                let siblings: Vec<String> =
                    names.map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
                let siblings = siblings.join(",");
                Some(format!("{{\"id\":\"{repo}\",\"sha\":\"{commit}\",\"siblings\":[{siblings}]}}"))
            })
        };
        match info {
            Some(info) => self.send(200, "Content-Type: application/json\r\n", info.as_bytes()),
            None => self.send(404, "X-Error-Code: RepoNotFound\r\n", b""),
        }
    }

    fn send(&mut self, status: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
        self.send_announcing(status, headers, body, body.len())
    }

    fn send_announcing(
        &mut self,
        status: u16,
        headers: &str,
        body: &[u8],
        announced: usize,
    ) -> std::io::Result<()> {
        let fixed = "Connection: close\r\nContent-Length";
        write!(self.stream, "HTTP/1.1 {status} Stand-in\r\n{headers}{fixed}: {announced}\r\n\r\n")?;
        self.stream.write_all(body)?;
        self.stream.flush()
    }
}

/// The start of `bytes=START-...`.
fn range_start(range: &str) -> Option<usize> {
    range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}
