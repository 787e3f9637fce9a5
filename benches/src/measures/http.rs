//! Server CPU of commands over HTTP beside the same over RESP.
//!
//! 50 connections that are kept open, in a closed loop, on one core. A GET is a request of its own; a pipeline is one
//! request with 100 of them. The rounds of each way take turns.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fastrand::Rng;

use crate::client::command;
use crate::load::{Commands, Load, key, value};
use crate::process::cpu_seconds;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Server, Setup};
use crate::statistics::median;
use crate::{Bench, Result};

const CONNECTIONS: usize = 50;
const KEYS: u64 = 100_000;
const VALUE_LENGTH: usize = 64;
const PIPELINE: usize = 100;
/// The headers of a plain client, and those that the library of Upstash adds in Node.
const HEADERS: &str = "host: 127.0.0.1:8379\r\nauthorization: Bearer dm_default_0123456789abcdef\r\n";
const MORE_HEADERS: &str = "connection: keep-alive\r\nupstash-telemetry-runtime: node@v20.20.2\r\n\
                            upstash-telemetry-platform: unknown\r\nupstash-telemetry-sdk: @upstash/redis@v1.39.0\r\n\
                            upstash-sync-token: \r\ncontent-type: application/json\r\nupstash-encoding: base64\r\naccept: */*\r\n\
                            accept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip, deflate\r\n";
/// Most CPU of a GET over HTTP and of a pipeline, as multiples of those over RESP.
const GET_TIMES_MOST: f64 = 2.5;
const PIPELINE_TIMES_MOST: f64 = 1.3;

/// A way to ask.
struct Way {
    label: &'static str,
    address: SocketAddr,
    commands: Commands,
    /// Commands of one batch that are sent one by one.
    pipeline: usize,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let mut table = Table::new("Server CPU over HTTP", &bench.programs);
    let costs = bench.of_each(|program| match program.kind {
        Kind::Dormouse => costs(bench, &program.start_as(Setup::DEFAULT)?),
        _ => Ok(Vec::new()),
    })?;
    let labels: Vec<&str> = costs.iter().flatten().flatten().map(|(label, _)| *label).collect();
    for (at, label) in labels.iter().enumerate() {
        let values = costs.iter().map(|costs| costs.as_ref().and_then(|costs| Some(costs.get(at)?.1))).collect();
        table.row(*label, Unit::Microseconds, values, None);
    }
    for (label, from, to, most) in [
        ("a GET over HTTP, times that over RESP", 0, 1, Some(GET_TIMES_MOST)),
        ("the same from the library", 0, 2, None),
        ("100 GETs over HTTP, times those over RESP", 3, 4, Some(PIPELINE_TIMES_MOST)),
        ("the same from the library", 3, 5, None),
    ] {
        let times = |costs: &Vec<(&str, f64)>| Some(costs.get(to)?.1 / costs.get(from)?.1);
        let values = costs.iter().map(|costs| costs.as_ref().and_then(times)).collect();
        table.row(label, Unit::Times, values, most.map(Target::Most));
    }
    Ok(vec![table])
}

/// The CPU time of each way, in microseconds for one GET or one pipeline.
fn costs(bench: &Bench, server: &Server) -> Result<Vec<(&'static str, f64)>> {
    let mut text = [0; VALUE_LENGTH];
    server.client()?.fill(KEYS, |index, request| {
        value(index, &mut text);
        command(request, &[b"SET", key(index).as_bytes(), &text]);
    })?;
    let http = server.http.ok_or("the server has no HTTP port")?;
    let over_http = |label, write: fn(u64, &mut Vec<u8>)| -> Result<Way> {
        let mut request = Vec::new();
        write(0, &mut request);
        Ok(Way {
            label,
            address: http,
            commands: Commands::of_samples(KEYS, &answer(http, &request)?, write),
            pipeline: 1,
        })
    };
    let over_resp =
        |label, pipeline| Way { label, address: server.address, commands: Commands::get(KEYS, VALUE_LENGTH), pipeline };
    let ways = [
        over_resp("a GET over RESP", 1),
        over_http("a GET over HTTP", |index, request| get(index, "", request))?,
        over_http("a GET over HTTP, with the library's headers", |index, request| get(index, MORE_HEADERS, request))?,
        over_resp("100 GETs over RESP, in a pipeline", PIPELINE),
        over_http("100 GETs over HTTP, in a request", |index, request| pipeline(index, "", request))?,
        over_http("100 GETs over HTTP, as the library asks", |index, request| pipeline(index, MORE_HEADERS, request))?,
    ];
    let mut samples = ways.each_ref().map(|_| Vec::new());
    for _ in 0..bench.amount(7, 1) {
        for (way, samples) in ways.iter().zip(&mut samples) {
            let kinds = std::slice::from_ref(&way.commands);
            let mut load = Load::connect(way.address, CONNECTIONS, way.pipeline, kinds)?;
            load.run_for(Duration::from_millis(bench.amount(100, 20)))?;
            let before = cpu_seconds(server.pid())?;
            let tally = load.run_for(Duration::from_millis(bench.amount(500, 50)))?;
            let used = cpu_seconds(server.pid())? - before;
            samples.push(used * 1e6 / (tally.commands / way.pipeline as u64) as f64);
        }
    }
    let medians = ways.iter().zip(&samples).filter_map(|(way, samples)| Some((way.label, median(samples)?)));
    Ok(medians.collect())
}

fn get(index: u64, headers: &str, request: &mut Vec<u8>) {
    let head = format!("GET /get/{} HTTP/1.1\r\n{HEADERS}{headers}\r\n", key(index));
    request.extend_from_slice(head.as_bytes());
}

fn pipeline(index: u64, headers: &str, request: &mut Vec<u8>) {
    let mut random = Rng::with_seed(index);
    let commands: Vec<String> = (0..PIPELINE).map(|_| format!("[\"GET\",\"{}\"]", key(random.u64(..KEYS)))).collect();
    let body = format!("[{}]", commands.join(","));
    let head = format!("POST /pipeline HTTP/1.1\r\n{HEADERS}{headers}content-length: {}\r\n\r\n", body.len());
    request.extend_from_slice(head.as_bytes());
    request.extend_from_slice(body.as_bytes());
}

/// The answer to a request. All answers of its kind have its length.
fn answer(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request)?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut part)?;
        if read == 0 {
            return Err("the server closed the connection".into());
        }
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if !head.starts_with("HTTP/1.1 200") || length.is_none() {
            return Err(format!("unexpected answer: {text}").into());
        }
        if length.and_then(|length| length.parse().ok()) == Some(body.len()) {
            return Ok(answer);
        }
    }
}
