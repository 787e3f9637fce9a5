//! Two nodes in this process, and clients of the one whose databases the other serves.

mod http;
mod logins;
mod streams;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dormouse::clients::Client;
use dormouse::fleet::{Peering, ServedAt, ToldDirections};
use dormouse::peer::Peer;
use dormouse::rest::HandedOver;
use dormouse::sockets::{Accepted, Entrant};
use dormouse_shard::error::Error;
use parking_lot::Mutex;

use crate::node::{Bench, Connection};

const SECRET: &str = "the-secret-of-the-fleet";
const TOKENS: [&str; 3] = ["dm_shop_s3cret", "dm_blog_s3cret", "hunter2"];

/// A port at which a node serves others.
struct Door {
    address: String,
    accepted: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(bench: &Bench, is_http: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (accepted, ends) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (worker, count, over) = (bench.worker.clone(), Arc::clone(&accepted), Arc::clone(&ends));
        let serve = move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                stream.set_nonblocking(true).unwrap();
                let (remote, local) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
                let (socket, peer) = (Accepted::Tcp(stream), Peer::Tcp { remote, local, is_tls: false });
                match is_http {
                    true => worker.serve_http(HandedOver {
                        socket,
                        peer,
                        received: Default::default(),
                        router: Default::default(),
                    }),
                    false => worker.serve(socket, Entrant::New(peer)),
                }
            }
        };
        Self { address, accepted, ends, thread: Some(std::thread::spawn(serve)) }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if TcpStream::connect(&self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

type Table = Arc<Mutex<Box<dyn Fn(&str) -> Result<ServedAt, Error> + Send>>>;

/// `a` takes clients, and `b` serves `shop` and `default`.
struct Pair {
    resp: Door,
    http: Door,
    a: Bench,
    b: Bench,
    /// Where `a` believes databases to be.
    places: Table,
}

impl Pair {
    fn new() -> Self {
        Self::with(&TOKENS)
    }

    fn with(tokens: &[&str]) -> Self {
        let (a, b) = (Bench::new(tokens), Bench::new(tokens));
        let (resp, http) = (Door::open(&b, false), Door::open(&b, true));
        let there = peering(&resp.address, Some(&http.address));
        let is_there = |name: &str| name == "shop" || name.starts_with("shop.") || name == "default";
        let table =
            move |name: &str| Ok(if is_there(name) { ServedAt::There(Arc::clone(&there)) } else { ServedAt::Here });
        let places: Table = Arc::new(Mutex::new(Box::new(table)));
        let told = Arc::clone(&places);
        join(&a, move |name| (told.lock())(name));
        join(&b, |_| Ok(ServedAt::Here));
        Self { resp, http, a, b, places }
    }

    /// Lets `a` believe that every database is there.
    fn move_to(&self, place: impl Fn() -> Result<ServedAt, Error> + Send + 'static) {
        *self.places.lock() = Box::new(move |_| place());
    }

    /// A connection to `a` that is forwarded to `shop`.
    fn shop(&self) -> Connection {
        let mut client = self.a.connect();
        client.check("AUTH dm_shop_s3cret", "+OK\r\n");
        client
    }

    /// A connection to `b` in `shop`.
    fn direct(&self) -> Connection {
        let mut client = self.b.connect();
        client.check("AUTH dm_shop_s3cret", "+OK\r\n");
        client
    }
}

fn join(bench: &Bench, told: impl Fn(&str) -> Result<ServedAt, Error> + Send + Sync + 'static) {
    assert!(bench.node.directions.set(ToldDirections::new(SECRET, told)).is_ok());
}

fn peering(address: &str, http: Option<&str>) -> Arc<Peering> {
    Arc::new(Peering { name: "b".into(), address: address.into(), http: http.map(str::to_owned) })
}

/// An address at which nothing listens.
fn closed_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "still not so");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The clients of `shop` on a node.
fn clients(bench: &Bench) -> Vec<Arc<Client>> {
    bench.node.clients.of_database("shop")
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn write(client: &mut Connection, words: &[&[u8]]) {
    client.stream.write_all(&request(words)).unwrap();
}
