//! Real clients against a real server.
//!
//! Every test here starts a server of its own on a free port, with its data in a temporary folder, and talks to it over
//! TCP as a user would: it knows nothing of the server's inside but its command line.
//!
//! 1. [`Server`] starts the program, waits until it answers `PING`, restarts it on the same port and data, and kills it
//!    when dropped, so that a failed assertion leaves no process behind.
//! 2. [`Suite`] runs a client suite, a program in the client's own language, as a child process (see below).
//! 3. [`resp`] is a bare connection, to send requests that no client library would, and to compare replies byte for
//!    byte.
//! 4. [`unrest`] splits, merges and puts to sleep the database that a test is working on.
//! 5. [`bucket`] is a real S3 server, and a bad network in front of it; [`emulator`] has other servers for a store.
//!    [`honest`] is a bucket in this process's memory, with a configured delay.
//! 6. [`script`] and [`compare`] make a long random script and say which differences between two servers are
//!    legitimate. [`load`] writes such a script until it is ended, [`importer`] is the program that follows a server,
//!    [`proxy`] cuts links, and [`sameness`] compares all data of two servers.
//! 7. [`crash`] kills a server at random moments and checks that it has kept what it promised to keep.
//! 8. [`siege`] lets tenants misbehave in every way beside quiet ones.
//! 9. [`certificates`] are for servers over TLS.
//! 10. [`upstream`] runs the test suite of Redis or Valkey.
//!
//! # Protocol of a suite
//!
//! The runner gives a suite its server in the environment: `DORMOUSE_TEST_PORT` on 127.0.0.1, and
//! `DORMOUSE_TEST_SERVER`, which is `dormouse` or `redis`. With `DORMOUSE_TEST_TLS_CA` the port speaks TLS, with a certificate
//! of the authority in that file. With `redis`, the suite leaves out the commands that only
//! Dormouse has (`DORMOUSE SLEEP`).
//!
//! A suite that wants the server restarted writes the line `RESTART` to its standard output and waits for a line on its
//! standard input: `RESTARTED` says that the server answers again, on the same port and with the same data. Every other
//! line is passed on to the test's output. The last one is `N passed, M failed`; the exit code is 0 when M is 0.
//!
//! `tests/applications.rs` has suites of another kind: programs on top of such libraries, such as BullMQ and Celery.
//! [`applications`] installs them.
//!
//! # Settings
//!
//! | variable | meaning |
//! | --- | --- |
//! | `DORMOUSE_BIN` | the server to test; without it, cargo builds the one of this workspace |
//! | `DORMOUSE_S3_SERVER` | the S3 server of the tests of stores; without it, the one in `target/tools` |
//! | `DORMOUSE_VALKEY_SERVER`, `DORMOUSE_REDIS8_SERVER` | Valkey 9.1.2 and Redis 8.10.2; without them, those in `target/tools` |
//! | `DORMOUSE_TEST_SERVER=redis` | test Debian's redis-server instead, which shows whether the tests themselves are right |
//! | `DORMOUSE_COMPARE_SEEDS`, `DORMOUSE_COMPARE_COMMANDS` | seeds (`7` or `1-50`) and the length of the comparison's scripts |
//! | `DORMOUSE_CRASH_ROUNDS`, `DORMOUSE_CRASH_SEED` | how many rounds of the crash tests, and their seed |
//! | `DORMOUSE_FLEET_ROUNDS`, `DORMOUSE_FLEET_SEED` | how many rounds of random failures a fleet meets, and their seed |
//! | `DORMOUSE_LONG` | set: also run the tests that take minutes, or whose tools take minutes to build or download |
//! | `DORMOUSE_QUIET_SECONDS` | how long a database must stay asleep beneath idle applications: 6, with `DORMOUSE_LONG` an hour |
//! | `CI=true` | a missing toolchain fails the test instead of skipping it |

#![forbid(unsafe_code)]

pub mod applications;
pub mod bucket;
pub mod certificates;
pub mod compare;
pub mod crash;
pub mod emulator;
pub mod held;
pub mod honest;
pub mod importer;
pub mod load;
pub mod ports;
pub mod proxy;
pub mod resp;
pub mod sameness;
pub mod script;
pub mod server;
pub mod siege;
mod suite;
pub mod toolchain;
pub mod unrest;
pub mod upstream;

pub use server::{Kind, Server, Settings};
pub use suite::Suite;

use std::time::{Duration, Instant};

/// Polls `condition` until it has an answer, at most for `limit`.
pub fn wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = condition() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
