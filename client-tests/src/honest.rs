//! A bucket in this process's memory that speaks the part of S3's protocol that Dormouse uses: honest, and slow.
//!
//! A conditional create fails if the object exists, lists are complete, and an answered write stays. Each request takes
//! the configured time, and takes effect at some moment within it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::server::Remote;

const NAME: &str = "bucket";
/// Objects on one page of a list.
const PAGE: usize = 1000;
/// A constant time of writing: no request asks for the real one.
const MODIFIED: (&str, &str) = ("2026-01-01T00:00:00.000Z", "Thu, 01 Jan 2026 00:00:00 GMT");

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    delay_us: AtomicU64,
    requests: AtomicUsize,
    /// Requests wait while this is true.
    held: Mutex<bool>,
    released: Condvar,
    ended: AtomicBool,
}

/// The bucket. It ends when this is dropped.
pub struct HonestBucket {
    port: u16,
    state: Arc<State>,
}

impl HonestBucket {
    /// # Errors
    /// When no port is free.
    pub fn start(delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        state.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
        let of = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if of.ended.load(Ordering::SeqCst) {
                    return;
                }
                let of = Arc::clone(&of);
                // Connections end with their clients.
                thread::spawn(move || drop(serve(client, &of)));
            }
        });
        Ok(Self { port, state })
    }

    pub fn store(&self, prefix: &str) -> Remote {
        Remote {
            url: format!("s3://{NAME}/{prefix}"),
            environment: vec![
                ("AWS_ACCESS_KEY_ID", "key".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
                ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
                ("NO_PROXY", "127.0.0.1".to_owned()),
            ],
        }
    }

    /// Holds or releases all requests: while held, none is carried out or answered.
    pub fn hold(&self, held: bool) {
        *self.state.held() = held;
        self.state.released.notify_all();
    }

    /// Returns the number of answered requests.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Returns the names of all objects with this prefix.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.state.objects().keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Forgets all objects with this prefix.
    pub fn clear(&self, prefix: &str) {
        self.state.objects().retain(|name, _| !name.starts_with(prefix));
    }
}

impl Drop for HonestBucket {
    fn drop(&mut self) {
        self.hold(false);
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // The map is whole even if a thread has panicked with it.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_released(&self) {
        let held = self.released.wait_while(self.held(), |held| *held);
        drop(held.unwrap_or_else(PoisonError::into_inner));
    }

    fn wait(&self, part: u64) {
        let delay_us = self.delay_us.load(Ordering::Relaxed) * part / 256;
        if delay_us > 0 {
            thread::park_timeout(Duration::from_micros(delay_us));
        }
    }
}

struct Request {
    method: String,
    /// The key, without the bucket.
    key: String,
    query: BTreeMap<String, String>,
    is_create_only: bool,
    range: Option<String>,
    body: Vec<u8>,
}

struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self { status, headers: String::new(), body: Vec::new() }
    }

    fn error(status: &'static str, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Self { body: body.into_bytes(), ..Self::new(status) }
    }
}

fn serve(client: TcpStream, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    while let Some(request) = read(&mut reader)? {
        // The moment of the effect differs from request to request.
        let before = (state.requests.fetch_add(1, Ordering::Relaxed) * 97 % 256) as u64;
        state.wait_until_released();
        state.wait(before);
        let answer = answer(state, &request);
        state.wait(256 - before);
        let Answer { status, headers, body } = answer;
        let length = body.len();
        let mut out = format!("HTTP/1.1 {status}\r\nETag: \"e\"\r\nLast-Modified: {}\r\n{headers}", MODIFIED.1);
        // The answer to a HEAD states its own length.
        if request.method != "HEAD" {
            out += &format!("Content-Length: {length}\r\n");
        }
        let mut out = (out + "\r\n").into_bytes();
        if request.method != "HEAD" {
            out.extend_from_slice(&body);
        }
        client.write_all(&out)?;
    }
    Ok(())
}

fn answer(state: &State, request: &Request) -> Answer {
    let key = &request.key;
    match request.method.as_str() {
        "PUT" => {
            let mut objects = state.objects();
            if request.is_create_only && objects.contains_key(key) {
                return Answer::error("412 Precondition Failed", "PreconditionFailed");
            }
            objects.insert(key.clone(), request.body.clone());
            Answer::new("200 OK")
        }
        "DELETE" => {
            state.objects().remove(key);
            Answer::new("204 No Content")
        }
        "POST" => {
            let text = String::from_utf8_lossy(&request.body).into_owned();
            let mut objects = state.objects();
            let mut body = String::from("<DeleteResult>");
            for part in text.split("<Key>").skip(1) {
                let name = part.split("</Key>").next().unwrap_or_default();
                objects.remove(name);
                body += &format!("<Deleted><Key>{name}</Key></Deleted>");
            }
            Answer { body: (body + "</DeleteResult>").into_bytes(), ..Answer::new("200 OK") }
        }
        "GET" if key.is_empty() => list(&state.objects(), &request.query),
        "GET" | "HEAD" => match state.objects().get(key) {
            None => Answer::error("404 Not Found", "NoSuchKey"),
            Some(object) => get(object, request),
        },
        _ => Answer::error("405 Method Not Allowed", "MethodNotAllowed"),
    }
}

fn get(object: &[u8], request: &Request) -> Answer {
    let length = object.len();
    if request.method == "HEAD" {
        return Answer { headers: format!("Content-Length: {length}\r\n"), ..Answer::new("200 OK") };
    }
    let Some(range) = request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")) else {
        return Answer { body: object.to_vec(), ..Answer::new("200 OK") };
    };
    let number = |text: &str| text.parse::<usize>().ok();
    let (start, end) = match range.split_once('-').unwrap_or_default() {
        ("", last) => (length.saturating_sub(number(last).unwrap_or(0)), length),
        (start, "") => (number(start).unwrap_or(0), length),
        (start, last) => (number(start).unwrap_or(0), number(last).map_or(length, |last| (last + 1).min(length))),
    };
    if start >= end {
        return Answer::error("416 Range Not Satisfiable", "InvalidRange");
    }
    let headers = format!("Content-Range: bytes {start}-{}/{length}\r\n", end - 1);
    Answer { headers, body: object[start..end].to_vec(), ..Answer::new("206 Partial Content") }
}

fn list(objects: &BTreeMap<String, Vec<u8>>, query: &BTreeMap<String, String>) -> Answer {
    let of = |name: &str| query.get(name).map_or("", String::as_str);
    let (prefix, after) = (of("prefix"), of("continuation-token").max(of("start-after")));
    let mut body = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    let mut folders = BTreeSet::new();
    let (mut listed, mut last) = (0, "");
    for (name, object) in objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix)) {
        if name.as_str() <= after {
            continue;
        }
        if listed == PAGE {
            body += &format!("<NextContinuationToken>{last}</NextContinuationToken><IsTruncated>true</IsTruncated>");
            break;
        }
        (listed, last) = (listed + 1, name);
        match name[prefix.len()..].split_once('/').filter(|_| of("delimiter") == "/") {
            Some((folder, _)) => drop(folders.insert(format!("{prefix}{folder}/"))),
            None => {
                let (size, modified) = (object.len(), MODIFIED.0);
                body += &format!(
                    "<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>{modified}</LastModified><ETag>\"e\"</ETag></Contents>"
                );
            }
        }
    }
    for folder in folders {
        body += &format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>");
    }
    Answer { body: (body + "</ListBucketResult>").into_bytes(), ..Answer::new("200 OK") }
}

/// Reads the next request. Returns nothing at the connection's end.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.trim_start_matches('/').strip_prefix(NAME).unwrap_or_default().trim_start_matches('/');
    let query = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = query.map(|(name, value)| (decoded(name), decoded(value))).collect();
    let mut request =
        Request { method, key: decoded(key), query, is_create_only: false, range: None, body: Vec::new() };
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "if-none-match" => request.is_create_only = value.trim() == "*",
            "range" => request.range = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let read = reader.take(length).read_to_end(&mut request.body)?;
    Ok((read as u64 == length).then_some(request))
}

/// Decodes percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
