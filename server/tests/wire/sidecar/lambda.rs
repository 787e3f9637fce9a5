//! The sidecar as an extension of AWS Lambda, before an emulation of its Extensions API.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::process::Signal;

use super::wire::Wire;
use super::{PATIENCE, Sidecar, freeze, until, url};
use crate::served::Served;

/// A request to the API: its first line, its headers in lower case, its body.
struct Asked {
    line: String,
    headers: String,
    body: String,
}

struct Lambda {
    address: String,
    asked: Receiver<Asked>,
    events: Sender<&'static str>,
}

impl Lambda {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, asked) = channel();
        let (events, coming) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &tell, &coming);
            }
        });
        Self { address, asked, events }
    }

    fn next(&self) -> Asked {
        self.asked.recv_timeout(PATIENCE).expect("a request to the API")
    }
}

/// Answers one connection after the other request, as Lambda does: `next` waits for an event.
fn answer(stream: TcpStream, tell: &Sender<Asked>, events: &Receiver<&'static str>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut headers) = (String::new(), String::new());
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            headers += &format!("{header}\n");
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let is_next = line.contains("/event/next");
        let asked = Asked { line: line.trim().to_owned(), headers, body: String::from_utf8(body).unwrap() };
        tell.send(asked).unwrap();
        let body = if is_next {
            // The test ends the emulation.
            let Ok(event) = events.recv() else { return };
            format!("{{\"eventType\":\"{event}\",\"deadlineMs\":1}}")
        } else {
            "{\"functionName\":\"f\"}".to_owned()
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nLambda-Extension-Identifier: id-1\r\nContent-Length: {}\r\n\r\n", body.len());
        writer.write_all((head + &body).as_bytes()).unwrap();
    }
}

#[test]
fn an_extension_lives_through_freezes() {
    let server = Served::start(&[]);
    let wire = Wire::to(server.port());
    let lambda = Lambda::start();
    let environment =
        [("AWS_LAMBDA_RUNTIME_API", &*lambda.address), ("DORMOUSE_PROGRAM", env!("CARGO_BIN_EXE_dormouse"))];
    let layer = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/lambda/dormouse");
    let mut sidecar = Sidecar::start_as(Command::new(layer), &url(wire.port), &[], &environment);
    let register = lambda.next();
    assert_eq!(register.line, "POST /2020-01-01/extension/register HTTP/1.1");
    assert!(register.headers.contains("lambda-extension-name: dormouse\n"), "{}", register.headers);
    assert_eq!(register.body, "{\"events\":[\"INVOKE\",\"SHUTDOWN\"]}");
    let next = lambda.next();
    assert_eq!(next.line, "GET /2020-01-01/extension/event/next HTTP/1.1");
    assert!(next.headers.contains("lambda-extension-identifier: id-1\n"), "{}", next.headers);

    let mut client = sidecar.connect();
    client.say("HELLO 3");
    client.say("SET a 1");
    lambda.events.send("INVOKE").unwrap();
    lambda.next();
    client.say("GET a");
    // Frozen, the function and the sidecar hear nothing of the end of their connections.
    sidecar.signal(Signal::STOP);
    wire.cut();
    server.connect().say("SET a 2");
    client.send(&["GET", "a"]);
    client.send(&["INCR", "a"]);
    lambda.events.send("INVOKE").unwrap();
    freeze();
    sidecar.signal(Signal::CONT);
    assert_eq!(client.read().unwrap().text(), "2");
    let reply = client.read().unwrap();
    assert_eq!(reply.to_string(), ":3");
    lambda.next();
    lambda.events.send("SHUTDOWN").unwrap();
    assert_eq!(sidecar.ended(), Some(0));
    assert!(client.read().is_none());
    until("nothing else", || lambda.asked.try_recv().is_err().then_some(()));
}
