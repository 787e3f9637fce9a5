//! The limit that servers are measured against: the cost of a request before a server does anything for it.
//!
//! A bare event loop of tokio, the project's parser, and one hash map. It knows GET, SET and PING, and has no expiry,
//! types, databases, memory limits, meters or log.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{Error, Result};
use std::net::Ipv4Addr;
use std::rc::Rc;

use dormouse_protocol::{Parsed, Parser, Request, RequestLimits};
use rapidhash::RapidHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// The server's own allocator, so the difference does not include the cost of memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Enough for a pipeline of 64 commands with their values.
const INPUT_BYTES: usize = 64 << 10;

type Map = RapidHashMap<Box<[u8]>, Box<[u8]>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--version"] => {
            println!("dormouse-bench-limit {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        ["--port", port] => port.parse().map_err(Error::other)?,
        _ => return Err(Error::other("usage: dormouse-bench-limit --port PORT")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, listen(port))
}

async fn listen(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let map = Rc::new(RefCell::new(Map::default()));
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that has left is not an error.
        tokio::task::spawn_local(serve(stream, Rc::clone(&map)));
    }
}

async fn serve(mut stream: TcpStream, map: Rc<RefCell<Map>>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut parser = Parser::new(RequestLimits::default());
    let (mut input, mut output) = (Vec::with_capacity(INPUT_BYTES), Vec::new());
    while stream.read_buf(&mut input).await? > 0 {
        let mut at = 0;
        while let Parsed::Complete { request, consumed } = parser.parse(&input[at..]).map_err(Error::other)? {
            answer(&mut map.borrow_mut(), request, &mut output);
            at += consumed;
        }
        input.drain(..at);
        stream.write_all(&output).await?;
        output.clear();
    }
    Ok(())
}

fn answer(map: &mut Map, request: Request<'_>, output: &mut Vec<u8>) {
    match (request.get(0), request.len()) {
        (Some(name), 2) if name.eq_ignore_ascii_case(b"GET") => match map.get(request.arg(1)) {
            Some(value) => {
                output.push(b'$');
                output.extend_from_slice(itoa::Buffer::new().format(value.len()).as_bytes());
                output.extend_from_slice(b"\r\n");
                output.extend_from_slice(value);
                output.extend_from_slice(b"\r\n");
            }
            None => output.extend_from_slice(b"$-1\r\n"),
        },
        (Some(name), 3) if name.eq_ignore_ascii_case(b"SET") => {
            let (key, value) = (request.arg(1), request.arg(2));
            match map.get_mut(key) {
                Some(held) if held.len() == value.len() => held.copy_from_slice(value),
                Some(held) => *held = value.into(),
                None => drop(map.insert(key.into(), value.into())),
            }
            output.extend_from_slice(b"+OK\r\n");
        }
        (Some(name), _) if name.eq_ignore_ascii_case(b"PING") => output.extend_from_slice(b"+PONG\r\n"),
        _ => output.extend_from_slice(b"-ERR unknown command\r\n"),
    }
}
