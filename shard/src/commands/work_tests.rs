//! The memory that a command needs while it runs has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dormouse_protocol::{Budget, OwnedRequest, Reply, Version};

use super::testing::Bench;
use super::{call, find};
use crate::keyspace::Keyspace;

const LIMIT: usize = 256 << 10;

/// Grants any reply, and work up to a limit.
#[derive(Debug, Default)]
struct Purse {
    work: AtomicUsize,
}

impl Budget for Purse {
    fn take(&self, _: usize) -> Result<(), &'static str> {
        Ok(())
    }

    fn take_if_free(&self, bytes: usize) -> Result<(), &'static str> {
        self.take(bytes)
    }

    fn give(&self, _: usize) {}

    fn take_work(&self, bytes: usize) -> Result<(), &'static str> {
        if self.work.load(Ordering::Relaxed) + bytes > LIMIT {
            return Err("the-limit");
        }
        self.work.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn give_work(&self, bytes: usize) {
        self.work.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[test]
fn a_command_that_needs_too_much_while_it_runs_is_refused() {
    let mut bench = Bench::new();
    for n in 0..8 {
        let each =
            |write: &dyn Fn(usize) -> String| (0..1000).map(|m| write(n * 1000 + m)).collect::<Vec<_>>().join(" ");
        bench.run(&format!("RPUSH list {}", each(&|m| m.to_string())));
        bench.run(&format!("SADD set{} {}", n % 4, each(&|m| format!("member:{m}"))));
        bench.run(&format!("ZADD sorted{} {}", n % 4, each(&|m| format!("{m} member:{m}"))));
        bench.run(&format!("GEOADD places {}", each(&|m| format!("13.{m:05} 38 place:{m}"))));
        bench.run(&format!("MSET {}", each(&|m| format!("weight:{m} {}", "x".repeat(300)))));
    }
    for (key, char) in [("a", "x"), ("b", "y")] {
        bench.run(&format!("SET {key} {}", char.repeat(20_000)));
    }
    bench.run("SETRANGE large 1000000 x");
    let purse = Arc::new(Purse::default());
    let mut run = |line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let request = OwnedRequest::from_args(&args);
        let (row, run) = find(request.as_request()).expect("a command");
        let mut db = Keyspace::new([&mut bench.contents], &bench.shared, 0, bench.now_ms, 1);
        let mut reply = Reply::within(Version::Resp2, Some(purse.clone()));
        call(row, run, &mut db, &mut reply, request.as_request()).expect("everything is resident");
        assert_eq!(purse.work.load(Ordering::Relaxed), 0, "{line}: what was granted was not given back");
        String::from_utf8_lossy(&reply.buffer).into_owned()
    };
    for line in [
        "SORT list",
        "SORT list LIMIT 0 1",
        "SORT_RO list ALPHA",
        "SORT list BY nosort LIMIT 0 2000 GET weight:*",
        "SORT list BY weight:* ALPHA",
        "SORT list STORE d",
        "SUNION set0 set1 set2 set3",
        "SUNIONSTORE d set0 set1 set2 set3",
        "ZUNION 4 sorted0 sorted1 sorted2 sorted3",
        "ZUNIONSTORE d 4 sorted0 sorted1 sorted2 sorted3",
        "GEOSEARCH places FROMLONLAT 13 38 BYRADIUS 200 km",
        "GEOSEARCHSTORE d places FROMLONLAT 13 38 BYRADIUS 200 km",
        "GEORADIUS places 13 38 200 km STORE d",
        "LCS a b",
    ] {
        let reply = run(line);
        let text = "-OOM the command needs too much memory while it runs: it would exceed 'the-limit'\r\n";
        assert_eq!(&reply[..reply.len().min(text.len())], text, "{line}");
    }
    assert_eq!(run("EXISTS d"), ":0\r\n");
    for line in ["SUNION set0 set1", "ZRANGE sorted0 0 -1", "SMEMBERS set0", "DUMP large", "LCS weight:1 weight:2 LEN"]
    {
        assert!(!run(line).starts_with('-'), "{line}");
    }
}
