//! Requests of Google's XML API that fake-gcs-server lacks, translated into its JSON API.
//!
//! Dormouse's store library writes and deletes by the XML API. fake-gcs-server answers such a PUT with 400 "invalid
//! uploadType" and lacks such a DELETE; it lists and reads. This proxy passes a PUT on as an upload by JSON, its
//! condition `x-goog-if-generation-match: 0` as `ifGenerationMatch=0`, and a DELETE likewise. Everything else passes
//! unchanged. Only the server decides whether an object may be created.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// The proxy; it ends with its value.
pub struct Translation {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Translation {
    /// Reserves a port for the proxy, before the start of a server that wants to know it.
    pub fn bind() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        (listener, port)
    }

    pub fn before(server: u16, listener: TcpListener) -> Self {
        let port = listener.local_addr().expect("a bound address").port();
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ended);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                // Connections end with their clients.
                thread::spawn(move || drop(serve(client, server)));
            }
        });
        Self { port, ended }
    }
}

impl Drop for Translation {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

struct Request {
    method: String,
    target: String,
    /// The headers, each with its line's end.
    headers: Vec<String>,
    body: Vec<u8>,
}

/// Serves one connection of a client. Each request gets a connection of its own to the server.
fn serve(client: TcpStream, server: u16) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    while let Some(request) = read(&mut reader)? {
        let translated = request.translated();
        let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
        upstream.write_all(&translated)?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        if request.method != "PUT" {
            // The server has closed its connection, and says so.
            return client.write_all(&answer);
        }
        // The XML API has the object's version in headers, the JSON API in the body.
        let status = answer.split(|byte| *byte == b' ').nth(1).unwrap_or(b"500");
        let mut said = b"HTTP/1.1 ".to_vec();
        said.extend_from_slice(status);
        said.extend_from_slice(b" .\r\nETag: \"e\"\r\nx-goog-generation: 1\r\nContent-Length: 0\r\n\r\n");
        client.write_all(&said)?;
    }
    Ok(())
}

impl Request {
    fn translated(&self) -> Vec<u8> {
        let path = self.target.split('?').next().unwrap_or_default().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        // A name is one segment in the JSON API.
        let key = key.replace('/', "%2F");
        let (method, target) = match self.method.as_str() {
            "PUT" => {
                let condition = self.header("x-goog-if-generation-match").map(|is| format!("&ifGenerationMatch={is}"));
                let condition = condition.unwrap_or_default();
                let target = format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name={key}{condition}");
                ("POST", target)
            }
            "DELETE" => ("DELETE", format!("/storage/v1/b/{bucket}/o/{key}")),
            method => (method, self.target.clone()),
        };
        let mut request = format!("{method} {target} HTTP/1.1\r\n");
        for header in &self.headers {
            let name = header.split(':').next().unwrap_or_default();
            if !name.eq_ignore_ascii_case("connection") {
                request.push_str(header);
            }
        }
        request.push_str("Connection: close\r\n\r\n");
        [request.as_bytes(), &self.body].concat()
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        let pairs = self.headers.iter().filter_map(|header| header.split_once(':'));
        pairs.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
    }
}

/// Reads a request. Returns nothing at the connection's end.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { method, target, headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            break;
        }
        request.headers.push(line);
    }
    let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    let read = reader.take(length).read_to_end(&mut request.body)?;
    Ok((read as u64 == length).then_some(request))
}
