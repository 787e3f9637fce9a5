use super::*;

#[test]
fn each_reply_in_both_versions() {
    type Write = fn(&mut Reply);
    let rows: &[(Write, &str, &str)] = &[
        (|r| r.ok(), "+OK\r\n", "+OK\r\n"),
        (|r| r.simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
        (|r| r.error("ERR no\r\nsuch"), "-ERR no  such\r\n", "-ERR no  such\r\n"),
        (|r| r.integer(0), ":0\r\n", ":0\r\n"),
        (|r| r.integer(1), ":1\r\n", ":1\r\n"),
        (|r| r.integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
        (|r| r.bulk(b""), "$0\r\n\r\n", "$0\r\n\r\n"),
        (|r| r.bulk(b"a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
        (|r| r.bulk(b"0123456789"), "$10\r\n0123456789\r\n", "$10\r\n0123456789\r\n"),
        (|r| r.bulk_integer(-12), "$3\r\n-12\r\n", "$3\r\n-12\r\n"),
        (|r| r.double(3.1), "$3\r\n3.1\r\n", ",3.1\r\n"),
        (|r| r.double(1e20), "$5\r\n1e+20\r\n", ",1e+20\r\n"),
        (|r| r.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n"),
        (|r| r.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
        (|r| r.double(f64::NAN), "$3\r\nnan\r\n", ",nan\r\n"),
        (
            |r| r.big_number("-123456789012345678901"),
            "$22\r\n-123456789012345678901\r\n",
            "(-123456789012345678901\r\n",
        ),
        (|r| r.verbatim("txt", b"a\nb"), "$3\r\na\nb\r\n", "=7\r\ntxt:a\nb\r\n"),
        (|r| r.null(), "$-1\r\n", "_\r\n"),
        (|r| r.null_array(), "*-1\r\n", "_\r\n"),
        (|r| r.boolean(true), ":1\r\n", "#t\r\n"),
        (|r| r.boolean(false), ":0\r\n", "#f\r\n"),
        (|r| r.array(0), "*0\r\n", "*0\r\n"),
        (|r| r.array(99), "*99\r\n", "*99\r\n"),
        (|r| r.array(100), "*100\r\n", "*100\r\n"),
        (|r| r.array(266), "*266\r\n", "*266\r\n"),
        (|r| r.map(50), "*100\r\n", "%50\r\n"),
        (|r| r.set(2), "*2\r\n", "~2\r\n"),
        (|r| r.push(3), "*3\r\n", ">3\r\n"),
        (|r| r.raw(b":7\r\n"), ":7\r\n", ":7\r\n"),
    ];
    for (row, &(write, resp2, resp3)) in rows.iter().enumerate() {
        for (version, expected) in [(Version::Resp2, resp2), (Version::Resp3, resp3)] {
            let mut reply = Reply::new(version);
            write(&mut reply);
            assert_eq!(String::from_utf8_lossy(&reply.buffer), expected, "row {row}, {version:?}");
        }
    }
}

#[test]
fn a_reply_can_be_taken_back_and_counted_late() {
    let mut reply = Reply::new(Version::Resp3);
    reply.ok();
    let start = reply.len();
    reply.bulk(b"lost");
    reply.truncate(start);
    for n in 10..22 {
        reply.integer(n);
    }
    reply.array_since(start, 12);
    assert!(reply.buffer.starts_with(b"+OK\r\n*12\r\n:10\r\n:11\r\n"));
    assert!(reply.buffer.ends_with(b":21\r\n"));
    reply.truncate(start);
    reply.bulk(b"a");
    reply.set_since(start, 1);
    assert_eq!(reply.buffer, b"+OK\r\n~1\r\n$1\r\na\r\n");
}

/// A budget of a fixed number of bytes.
#[derive(Debug)]
struct Purse(std::sync::Mutex<usize>);

impl Budget for Purse {
    fn take(&self, bytes: usize) -> Result<(), &'static str> {
        let mut left = self.0.lock().unwrap();
        *left = left.checked_sub(bytes).ok_or("the-limit")?;
        Ok(())
    }

    fn take_if_free(&self, bytes: usize) -> Result<(), &'static str> {
        self.take(bytes)
    }

    fn give(&self, bytes: usize) {
        *self.0.lock().unwrap() += bytes;
    }

    fn take_work(&self, bytes: usize) -> Result<(), &'static str> {
        self.take(bytes)
    }

    fn give_work(&self, bytes: usize) {
        self.give(bytes);
    }
}

#[test]
fn work_is_granted_until_it_ends() {
    let purse = Arc::new(Purse(std::sync::Mutex::new(1 << 20)));
    let left = || *purse.0.lock().unwrap();
    let mut reply = Reply::within(Version::Resp2, Some(purse.clone()));
    assert_eq!(reply.work(1000), Ok(()));
    assert_eq!(left(), 1 << 20, "a little is free");
    let granted = (0..10_000).take_while(|_| reply.work(1000).is_ok()).count();
    assert!((1000..1400).contains(&granted), "{granted}");
    assert!(left() < 256 << 10);
    reply.end_work();
    assert_eq!(left(), 1 << 20);
    assert_eq!(reply.work(2 << 20), Err("the-limit"));
    reply.end_work();
    reply.work(512 << 10).unwrap();
    drop(reply);
    assert_eq!(left(), 1 << 20);
}

#[test]
fn what_does_not_fit_becomes_an_error_in_its_place() {
    const ALL: usize = 3 << 20;
    let purse = Arc::new(Purse(std::sync::Mutex::new(ALL)));
    let mut reply = Reply::within(Version::Resp2, Some(purse.clone()));
    reply.ok();
    for size in [1 << 20, 8 << 20, 1 << 10] {
        let start = reply.len();
        reply.array(2);
        reply.bulk(&vec![b'x'; size]);
        reply.bulk(b"end");
        reply.settle(start);
    }
    let text = &reply.buffer;
    let at = memchr::memmem::find(text, b"-OOM").unwrap();
    assert_eq!(at, 5 + 4 + (1 << 20) + 2 + 10 + 9);
    assert!(text[at..].starts_with(b"-OOM the reply is too large: it would exceed 'the-limit'\r\n*2\r\n$1024\r\nx"));
    assert!(text.ends_with(b"x\r\n$3\r\nend\r\n"));
    assert!(*purse.0.lock().unwrap() <= ALL - (1 << 20));
    // Another buffer takes it over whole, along with its granted bytes.
    let granted = *purse.0.lock().unwrap();
    let mut other = Reply::within(Version::Resp2, Some(purse.clone()));
    other.append(reply);
    assert_eq!(*purse.0.lock().unwrap(), granted);
    drop(other);
    assert_eq!(*purse.0.lock().unwrap(), ALL);
}

#[test]
fn a_reply_that_is_too_large_for_here_is_taken_back() {
    let mut reply = Reply::new(Version::Resp2);
    reply.set_inline_max(Some(1000));
    reply.ok();
    for (can_be_deferred, size, expected) in [(true, 900, false), (true, 5000, true), (false, 5000, false)] {
        reply.truncate(5);
        reply.defer(can_be_deferred);
        reply.array(2);
        reply.bulk(&vec![b'x'; size]);
        reply.integer(7);
        assert_eq!(reply.was_deferred(5), expected, "{size}");
        assert_eq!(reply.len() > 5, !expected);
    }
    assert!(reply.buffer.ends_with(b"\r\n:7\r\n"));
}

#[test]
fn integers_of_every_length_are_whole() {
    let powers = (0..19).map(|exponent| 10i64.pow(exponent));
    let around = powers.flat_map(|power| [power - 1, power, power + 5, 9 * power]);
    for number in around.flat_map(|number| [number, -number]).chain([i64::MAX, i64::MIN]) {
        let mut reply = Reply::new(Version::Resp2);
        reply.integer(number);
        reply.bulk_integer(number);
        let text = number.to_string();
        let expected = format!(":{text}\r\n${}\r\n{text}\r\n", text.len());
        assert_eq!(String::from_utf8_lossy(&reply.buffer), expected);
    }
}

#[test]
fn many_small_replies_are_bounded_too() {
    let purse = Arc::new(Purse(std::sync::Mutex::new(1 << 20)));
    for write in [
        |r: &mut Reply| r.integer(123_456),
        |r: &mut Reply| r.integer(0),
        |r: &mut Reply| r.double(0.5),
        |r: &mut Reply| r.array(1000),
        |r: &mut Reply| r.array(2),
        |r: &mut Reply| r.null(),
        |r: &mut Reply| r.ok(),
    ] {
        let mut reply = Reply::within(Version::Resp3, Some(purse.clone()));
        (0..1_000_000).for_each(|_| write(&mut reply));
        assert!(reply.len() <= 1 << 20);
        reply.settle(0);
        assert!(reply.buffer.starts_with(b"-OOM"));
    }
}
