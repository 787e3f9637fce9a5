//! A wire to a server that a test can hold, cut and mend.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

#[derive(Default)]
struct State {
    /// Replies stay on the wire.
    is_held: bool,
    /// Nothing is taken from the wire.
    is_stopped: bool,
    /// New connections are closed at once.
    is_refusing: bool,
    is_over: bool,
    streams: Vec<TcpStream>,
}

pub struct Wire {
    pub port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Wire {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let mut state = shared.0.lock().unwrap();
                if state.is_over {
                    return;
                }
                if state.is_refusing {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                [&client, &server].iter().for_each(|stream| stream.set_nodelay(true).unwrap());
                state.streams.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let of_requests = Arc::clone(&shared);
                thread::spawn(move || carry(from, to, &of_requests, |state| state.is_stopped));
                let of_replies = Arc::clone(&shared);
                thread::spawn(move || carry(server, client, &of_replies, |state| state.is_held || state.is_stopped));
            }
        });
        Self { port: own, state }
    }

    /// Keeps replies on the wire from now on.
    pub fn hold(&self) {
        self.state.0.lock().unwrap().is_held = true;
    }

    /// Carries nothing from now on, as if the server were frozen.
    pub fn stop(&self) {
        self.state.0.lock().unwrap().is_stopped = true;
    }

    pub fn go_on(&self) {
        self.state.0.lock().unwrap().is_held = false;
        self.state.1.notify_all();
    }

    /// Cuts all connections, with what is on the wire.
    pub fn cut(&self) {
        let mut state = self.state.0.lock().unwrap();
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        (state.is_held, state.is_stopped) = (false, false);
        self.state.1.notify_all();
    }

    pub fn refuse(&self) {
        self.state.0.lock().unwrap().is_refusing = true;
    }

    pub fn accept(&self) {
        self.state.0.lock().unwrap().is_refusing = false;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().is_over = true;
        self.cut();
        // The thread that accepts looks at it with the next connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &(Mutex<State>, Condvar), waits: impl Fn(&mut State) -> bool) {
    let mut bytes = [0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let state = shared.0.lock().unwrap();
        drop(shared.1.wait_while(state, &waits).unwrap());
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
