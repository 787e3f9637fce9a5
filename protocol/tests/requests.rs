//! Requests as a socket delivers them: in pieces, in pipelines, broken, and too large.

use dormouse_protocol::{OwnedRequest, Parsed, Parser, ProtocolError, RequestLimits};
use proptest::prelude::*;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

type Args = Vec<Vec<u8>>;

/// Reads all requests of `input`, which arrives in pieces that end at `cuts`. Checks that `needed` never exceeds the
/// missing bytes.
fn parse_in_pieces(
    parser: &mut Parser,
    input: &[u8],
    cuts: impl IntoIterator<Item = usize>,
) -> (Vec<Args>, Result<(), ProtocolError>) {
    let mut requests = Vec::new();
    let mut start = 0;
    let mut needed_until = 0;
    for end in cuts.into_iter().chain([input.len()]) {
        while start < end {
            match parser.parse(&input[start..end]) {
                Err(error) => return (requests, Err(error)),
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > 0);
                    needed_until = end + needed;
                    break;
                }
                Ok(Parsed::Complete { request, consumed }) => {
                    assert!(end >= needed_until, "complete with {end} bytes of {needed_until}");
                    assert!(consumed > 0);
                    requests.push(request.iter().map(<[u8]>::to_vec).collect());
                    start += consumed;
                }
            }
        }
    }
    (requests, Ok(()))
}

fn parse_whole(input: &[u8]) -> (Vec<Args>, Result<(), ProtocolError>) {
    parse_in_pieces(&mut Parser::new(RequestLimits::default()), input, [])
}

fn parse_bytewise(input: &[u8]) -> (Vec<Args>, Result<(), ProtocolError>) {
    parse_in_pieces(&mut Parser::new(RequestLimits::default()), input, 1..input.len())
}

fn encode(args: &[Vec<u8>]) -> Vec<u8> {
    let frame = OwnedFrame::Array(args.iter().map(|arg| OwnedFrame::BulkString(arg.clone())).collect());
    let mut buffer = vec![0; frame.encode_len(false)];
    resp2::encode::encode(&mut buffer, &frame, false).expect("the buffer has the frame's length");
    buffer
}

/// The oracle's reading of the start of `input`: the arguments, if they are an array of bulk strings, and their length.
fn decode(input: &[u8]) -> Option<(Args, usize)> {
    let (frame, consumed) = resp2::decode::decode(input).ok()??;
    let OwnedFrame::Array(frames) = frame else { return None };
    let args = frames.into_iter().map(|frame| match frame {
        OwnedFrame::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    Some((args.collect::<Option<_>>()?, consumed))
}

fn args() -> impl Strategy<Value = Args> {
    let short = prop::collection::vec(any::<u8>(), 0..20);
    let long = prop::collection::vec(any::<u8>(), 0..3_000);
    prop::collection::vec(prop_oneof![4 => short, 1 => long], 1..15)
}

/// Bytes that look like requests at first.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (0..4_u32).prop_map(|count| format!("*{count}\r\n").into_bytes()),
        (-1..12_i32).prop_map(|length| format!("${length}\r\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..4),
        Just(b"\r\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"GET \"a\\x41\" 'b'\n".to_vec()),
        "[*$0-9\\-\r\n\"' a]{1,8}".prop_map(String::into_bytes),
        args().prop_map(|args| encode(&args)),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn requests_are_read_as_the_oracle_reads_them(requests in prop::collection::vec(args(), 1..6)) {
        let input: Vec<u8> = requests.iter().flat_map(|args| encode(args)).collect();
        let mut oracle = Vec::new();
        let mut start = 0;
        while let Some((args, consumed)) = decode(&input[start..]) {
            oracle.push(args);
            start += consumed;
        }
        prop_assert_eq!(&oracle, &requests);
        prop_assert_eq!(parse_whole(&input), (oracle, Ok(())));
    }

    #[test]
    fn pieces_do_not_matter(
        requests in prop::collection::vec(args(), 1..4),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let input: Vec<u8> = requests.iter().flat_map(|args| encode(args)).collect();
        cuts.sort_by_key(|cut| cut.index(input.len()));
        let ends = cuts.iter().map(|cut| cut.index(input.len()));
        prop_assert_eq!(parse_in_pieces(&mut Parser::new(RequestLimits::default()), &input, ends), (requests, Ok(())));
    }

    #[test]
    fn broken_requests_break_alike_in_pieces(
        input in nearly_requests(),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        cuts.sort_by_key(|cut| cut.index(input.len() + 1));
        let ends = cuts.iter().map(|cut| cut.index(input.len() + 1));
        let whole = parse_whole(&input);
        prop_assert_eq!(&parse_in_pieces(&mut Parser::new(RequestLimits::default()), &input, ends), &whole);
        prop_assert_eq!(&parse_bytewise(&input), &whole);
    }

    /// The oracle accepts some lengths that Redis does not, such as `$+1`: those are recognised by their encoding.
    #[test]
    fn whatever_the_oracle_takes_is_taken(input in nearly_requests()) {
        if let Some((args, consumed)) = decode(&input) && encode(&args) == input[..consumed] {
            prop_assert_eq!(parse_whole(&input[..consumed]), (vec![args], Ok(())));
        }
    }

    #[test]
    fn any_bytes_are_answered(input: Vec<u8>) {
        prop_assert_eq!(parse_bytewise(&input), parse_whole(&input));
    }

    #[test]
    fn an_error_leaves_the_parser_as_new(broken in nearly_requests(), args in args()) {
        let mut parser = Parser::new(RequestLimits::default());
        if parse_in_pieces(&mut parser, &broken, 1..broken.len()).1.is_err() {
            let input = encode(&args);
            prop_assert_eq!(parse_in_pieces(&mut parser, &input, 1..input.len()), (vec![args], Ok(())));
        }
    }
}

#[test]
fn what_is_taken() {
    for (input, expected) in [
        (&b"*1\r\n$4\r\nPING\r\n"[..], &[&["PING"][..]][..]),
        (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[&["GET", ""]]),
        (b"PING\r\nPING\n", &[&["PING"], &["PING"]]),
        (b"SET k \"a b\"\r\n*1\r\n$4\r\nPING\r\n", &[&["SET", "k", "a b"], &["PING"]]),
        // Requests without arguments.
        (b"*0\r\n*-1\r\n*-10\r\n\r\n\n  \r\n", &[&[], &[], &[], &[], &[], &[]]),
        // Line ends that Redis does not check.
        (b"*1\rx$1\rxaxx*1\r\n$1\r\nb\r\n", &[&["a"], &["b"]]),
        (b"*2\r\n$1\r\n\r\r\n$2\r\n\r\n\r\n", &[&["\r", "\r\n"]]),
    ] {
        let expected: Vec<Args> =
            expected.iter().map(|args| args.iter().map(|arg| arg.as_bytes().to_vec()).collect()).collect();
        assert_eq!(parse_whole(input), (expected.clone(), Ok(())), "{}", input.escape_ascii());
        assert_eq!(parse_bytewise(input), (expected, Ok(())), "{}", input.escape_ascii());
    }
}

#[test]
fn what_is_refused_and_in_which_words() {
    let long = "9".repeat(64 * 1024);
    let long_line = "A".repeat(64 * 1024 + 1);
    for (input, expected) in [
        ("*2147483648\r\n", "invalid multibulk length"),
        ("*3000000000\r\n", "invalid multibulk length"),
        ("*9223372036854775808\r\n", "invalid multibulk length"),
        ("*\r\n", "invalid multibulk length"),
        ("*a\r\n", "invalid multibulk length"),
        ("*01\r\n", "invalid multibulk length"),
        ("*+1\r\n", "invalid multibulk length"),
        ("*-\r\n", "invalid multibulk length"),
        ("*-0\r\n", "invalid multibulk length"),
        ("* 1\r\n", "invalid multibulk length"),
        ("*1 \r\n", "invalid multibulk length"),
        ("*1\n$4\r\nPING\r\n", "invalid multibulk length"),
        (&format!("*{long}"), "too big mbulk count string"),
        (&format!("*{long}\r\n"), "too big mbulk count string"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$\r\n", "invalid bulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\n$04\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        ("*1\r\n$2000000000\r\n", "invalid bulk length"),
        ("*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
        (&format!("*1\r\n${long}"), "too big bulk count string"),
        ("*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", "expected '$', got 'f'"),
        ("*1\r\n*1\r\n", "expected '$', got '*'"),
        ("*1\r\n:1\r\n", "expected '$', got ':'"),
        ("*1\r\n\r\n", "expected '$', got ' '"),
        ("*1\r\n\0\r\n", "expected '$', got '\\x00'"),
        (&long_line, "too big inline request"),
        (&format!("{long_line}\r\n"), "too big inline request"),
        ("SET k \"v\r\n", "unbalanced quotes in request"),
        ("SET k 'v'x\r\n", "unbalanced quotes in request"),
        ("*2\r\n$3\r\nSET\r\n$536870912\r\n", ""),
        ("*1048576\r\n", ""),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*1\r\nfoo", ""),
    ] {
        let text = |result: Result<(), ProtocolError>| result.err().map(|error| error.to_string());
        let expected = (!expected.is_empty()).then(|| format!("Protocol error: {expected}"));
        let shown = &input[..input.len().min(60)];
        assert_eq!(text(parse_whole(input.as_bytes()).1), expected, "{shown:?}");
        assert_eq!(text(parse_bytewise(input.as_bytes()).1), expected, "{shown:?}, byte by byte");
    }
}

#[test]
fn strangers_may_send_little() {
    let error = |input: &str| {
        let mut parser = Parser::new(RequestLimits::unauthenticated());
        parse_in_pieces(&mut parser, input.as_bytes(), []).1.err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (input, expected) in [
        ("*10\r\n", ""),
        ("*11\r\n", "Protocol error: unauthenticated multibulk length"),
        ("*1048576\r\n", "Protocol error: unauthenticated multibulk length"),
        ("*1048577\r\n", "Protocol error: invalid multibulk length"),
        ("*1\r\n$16384\r\n", ""),
        ("*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length"),
        ("*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
    ] {
        assert_eq!(error(input), expected, "{input:?}");
    }
}

#[test]
fn authenticated_in_a_pipeline() {
    let mut parser = Parser::new(RequestLimits::unauthenticated());
    let first = encode(&[b"AUTH".to_vec(), b"secret".to_vec()]);
    let second = encode(&vec![vec![b'x'; 20_000]; 12]);
    let input = [first.clone(), second].concat();
    assert!(matches!(parser.parse(&input), Ok(Parsed::Complete { consumed, .. }) if consumed == first.len()));
    parser.set_limits(RequestLimits::default());
    let Ok(Parsed::Complete { request, .. }) = parser.parse(&input[first.len()..]) else { panic!("a whole request") };
    assert_eq!(request.len(), 12);
}

#[test]
fn a_whole_request_is_bounded() {
    let limits = RequestLimits { request_bytes_max: 100, ..RequestLimits::default() };
    let fits = encode(&[vec![b'x'; 40], vec![b'x'; 40]]);
    let exceeds = encode(&[vec![b'x'; 40], vec![b'x'; 43]]);
    assert_eq!((fits.len(), exceeds.len()), (98, 101));
    for (input, expected) in [(fits, Ok(())), (exceeds, Err(ProtocolError::RequestTooBig))] {
        assert_eq!(parse_in_pieces(&mut Parser::new(limits), &input, []).1, expected);
        assert_eq!(parse_in_pieces(&mut Parser::new(limits), &input, 1..input.len()).1, expected);
        // A pipeline may be longer than one request.
        let pipeline = [encode(&[b"PING".to_vec()]).repeat(20), input].concat();
        assert_eq!(parse_in_pieces(&mut Parser::new(limits), &pipeline, []).1, expected);
    }
}

#[test]
fn a_large_argument_is_waited_for_by_its_length() {
    const LENGTH: usize = 64 * 1024 * 1024;
    let mut input = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LENGTH}\r\n").into_bytes();
    let start = input.len();
    input.resize(start + LENGTH, b'\r');
    input.extend_from_slice(b"\r\n");
    let mut parser = Parser::new(RequestLimits::default());
    for end in (start..input.len()).step_by(16 * 1024) {
        let Ok(Parsed::Incomplete { needed }) = parser.parse(&input[..end]) else { panic!("not all there") };
        assert_eq!(needed, input.len() - end);
        assert!(parser.is_within_request());
    }
    let Ok(Parsed::Complete { request, consumed }) = parser.parse(&input) else { panic!("all there") };
    assert_eq!((request.arg(2).len(), consumed), (LENGTH, input.len()));
}

#[test]
fn idle_parsers_are_small() {
    assert!(size_of::<Parser>() <= 96);
    let mut parser = Parser::new(RequestLimits::default());
    assert_eq!(parser.heap_bytes(), 0);

    // An announced count is not yet sent.
    assert!(parser.parse(b"*1000000\r\n$1\r\n").is_ok());
    assert!(parser.heap_bytes() <= 8 * 1024);

    for input in [encode(&vec![b"x".to_vec(); 5_000]), [b"x ".repeat(5_000), b"\"y\"\n".to_vec()].concat()] {
        let mut parser = Parser::new(RequestLimits::default());
        assert!(matches!(parser.parse(&input), Ok(Parsed::Complete { .. })));
        assert!(parser.heap_bytes() > 5_000);
        assert!(matches!(parser.parse(b""), Ok(Parsed::Incomplete { needed: 1 })));
        assert!(parser.heap_bytes() <= 64);
    }
}

#[test]
fn resting_within_a_request_loses_nothing() {
    let input = encode(&vec![b"argument".to_vec(); 20]);
    let mut parser = Parser::new(RequestLimits::default());
    for end in 1..input.len() {
        assert!(matches!(parser.parse(&input[..end]), Ok(Parsed::Incomplete { .. })));
        parser.rest();
    }
    let Ok(Parsed::Complete { request, .. }) = parser.parse(&input) else { panic!("all there") };
    assert_eq!(request.to_owned().as_request().iter().collect::<Vec<_>>(), vec![&b"argument"[..]; 20]);
    assert_eq!(OwnedRequest::from_args(&[]).as_request().len(), 0);
}

#[test]
fn missing_bytes_are_those_of_the_argument() {
    let mut parser = Parser::new(RequestLimits::default());
    let request = b"*2\r\n$3\r\nGET\r\n$1000\r\n";
    let mut arrived = request[..10].to_vec();
    assert!(matches!(parser.parse(&arrived), Ok(Parsed::Incomplete { .. })));
    assert_eq!(parser.missing_bytes(arrived.len()), 3, "one of the name, and its end");
    arrived.extend_from_slice(&request[10..]);
    assert!(matches!(parser.parse(&arrived), Ok(Parsed::Incomplete { .. })));
    assert_eq!(parser.missing_bytes(arrived.len()), 1002);
    arrived.extend_from_slice(&[b'k'; 1002]);
    assert!(matches!(parser.parse(&arrived), Ok(Parsed::Complete { .. })));
    assert_eq!(parser.missing_bytes(arrived.len()), 0);
}
