//! The limit of holding a reply: see `--reply-timeout`.

use std::time::Duration;

use dormouse_client_tests::{Kind, Server, honest::HonestBucket, resp::Connection, wait_for};

const LIMIT: Duration = Duration::from_secs(120);
const ELEMENTS_EACH: usize = 10_000;

/// A write that has run for longer than the bound has not waited: the flush that follows has all of the bound.
#[test]
fn a_flush_has_its_own_time_after_a_long_write() {
    if Kind::under_test() != Kind::Dormouse {
        return;
    }
    let bucket = HonestBucket::start(Duration::ZERO).expect("a free port");
    let mut remote = bucket.store("");
    remote.environment.push(("DORMOUSE_REPLY_TIMEOUT", "300ms".to_owned()));
    let server = Server::start_on(&remote);
    let mut connection = Connection::open(server.port());
    for command in ["CONFIG SET loss-window 0", "CONFIG SET slowlog-log-slower-than 400000"] {
        assert_eq!(format!("{:?}", connection.run(command)), "+OK", "{command}");
    }
    let mut number: u32 = 1;
    // The list grows until sorting it takes longer than the bound.
    let is_long = wait_for(LIMIT, || {
        for _ in 0..20 {
            let mut words = vec!["RPUSH".to_owned(), "list".to_owned()];
            words.extend((0..ELEMENTS_EACH).map(|_| {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                number.to_string()
            }));
            connection.call(&words);
        }
        let reply = connection.run("SORT list LIMIT 0 1 STORE least");
        assert_eq!(format!("{reply:?}"), ":1");
        format!("{:?}", connection.run("SLOWLOG GET 1")).contains("SORT").then_some(())
    });
    assert!(is_long.is_some(), "sorting never took long");
}
