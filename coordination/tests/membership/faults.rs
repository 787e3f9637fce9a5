//! Processes, networks and coordinators that fail.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use dormouse_client_tests::ports::free_port;
use dormouse_client_tests::proxy::Proxy;
use dormouse_coordination::Standing;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server::{self, Server};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_coordinator_the_error_names_its_address() {
    let url = server::url(free_port());
    let error = try_join(&url.replace("etcd://", "etcd://me:secret@"), member("a", 1), LONG).await.err().unwrap();
    assert!(matches!(&error, CoordinationError::Unreachable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&url.replace("etcd://", "etcd://me@")) && text.contains("refused"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

/// Each member dies at another moment after its last keepalive.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_member_is_not_given_away_before_the_end_of_its_lease() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let witness = join(&url, member("witness", 100), LONG).await;
    let deaths: Vec<_> = (0..12_u64)
        .map(|number| {
            let (url, witness) = (url.clone(), witness.clone());
            tokio::spawn(async move {
                let name = format!("n{number}");
                let membership = join(&url, member(&name, number), Duration::from_secs(2 + number % 3)).await;
                let end = membership.lease_end_ms();
                let first = end.load(Ordering::Acquire);
                eventually("a keepalive", || end.load(Ordering::Acquire) > first).await;
                tokio::time::sleep(Duration::from_millis(number * 57)).await;
                until(&witness, "all are alive", |members| members.named(&name).is_some()).await;
                let dropped = clock();
                drop(membership);
                until(&witness, "a dead member disappears", |members| members.named(&name).is_none()).await;
                let (gone, end) = (clock(), end.load(Ordering::Acquire));
                assert!(end <= gone, "{name}: given away at {gone}, served until {end}");
                assert!(end > dropped.saturating_sub(2_000) && gone > dropped, "{name}: {end} {dropped} {gone}");
            })
        })
        .collect();
    for death in deaths {
        death.await.unwrap();
    }
    assert_eq!(witness.members().len(), 1);
}

/// A wire on which answers arrive late.
async fn late_wire(server: u16, delay: Duration) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let ((mut client_in, mut client_out), (mut server_in, mut server_out)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { _ = tokio::io::copy(&mut client_in, &mut server_out).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(read @ 1..) = server_in.read(&mut buffer).await {
                    tokio::time::sleep(delay).await;
                    if client_out.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_is_counted_from_the_request() {
    let Some(server) = Server::start() else { return };
    let delay = Duration::from_millis(300);
    let port = late_wire(server.port(), delay).await;
    let membership = join(&server::url(port), member("a", 1), Duration::from_secs(8)).await;
    let end = membership.lease_end_ms();
    for _ in 0..2 {
        let last = end.load(Ordering::Acquire);
        eventually("a keepalive", || end.load(Ordering::Acquire) > last).await;
        // 8 s less a quarter, from before the request was sent.
        let sent_ms = end.load(Ordering::Acquire) - 6_000;
        assert!(sent_ms + 300 <= clock(), "{sent_ms}, {}", clock());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_coordinator_lets_the_lease_end() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (join(&server.url(), member("a", 1), SHORT).await, join(&server.url(), member("b", 2), SHORT).await);
    until(&a, "both", |members| members.len() == 2).await;
    server.stop();
    eventually("both give up", || !may_serve(&a) && !may_serve(&b)).await;
    assert_eq!(a.members().len(), 2, "the last snapshot is kept");
    b.set_draining(true);
    assert!(matches!(a.announce("x", 7).await, Err(CoordinationError::Unreachable { .. })));
    server.go_on();
    for (membership, other) in [(&a, &b), (&b, &a)] {
        eventually("serves again", || may_serve(membership)).await;
        a.announce("x", 8).await.unwrap();
        in_time("a topic", other.heard("x").wait_for(|number| *number == 8)).await.unwrap();
        until(membership, "both again", |members| {
            members.len() == 2 && members.named("b").is_some_and(|member| member.is_draining)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_restarts_costs_nothing() {
    let Some(mut server) = Server::start() else { return };
    let (a, b) = (
        join(&server.url(), member("a", 1), Duration::from_secs(30)).await,
        join(&server.url(), member("b", 2), LONG).await,
    );
    let secret = a.secret();
    for round in 0..2 {
        server.kill();
        assert!(may_serve(&a) && may_serve(&b));
        server.restart();
        let late = join(&server.url(), member("c", 10 + round), LONG).await;
        for membership in [&a, &b] {
            until(membership, "a newcomer after the restart", |members| members.of_writer(10 + round).is_some()).await;
            assert_eq!((membership.members().len(), &*membership.standing().borrow()), (3, &Standing::default()));
        }
        assert_eq!(late.secret(), secret);
        late.leave().await.unwrap();
        until(&a, "it has left", |members| members.len() == 2).await;
    }
}

/// One member of etcd after the other fails, the leader among them.
#[tokio::test(flavor = "multi_thread")]
async fn any_member_of_the_coordinator_may_fail() {
    let Some(mut servers) = Server::cluster(3) else { return };
    let hosts: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let url = format!("etcd://{}/dormouse", hosts.join(","));
    let lease = Duration::from_secs(6);
    let (a, b) = (join(&url, member("a", 1), lease).await, join(&url, member("b", 2), lease).await);
    until(&a, "both", |members| members.len() == 2).await;
    for (index, server) in servers.iter_mut().enumerate() {
        server.kill();
        let is_draining = index.is_multiple_of(2);
        b.set_draining(is_draining);
        until(&a, "a change", |members| members.named("b").is_some_and(|b| b.is_draining == is_draining)).await;
        for membership in [&a, &b] {
            let end = membership.lease_end_ms();
            let last = end.load(Ordering::Acquire);
            eventually("a keepalive", || end.load(Ordering::Acquire) > last).await;
        }
        server.restart();
    }
    assert_eq!((*a.standing().borrow(), *b.standing().borrow()), (Standing::default(), Standing::default()));
    // Without a majority no process may serve for long.
    servers[0].kill();
    servers[1].kill();
    eventually("both give up", || !may_serve(&a) && !may_serve(&b)).await;
    servers[0].restart_alone();
    servers[1].restart_alone();
    eventually("both go on", || may_serve(&a) && may_serve(&b)).await;
    a.set_draining(true);
    until(&b, "a change", |members| members.named("a").is_some_and(|a| a.is_draining)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_has_lost_its_disks_is_told_everything_again() {
    let Some(mut server) = Server::start() else { return };
    let (a, b) = (join(&server.url(), member("a", 1), SHORT).await, join(&server.url(), member("b", 2), SHORT).await);
    let secret = a.secret();
    a.announce("x", 5).await.unwrap();
    in_time("the topic", b.heard("x").wait_for(|number| *number == 5)).await.unwrap();
    let (lost, standing) = (a.clone(), a.standing());
    let lost = tokio::spawn(async move { lost.until_lost().await });
    server.kill();
    server.restart_empty();
    in_time("the loss", lost).await.unwrap();
    assert!(standing.borrow().leases_lost > 0);
    for membership in [&a, &b] {
        eventually("serves again", || may_serve(membership)).await;
        until(membership, "both again", |members| members.len() == 2).await;
    }
    assert_eq!((a.secret(), b.secret()), (secret.clone(), secret));
    assert_eq!(server.value("secret").await.unwrap().0, *a.secret());
    assert_eq!(*b.heard("x").borrow(), 5);
    a.announce("x", 6).await.unwrap();
    in_time("the topic", b.heard("x").wait_for(|number| *number == 6)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_while_a_watch_was_cut_is_read_again() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::start(server.port());
    let leaver = join(&server.url(), member("leaver", 7), LONG).await;
    let a = join(&server::url(proxy.port()), member("a", 1), LONG).await;
    assert_eq!(a.members().len(), 2);
    proxy.hold_back();
    let b = join(&server.url(), member("b", 2), LONG).await;
    leaver.leave().await.unwrap();
    b.announce("x", 9).await.unwrap();
    let revision = server.revision().await;
    server.ask("kv/compaction", json!({ "revision": revision.to_string() })).await;
    let stale = server.ask("kv/range", json!({ "key": "eA==" })).await;
    assert_eq!(stale["header"]["revision"], json!(revision.to_string()));
    assert_eq!((a.members().len(), *a.heard("x").borrow()), (2, 0));
    proxy.let_through();
    until(&a, "the members of now", |members| {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        names == ["a", "b"]
    })
    .await;
    in_time("the topic", a.heard("x").wait_for(|number| *number == 9)).await.unwrap();
    b.set_draining(true);
    until(&a, "the watch", |members| members.named("b").is_some_and(|member| member.is_draining)).await;
}

/// A process that was cut off for longer than its lease finds another under its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_cut_off_finds_itself_replaced() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::start(server.port());
    let older = join(&server::url(proxy.port()), member("a", 1), SHORT).await;
    let witness = join(&server.url(), member("w", 9), LONG).await;
    proxy.hold_back();
    until(&witness, "the end of the lease", |members| members.named("a").is_none()).await;
    assert!(!may_serve(&older));
    let newer = join(&server.url(), member("a", 2), SHORT).await;
    proxy.let_through();
    assert_eq!(in_time("the older notices", older.until_replaced()).await, 2);
    assert_eq!(older.lease_end_ms().load(Ordering::Acquire), 0);
    until(&witness, "the newer", |members| members.of_writer(2).is_some()).await;
    let end = newer.lease_end_ms();
    let last = end.load(Ordering::Acquire);
    eventually("its keepalive", || end.load(Ordering::Acquire) > last).await;
    assert!(witness.members().of_writer(2).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_or_key_that_an_operator_takes_away_comes_back() {
    let Some(server) = Server::start() else { return };
    let a = join(&server.url(), member("a", 1), LONG).await;
    let witness = join(&server.url(), member("w", 9), LONG).await;
    let mut seen = witness.subscribe();
    let waiting = a.clone();
    let lost = tokio::spawn(async move { waiting.until_lost().await });
    let (_, lease) = server.value("nodes/a").await.unwrap();
    tokio::task::yield_now().await;
    server.ask("lease/revoke", json!({ "ID": lease })).await;
    in_time(
        "the loss",
        seen.wait_for(|members| members.named("a").is_none() || a.standing().borrow().leases_lost == 1),
    )
    .await
    .unwrap();
    eventually("a loss", || a.standing().borrow().leases_lost == 1).await;
    lost.abort();
    eventually("serves again", || may_serve(&a)).await;
    until(&witness, "another lease", |members| members.named("a").is_some()).await;
    let (_, another) = server.value("nodes/a").await.unwrap();
    assert_ne!(lease, another);
    // The lease has not changed, so this is not a loss.
    server.delete("nodes/a").await;
    let mut back = None;
    while back.is_none() {
        back = server.value("nodes/a").await;
    }
    assert_eq!(back.unwrap().1, another);
    // A value without a meaning is replaced.
    server.put("nodes/a", "what").await;
    while server.value("nodes/a").await.unwrap().0 == "what" {}
    until(&witness, "the right value", |members| members.named("a").is_some()).await;
    assert_eq!(a.standing().borrow().leases_lost, 1);
    assert!(may_serve(&a));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_cost_only_time() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::losing(server.port(), 3, 1);
    let witness = join(&server.url(), member("w", 9), LONG).await;
    let a = loop {
        if let Ok(a) = try_join(&server::url(proxy.port()), member("a", 1), SHORT).await {
            break a;
        }
    };
    let mut is_draining = false;
    while proxy.lost() < 10 {
        is_draining = !is_draining;
        a.set_draining(is_draining);
        for membership in [&witness, &a] {
            until(membership, "a change", |members| {
                members.named("a").is_some_and(|member| member.is_draining == is_draining)
            })
            .await;
        }
    }
    eventually("serves", || may_serve(&a)).await;
    assert_eq!(a.standing().borrow().replaced_by, None);
}

const CHILD: &str = "DORMOUSE_COORDINATION_CHILD";

/// The process of the next test: it tells when it looked at its clock, and how long it may serve.
#[test]
fn child() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let membership = join(&url, member("child", 1), SHORT).await;
        loop {
            let (end, now) = (membership.lease_end_ms().load(Ordering::Acquire), clock());
            println!("child {now} {end} {}", membership.standing().borrow().leases_lost);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_and_goes_on_may_not_serve() {
    let Some(server) = Server::start() else { return };
    let witness = join(&server.url(), member("w", 9), LONG).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "faults::child", "--nocapture"]).env(CHILD, server.url());
    let mut process = Process(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let output = BufReader::new(process.0.stdout.take().unwrap());
    let (lines, mut seen) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let mut words = line.split_once("child ").unwrap_or_default().1.split(' ').map(str::parse::<u64>);
            if let (Some(Ok(now)), Some(Ok(end)), Some(Ok(lost))) = (words.next(), words.next(), words.next())
                && lines.send((now, end, lost)).is_err()
            {
                return;
            }
        }
    });
    until(&witness, "the child", |members| members.named("child").is_some()).await;
    let (now, end, _) = in_time("a line", seen.recv()).await.unwrap();
    assert!(end > now);
    let pid = Pid::from_child(&process.0);
    kill_process(pid, Signal::STOP).unwrap();
    until(&witness, "the end of the lease", |members| members.named("child").is_none()).await;
    let gone = clock();
    kill_process(pid, Signal::CONT).unwrap();
    let mut refused = 0;
    loop {
        let (now, end, lost) = in_time("a line", seen.recv()).await.unwrap();
        if lost > 0 && end > now {
            break;
        }
        if now >= gone {
            assert!(end <= now, "at {now} it may serve until {end}, but was given away at {gone}");
            refused += 1;
        }
    }
    assert!(refused > 0, "it never said that it may not serve");
    until(&witness, "it is back", |members| members.named("child").is_some()).await;
    // Killed, it stays as long as its lease.
    drop(process);
    until(&witness, "it is dead", |members| members.named("child").is_none()).await;
}
