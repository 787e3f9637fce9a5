//! The request parser against itself and against an oracle.
//!
//! The first byte of the input decides how the rest is cut into pieces. Any cut must give the same requests and the
//! same error, and a request that the `redis-protocol` crate accepts must be read alike.
#![no_main]

use dormouse_protocol::{RequestLimits, Parsed, Parser, ProtocolError};
use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame};

type Args = Vec<Vec<u8>>;

fuzz_target!(|input: &[u8]| {
    let Some((&piece, input)) = input.split_first() else { return };
    for limits in [RequestLimits::default(), RequestLimits::unauthenticated(), SMALL] {
        let whole = parse(limits, input, input.len());
        let pieces = parse(limits, input, usize::from(piece % 32) + 1);
        assert_eq!(whole, pieces);
        if limits == RequestLimits::default() {
            compare_with_oracle(input, &whole.0);
        }
    }
});

/// Limits so small that the fuzzer reaches each of them with little input.
const SMALL: RequestLimits =
    RequestLimits { args_max: 5, bulk_bytes_max: 20, line_bytes_max: 16, request_bytes_max: 64, authenticated: true };

fn parse(limits: RequestLimits, input: &[u8], piece: usize) -> (Vec<Args>, Option<ProtocolError>) {
    let mut parser = Parser::new(limits);
    let mut requests = Vec::new();
    let mut start = 0;
    let mut end = 0;
    while end < input.len() {
        end = (end + piece).min(input.len());
        while start < end {
            match parser.parse(&input[start..end]) {
                Err(error) => return (requests, Some(error)),
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > 0);
                    break;
                }
                Ok(Parsed::Complete { request, consumed }) => {
                    assert!(consumed > 0 && consumed <= end - start);
                    requests.push(request.iter().map(<[u8]>::to_vec).collect());
                    start += consumed;
                }
            }
        }
    }
    (requests, None)
}

/// Asks the oracle only where it cannot overflow its stack: it has no limit on nested arrays. It accepts some lengths
/// that Redis does not, such as `$+1`; those are recognised by their encoding.
fn compare_with_oracle(input: &[u8], requests: &[Args]) {
    if input.len() > 4096 || input.first() != Some(&b'*') {
        return;
    }
    let Ok(Some((frame, consumed))) = resp2::decode::decode(input) else { return };
    let mut encoded = vec![0; frame.encode_len(false)];
    let written = resp2::encode::encode(&mut encoded, &frame, false);
    if written.is_err() || encoded != input[..consumed] {
        return;
    }
    let OwnedFrame::Array(frames) = frame else { return };
    let args = frames.into_iter().map(|frame| match frame {
        OwnedFrame::BulkString(bytes) => Some(bytes),
        _ => None,
    });
    if let Some(args) = args.collect::<Option<Args>>() {
        assert_eq!(requests.first(), Some(&args));
    }
}
