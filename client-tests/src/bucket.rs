//! A real S3 server on loopback, with one bucket, and a bad network in front of it.
//!
//! `cargo xtask clients s3`, and long runs, build the server into `target/tools`; `DORMOUSE_S3_SERVER` names another one of
//! the same kind. It keeps objects as files, so a test can see the contents of the bucket.
//!
//! [`Network`] is a proxy that understands just enough of HTTP to tell one request from the next. The trouble of a
//! request is drawn at random, from a seed, or set for the next one.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{ports::free_port, script::Random, server::Remote, toolchain, wait_for};

const START_LIMIT: Duration = Duration::from_secs(60);
const KEY: &str = "dormouse-test";
const SECRET: &str = "dormouse-test-secret";
const NAME: &str = "bucket";

/// The server with its bucket; both end with it.
pub struct Bucket {
    port: u16,
    folder: TempDir,
    process: Child,
}

impl Bucket {
    /// Starts the server. Returns nothing if it was not requested, or, saying so loudly, if it is missing.
    pub fn start() -> Option<Self> {
        if ["DORMOUSE_S3_SERVER", "DORMOUSE_LONG"].iter().all(|name| std::env::var_os(name).is_none()) {
            return None;
        }
        let Some(program) = program() else {
            toolchain::skip("s3", "there is no S3 server; `cargo xtask clients s3` builds it, with go");
            return None;
        };
        for _ in 0..3 {
            let folder = tempfile::Builder::new().prefix("dormouse-s3-").tempdir().expect("a temporary folder");
            let (data, facts, port) = (folder.path().join("data"), folder.path().join("facts"), free_port());
            fs::create_dir_all(data.join(NAME)).expect("a temporary folder");
            fs::create_dir_all(&facts).expect("a temporary folder");
            let mut process = Command::new(&program)
                .args(["--port", &format!("127.0.0.1:{port}"), "--access", KEY, "--secret", SECRET, "--quiet"])
                .args(["posix", "--sidecar"])
                .args([&facts, &data])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            let serves = wait_for(START_LIMIT, || match process.try_wait() {
                // Another process took the port.
                Ok(Some(_)) => Some(false),
                _ => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok().map(|_| true),
            });
            let bucket = Self { port, folder, process };
            if serves == Some(true) {
                return Some(bucket);
            }
        }
        panic!("{} does not serve", program.display());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns a store in this bucket, reached through `port` of this machine.
    pub fn store(&self, prefix: &str, port: u16) -> Remote {
        Remote {
            url: format!("s3://{NAME}/{prefix}"),
            environment: vec![
                ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
                ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
                ("NO_PROXY", "127.0.0.1".to_owned()),
                // Checkpoints come only when a test asks for them.
                ("DORMOUSE_CHECKPOINT_EVERY", "never".to_owned()),
            ],
        }
    }

    /// Returns the names of all objects, without the prefix's slash in front.
    pub fn objects(&self, prefix: &str) -> Vec<String> {
        let folder = self.folder.path().join("data").join(NAME).join(prefix);
        let mut found = Vec::new();
        walk(&folder, &mut |path| {
            let name = path.strip_prefix(&folder).expect("it lies below the folder");
            found.push(name.display().to_string());
        });
        found.sort();
        found
    }

    /// Returns the name of an object that contains this text, if there is one.
    pub fn find(&self, text: &str) -> Option<String> {
        let folder = self.folder.path().join("data").join(NAME);
        let shows = |name: &String| {
            let bytes = fs::read(folder.join(name)).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        self.objects("").into_iter().find(shows)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn program() -> Option<PathBuf> {
    let program = match std::env::var_os("DORMOUSE_S3_SERVER") {
        Some(program) => program.into(),
        None => toolchain::target().join("tools/versitygw"),
    };
    program.exists().then_some(program)
}

fn walk(folder: &Path, each: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), each),
            _ => each(&entry.path()),
        }
    }
}

/// The fate of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The request is answered after a while.
    Slow,
    /// The request is refused with 503, and not carried out.
    Refused,
    /// The request is carried out, and answered with 500.
    Denied,
    /// The connection ends before the request is carried out.
    Lost,
    /// The request is carried out, and the connection ends instead of an answer.
    Unanswered,
    /// The request is carried out, and the connection ends in the middle of the answer.
    Half,
    /// The request is not carried out, but answered with 200.
    Pretended,
}

use Trouble::{Denied, Half, Lost, Pretended, Refused, Slow, Unanswered};

/// Troubles of a bad network. It never pretends.
const TROUBLES: [Trouble; 6] = [Slow, Refused, Denied, Lost, Unanswered, Half];

struct Plan {
    random: Random,
    /// One of this many requests meets trouble; 0: none.
    one_in: usize,
    /// Troubles for the next requests with these methods.
    told: VecDeque<(&'static str, Trouble)>,
}

struct State {
    plan: Mutex<Plan>,
    met: [AtomicUsize; 7],
    down: AtomicBool,
    ended: AtomicBool,
}

/// A proxy in front of a server.
pub struct Network {
    port: u16,
    state: Arc<State>,
}

impl Network {
    /// Starts a proxy that passes everything on until told otherwise.
    pub fn before(server: u16, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let plan = Plan { random: Random::new(seed), one_in: 0, told: VecDeque::new() };
        let state = Arc::new(State {
            plan: Mutex::new(plan),
            met: Default::default(),
            down: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let of = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if of.ended.load(Ordering::SeqCst) {
                    return;
                }
                let of = Arc::clone(&of);
                // Connections end with their clients.
                thread::spawn(move || drop(serve(client, server, &of)));
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes one of `one_in` requests meet trouble from now on; none with 0.
    pub fn trouble_one_in(&self, one_in: usize) {
        self.state.plan.lock().expect("no thread panics while it holds this").one_in = one_in;
    }

    /// Makes the next request with this method meet `trouble`.
    pub fn trouble_next(&self, method: &'static str, trouble: Trouble) {
        self.state.plan.lock().expect("no thread panics while it holds this").told.push_back((method, trouble));
    }

    /// Cuts every connection and lets no request pass until the network is up again.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Returns how many requests met that trouble.
    pub fn met(&self, trouble: Trouble) -> usize {
        self.state.met[trouble as usize].load(Ordering::SeqCst)
    }

    /// Returns how many requests met any trouble.
    pub fn met_any(&self) -> usize {
        TROUBLES.iter().map(|trouble| self.met(*trouble)).sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn draw(&self, method: &str) -> Option<Trouble> {
        if self.down.load(Ordering::SeqCst) {
            return Some(Lost);
        }
        let mut plan = self.plan.lock().expect("no thread panics while it holds this");
        let trouble = match plan.told.iter().position(|(told, _)| *told == method) {
            Some(at) => plan.told.remove(at).map(|(_, trouble)| trouble),
            None if plan.one_in > 0 && {
                let n = plan.one_in;
                plan.random.one_in(n)
            } =>
            {
                Some(TROUBLES[plan.random.below(TROUBLES.len())])
            }
            None => None,
        };
        if let Some(trouble) = trouble {
            self.met[trouble as usize].fetch_add(1, Ordering::SeqCst);
        }
        trouble
    }
}

/// Serves one connection of a client. Each request gets a connection of its own to the server.
fn serve(client: TcpStream, server: u16, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    while let Some((method, request)) = read_request(&mut reader)? {
        let trouble = state.draw(&method);
        match trouble {
            Some(Lost) => return Ok(()),
            Some(Refused) => {
                client.write_all(&answer("503 Slow Down", "<Error><Code>SlowDown</Code></Error>"))?;
                continue;
            }
            Some(Pretended) => {
                client.write_all(&answer("200 OK", ""))?;
                continue;
            }
            Some(Slow) => thread::park_timeout(Duration::from_millis(30)),
            _ => {}
        }
        let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
        upstream.write_all(&request)?;
        let mut answered = Vec::new();
        // The server closes each connection after its answer.
        upstream.read_to_end(&mut answered)?;
        match trouble {
            Some(Unanswered) => return Ok(()),
            Some(Half) => return client.write_all(&answered[..answered.len() / 2]),
            Some(Denied) => {
                let body = "<Error><Code>InternalError</Code><Message>Try again.</Message></Error>";
                client.write_all(&answer("500 Internal Server Error", body))?;
            }
            _ => {
                client.write_all(&answered)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nETag: \"0\"\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Reads the method and the whole request. Returns nothing at the connection's end.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut request = Vec::new();
    let mut length = 0;
    loop {
        let start = request.len();
        if reader.read_until(b'\n', &mut request)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&request[start..]).to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().map_err(io::Error::other)?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let method = String::from_utf8_lossy(&request).split(' ').next().unwrap_or_default().to_owned();
    let read = reader.take(length).read_to_end(&mut request)?;
    Ok((read as u64 == length).then_some((method, request)))
}
