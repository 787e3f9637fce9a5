//! TLS: what it adds to a command, and a thousand functions that connect at once.
//!
//! 1. GETs over eight connections, from one thread, plain and over TLS, one at a time and in pipelines: CPU time of the
//!    server for each.
//! 2. A thousand connections over TLS say PING and stay: resident memory of the server for each.
//! 3. Twenty connections over TLS say PING, one each millisecond. Meanwhile a thousand others connect at once, each with a
//!    handshake of its own (ECDSA P-256, no resumption), and send AUTH, GET, SET and QUIT, each after the reply to the one
//!    before. Three times, with the PINGs before the first of them for comparison.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use dormouse_client_tests::certificates::Certificates;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::process::{cpu_seconds, settled_resident_bytes};
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program};
use crate::statistics::{median, percentile};
use crate::{Bench, Result};

const CONNECTIONS: usize = 8;
const IDLE: usize = 1_000;
const ESTABLISHED: usize = 20;
const FUNCTIONS: usize = 1_000;
const STORMS: usize = 3;
const PACE: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(60);
const PIPELINES: [usize; 2] = [1, 16];
const VALUE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Cost {
    /// Microseconds of CPU time for each GET, by pipeline.
    plain: Vec<f64>,
    over_tls: Vec<f64>,
    /// Bytes of an idle connection.
    idle: f64,
    /// Of a storm: seconds of CPU time, and until the last function has ended.
    storm_cpu: f64,
    storm_took: f64,
    /// Milliseconds of a PING, without a storm and during one.
    calm_p99: f64,
    storm_p99: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let costs = bench.of_each(|program| cost(bench, program))?;
    let of = |field: &dyn Fn(&Cost) -> f64| costs.iter().map(|cost| cost.as_ref().map(field)).collect();
    let mut commands = Table::new("CPU time of a GET of 64 B, eight connections", &bench.programs);
    for (at, pipeline) in PIPELINES.into_iter().enumerate() {
        commands.row(format!("plain, pipeline {pipeline}"), Unit::Microseconds, of(&|cost| cost.plain[at]), None);
        let label = format!("over TLS, pipeline {pipeline}");
        commands.row(label, Unit::Microseconds, of(&|cost| cost.over_tls[at]), Some(Target::OfRedis(1.0)));
    }
    let mut memory = Table::new("Resident memory of an idle connection over TLS", &bench.programs);
    memory.row("after one PING", Unit::Bytes, of(&|cost| cost.idle), Some(Target::OfRedis(1.0)));
    let functions = bench.amount(FUNCTIONS, 20);
    let title = format!("{functions} functions connect at once over TLS: AUTH, GET, SET, QUIT");
    let mut storm = Table::new(&title, &bench.programs);
    let second = Some(Target::Most(1_000.0));
    storm.row("CPU time of the server", Unit::Milliseconds, of(&|cost| cost.storm_cpu * 1e3), second);
    storm.row("until the last has ended", Unit::Milliseconds, of(&|cost| cost.storm_took * 1e3), None);
    storm.row("PING of an established connection, p99, calm", Unit::Milliseconds, of(&|cost| cost.calm_p99), None);
    storm.row("the same during the storm", Unit::Milliseconds, of(&|cost| cost.storm_p99), None);
    let added = of(&|cost| (cost.storm_p99 - cost.calm_p99).max(0.0));
    storm.row("what the storm adds", Unit::Milliseconds, added, Some(Target::Most(5.0)));
    Ok(vec![commands, memory, storm])
}

fn cost(bench: &Bench, program: &Program) -> Result<Cost> {
    let certificates = Certificates::default();
    let (server, tls) = program.start_over_tls(&certificates)?;
    server.client()?.call(&["SET", "key", VALUE])?;
    let config = trusting(&certificates)?;
    let rounds = bench.amount(40_000, 40);
    let connect = || over_tls(tls, &config);
    let mut cost = Cost {
        plain: Vec::new(),
        over_tls: Vec::new(),
        idle: 0.0,
        storm_cpu: 0.0,
        storm_took: 0.0,
        calm_p99: 0.0,
        storm_p99: 0.0,
    };
    for pipeline in PIPELINES {
        let rounds = rounds / pipeline;
        let mut plain = (0..CONNECTIONS).map(|_| plain(server.address)).collect::<Result<Vec<_>>>()?;
        cost.plain.push(gets(server.pid(), &mut plain, pipeline, rounds)?);
        let mut secret = (0..CONNECTIONS).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        cost.over_tls.push(gets(server.pid(), &mut secret, pipeline, rounds)?);
    }
    let before = settled_resident_bytes(server.pid())?;
    let mut idle = (0..bench.amount(IDLE, 20)).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    idle.iter_mut().try_for_each(|stream| say(stream, "PING", "+PONG"))?;
    let after = settled_resident_bytes(server.pid())?;
    cost.idle = after.saturating_sub(before) as f64 / idle.len() as f64;
    drop(idle);
    let mut established = (0..ESTABLISHED).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let calm = bench.amount(Duration::from_secs(3), Duration::from_millis(50));
    let began = Instant::now();
    let samples = pings(&mut established, || began.elapsed() > calm)?;
    cost.calm_p99 = percentile(&samples, 99.0).unwrap_or_default();
    let (mut cpu, mut took, mut during) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STORMS {
        let before = cpu_seconds(server.pid())?;
        let is_over = AtomicBool::new(false);
        let (storm, samples) = thread::scope(|scope| {
            let storm = scope.spawn(|| {
                let storm = storm(tls, &config, bench.amount(FUNCTIONS, 20));
                is_over.store(true, Ordering::Release);
                storm
            });
            let samples = pings(&mut established, || is_over.load(Ordering::Acquire));
            (storm.join().map_err(|_| "a function panicked"), samples)
        });
        took.push(storm??.as_secs_f64());
        cpu.push(cpu_seconds(server.pid())? - before);
        during.extend(samples?);
    }
    cost.storm_cpu = median(&cpu).unwrap_or_default();
    cost.storm_took = median(&took).unwrap_or_default();
    cost.storm_p99 = percentile(&during, 99.0).unwrap_or_default();
    if program.kind == Kind::Dormouse {
        let failed = server.client()?.info("tls", "tls_handshakes_failed")?;
        if failed != Some(0) {
            return Err(format!("{failed:?} handshakes have failed").into());
        }
    }
    Ok(cost)
}

/// A configuration that trusts the authority and resumes no session.
fn trusting(certificates: &Certificates) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.path("ca.crt"))?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn plain(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

fn over_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<TlsStream> {
    let mut session = ClientConnection::new(Arc::clone(config), "localhost".try_into()?)?;
    let mut socket = plain(address)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// Microseconds of CPU time of the server for each GET.
fn gets(pid: u32, connections: &mut [impl Read + Write], pipeline: usize, rounds: usize) -> Result<f64> {
    let requests = "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n".repeat(pipeline);
    let reply = format!("$64\r\n{VALUE}\r\n").repeat(pipeline);
    let mut read = vec![0; reply.len()];
    let before = cpu_seconds(pid)?;
    for _ in 0..rounds {
        for connection in &mut *connections {
            connection.write_all(requests.as_bytes())?;
        }
        for connection in &mut *connections {
            connection.read_exact(&mut read)?;
            if read != reply.as_bytes() {
                return Err("a GET has another reply".into());
            }
        }
    }
    Ok((cpu_seconds(pid)? - before) * 1e6 / (rounds * pipeline * connections.len()) as f64)
}

/// Milliseconds of each PING, on the connections in turn, until `is_over`.
fn pings(connections: &mut [TlsStream], is_over: impl Fn() -> bool) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    while !is_over() {
        let at = samples.len() % connections.len();
        let began = Instant::now();
        say(&mut connections[at], "PING", "+PONG")?;
        samples.push(began.elapsed().as_secs_f64() * 1e3);
        thread::sleep(PACE.saturating_sub(began.elapsed()));
    }
    Ok(samples)
}

fn say(stream: &mut TlsStream, line: &str, expected: &str) -> Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes())?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n")
        || reply.starts_with(b"$") && reply.iter().filter(|byte| **byte == b'\n').count() < 2
    {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        reply.push(byte[0]);
    }
    if reply.starts_with(expected.as_bytes()) {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&reply)).into())
}

/// Lets functions connect at once. Returns the time until the last has ended.
fn storm(address: SocketAddr, config: &Arc<ClientConfig>, functions: usize) -> Result<Duration> {
    let start = Barrier::new(functions + 1);
    thread::scope(|scope| {
        let function = || {
            // The thread that measures comes first on this core.
            let _ = rustix::process::nice(19);
            start.wait();
            let mut stream = over_tls(address, config)?;
            say(&mut stream, "AUTH default x", "+OK")?;
            say(&mut stream, "GET key", "$64")?;
            say(&mut stream, "SET other value", "+OK")?;
            say(&mut stream, "QUIT", "+OK")
        };
        let stack = |_| thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, function);
        let threads = (0..functions).map(stack).collect::<std::io::Result<Vec<_>>>()?;
        let began = Instant::now();
        start.wait();
        for thread in threads {
            thread.join().map_err(|_| "a function panicked")??;
        }
        Ok(began.elapsed())
    })
}
