//! A wire that can be cut: it connects each client of its port to the server.
//!
//! A link is cut in four ways: at once; so that the client's bytes never arrive at the server; so that they arrive late, when
//! the client has long taken the link for dead and opened another; or so that the server has acted on them and its answer is
//! lost.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::script::Random;
use crate::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    links: Mutex<Vec<Link>>,
    held_back: AtomicBool,
    over: AtomicBool,
    losses: Option<Losses>,
    change: Option<Change>,
}

/// Answers that are lost, each with its link.
struct Losses {
    /// One in so many.
    one_in: usize,
    random: Mutex<Random>,
    count: AtomicUsize,
}

impl Losses {
    fn take(&self) -> bool {
        let is_lost = self.random.lock().expect("no thread panics while it holds this").one_in(self.one_in);
        self.count.fetch_add(usize::from(is_lost), Ordering::SeqCst);
        is_lost
    }
}

/// Bytes that stand in answers in place of others.
struct Change {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Change {
    /// Changes what has come. Returns how much of it can be passed on: the rest may be the beginning of what is to be changed.
    fn apply(&self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            if rest.starts_with(&self.from) {
                rest[..self.to.len()].copy_from_slice(&self.to);
                at += self.to.len();
            } else if self.from.starts_with(rest) {
                break;
            } else {
                at += 1;
            }
        }
        at
    }
}

struct Link {
    client: TcpStream,
    server: TcpStream,
    late: Arc<Late>,
}

/// The treatment of the client's bytes on a link that is to be cut late.
#[derive(Default)]
struct Late {
    /// Whether bytes are kept.
    keeps: AtomicBool,
    /// Whether some bytes are kept.
    has: AtomicBool,
}

impl Proxy {
    pub fn start(server: u16) -> Self {
        Self::over(server, Shared::default())
    }

    /// A wire that loses one answer in `one_in`, and cuts its link.
    pub fn losing(server: u16, one_in: usize, seed: u64) -> Self {
        let losses = Losses { one_in, random: Mutex::new(Random::new(seed)), count: AtomicUsize::new(0) };
        Self::over(server, Shared { losses: Some(losses), ..Shared::default() })
    }

    /// A wire on which `to` arrives in answers of the server where it says `from`, which is as long.
    pub fn changing(server: u16, from: &[u8], to: &[u8]) -> Self {
        assert!(!from.is_empty() && from.len() == to.len(), "no byte is more or less");
        let change = Change { from: from.to_vec(), to: to.to_vec() };
        Self::over(server, Shared { change: Some(change), ..Shared::default() })
    }

    fn over(server: u16, shared: Shared) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let shared = Arc::new(shared);
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    if shared.over.load(Ordering::SeqCst) {
                        return;
                    }
                    // If the server is restarting, the client is turned away, as the server would do.
                    let _ = shared.connect(client, server);
                }
            })
        };
        Self { port, shared, acceptor: Some(acceptor) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Number of answers that were lost.
    pub fn lost(&self) -> usize {
        self.shared.losses.as_ref().map_or(0, |losses| losses.count.load(Ordering::SeqCst))
    }

    /// Cuts all links. Bytes on their way may or may not be lost.
    pub fn drop_links(&self) {
        for link in self.shared.links().drain(..) {
            // The client's side first: the client never learns what the server does with its last bytes.
            _ = link.client.shutdown(Shutdown::Both);
            _ = link.server.shutdown(Shutdown::Write);
        }
    }

    /// Cuts all links while bytes are on their way, and lets these through a moment after the client has come back.
    pub fn drop_links_late(&self, moment: Duration) {
        let mut links: Vec<Link> = Vec::new();
        let sent = || {
            // The client may be just about to connect. Dead links send nothing.
            for link in self.shared.links().drain(..) {
                link.late.keeps.store(true, Ordering::SeqCst);
                links.push(link);
            }
            links.iter().any(|link| link.late.has.load(Ordering::SeqCst)).then_some(())
        };
        assert!(wait_for(LIMIT, sent).is_some(), "the client sends nothing");
        links.iter().for_each(|link| _ = link.client.shutdown(Shutdown::Both));
        assert!(wait_for(LIMIT, || self.has_links().then_some(())).is_some(), "the client does not come back");
        std::thread::park_timeout(moment);
        links.iter().for_each(|link| link.late.keeps.store(false, Ordering::SeqCst));
    }

    /// Cuts all links once more bytes are on their way to the server, which never arrive.
    pub fn cut_when_used(&self) -> Cut {
        let links: Vec<Link> = self.shared.links().drain(..).collect();
        links.iter().for_each(|link| link.late.keeps.store(true, Ordering::SeqCst));
        Cut { links }
    }

    pub fn has_links(&self) -> bool {
        !self.shared.links().is_empty()
    }

    /// Cuts all links, and allows no new ones.
    pub fn hold_back(&self) {
        self.shared.held_back.store(true, Ordering::SeqCst);
        self.drop_links();
    }

    pub fn let_through(&self) {
        self.shared.held_back.store(false, Ordering::SeqCst);
    }
}

/// Links that are about to be cut.
pub struct Cut {
    links: Vec<Link>,
}

impl Cut {
    /// Waits until the client has sent something, and cuts.
    pub fn wait(&mut self) {
        let sent = || self.links.iter().any(|link| link.late.has.load(Ordering::SeqCst)).then_some(());
        assert!(wait_for(LIMIT, sent).is_some(), "the client sends nothing");
        for link in self.links.drain(..) {
            _ = link.client.shutdown(Shutdown::Both);
            _ = link.server.shutdown(Shutdown::Both);
            link.late.keeps.store(false, Ordering::SeqCst);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.drop_links();
        // Wakes the acceptor up.
        _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            _ = acceptor.join();
        }
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Vec<Link>> {
        self.links.lock().expect("no thread panics with the links in its hand")
    }

    fn connect(self: &Arc<Self>, client: TcpStream, server: u16) -> io::Result<()> {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
        }
        let mut links = self.links();
        if self.held_back.load(Ordering::SeqCst) {
            return Ok(());
        }
        let late = Arc::new(Late::default());
        for (from, to, late, is_answer) in
            [(&client, &server, Arc::clone(&late), false), (&server, &client, Arc::default(), true)]
        {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let shared = Arc::clone(self);
            std::thread::spawn(move || match is_answer {
                true => copy(from, to, &late, shared.losses.as_ref(), shared.change.as_ref()),
                false => copy(from, to, &late, None, None),
            });
        }
        links.push(Link { client, server, late });
        Ok(())
    }
}

/// Passes bytes on until one end closes, or some are lost. Bytes that were read before a cut are still passed on.
fn copy(mut from: TcpStream, mut to: TcpStream, late: &Late, losses: Option<&Losses>, change: Option<&Change>) {
    let mut buffer = vec![0; 64 << 10];
    // Bytes at the beginning of the buffer that are to be passed on with the next.
    let mut kept = 0;
    loop {
        match from.read(&mut buffer[kept..]) {
            Ok(0) | Err(_) => break,
            Ok(read) => {
                if late.keeps.load(Ordering::SeqCst) {
                    late.has.store(true, Ordering::SeqCst);
                    _ = wait_for(LIMIT, || (!late.keeps.load(Ordering::SeqCst)).then_some(()));
                }
                let have = kept + read;
                let passed = change.map_or(have, |change| change.apply(&mut buffer[..have]));
                if losses.is_some_and(Losses::take) || to.write_all(&buffer[..passed]).is_err() {
                    break;
                }
                buffer.copy_within(passed..have, 0);
                kept = have - passed;
            }
        }
    }
    _ = to.shutdown(Shutdown::Both);
    _ = from.shutdown(Shutdown::Both);
}
