//! Server-sent events: messages of channels, and the commands of a database.
//!
//! The client is a subscriber or a monitor as over RESP, with the same outbox. What it is told is written as events of
//! one line of data, its parts separated by commas. A comment now and then shows proxies that the connection lives.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use dormouse_protocol::ReplyHead;
use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::Connection;
use super::body::{ExchangeEnd, Outlet};
use super::client::HttpClient;
use super::input::RespText;
use super::refusal::{NoResult, Refused};
use super::route::Route;
use crate::connection::Presence;
use crate::pubsub::SubscriptionKind;
use crate::session::FrontEnd;

/// Interval of comments.
const HEARTBEAT: Duration = Duration::from_secs(15);
const COMMENT: &[u8] = b":hb\n\n";
/// Interval at which the connection of a client is checked that has sent more requests.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of messages that are taken at once.
const TAKEN_AT_ONCE: usize = 64 << 10;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Sends events until the client is gone.
pub async fn listen(
    connection: &Rc<Connection>,
    client: &mut HttpClient,
    route: Route,
    outlet: &Outlet,
) -> Result<ExchangeEnd, NoResult> {
    let mut command = match &route {
        Route::Subscribe(SubscriptionKind::Pattern, pattern) => RespText::of(&[b"PSUBSCRIBE", pattern]),
        Route::Subscribe(_, channel) => RespText::of(&[b"SUBSCRIBE", channel]),
        _ => RespText::of(&[b"MONITOR"]),
    };
    client.begin();
    client.session.front = FrontEnd::HttpItself;
    client.run(&mut command, connection).await?;
    client.session.front = FrontEnd::Http;
    client.settle().await?;
    if let Some(error) = client.reply.buffer.strip_prefix(b"-") {
        let refused = Refused::bad(String::from_utf8_lossy(error.trim_ascii_end()));
        client.finish();
        return Err(refused.into());
    }
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, EVENTS);
    head.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    outlet.begin(head);
    let mut events = Vec::new();
    write(&client.reply.buffer, &mut events);
    client.finish();
    loop {
        outlet.send(events).await;
        events = match next(connection, client).await {
            Event::Messages => {
                if !client.session.renew() {
                    return Err(NoResult::Gone);
                }
                let mut messages = Vec::new();
                client.session.client.take_messages(&mut messages, TAKEN_AT_ONCE);
                client.session.count_messages(messages.len());
                let mut events = Vec::with_capacity(messages.len() + 64);
                write(&messages, &mut events);
                client.session.pass_turn().await;
                events
            }
            Event::Silence => COMMENT.to_vec(),
            Event::Over => return Err(NoResult::Gone),
        };
    }
}

enum Event {
    Messages,
    Silence,
    Over,
}

/// Waits for something to send.
async fn next(connection: &Connection, client: &HttpClient) -> Event {
    let client = Arc::clone(&client.session.client);
    let mut silence = std::pin::pin!(tokio::time::sleep(HEARTBEAT));
    let mut look = None;
    poll_fn(|cx| {
        client.waker.register(cx.waker());
        if client.is_killed() || connection.node.clients.is_draining() {
            return Poll::Ready(Event::Over);
        }
        if client.has_messages() {
            return Poll::Ready(Event::Messages);
        }
        // With HTTP/2 the connection tells.
        if !connection.is_http2 && connection.socket.borrow().has_bytes(cx) {
            let look = look.get_or_insert_with(|| Box::pin(tokio::time::interval(LOOK_EVERY)));
            while look.poll_tick(cx).is_ready() {
                if connection.presence() != Presence::Open {
                    return Poll::Ready(Event::Over);
                }
            }
        }
        std::future::Future::poll(silence.as_mut(), cx).map(|()| Event::Silence)
    })
    .await
}

/// Writes messages as events.
fn write(messages: &[u8], to: &mut Vec<u8>) {
    let (mut at, mut parts) = (0, 0);
    while let Some((head, line, used)) = messages.get(at..).and_then(ReplyHead::first) {
        at += used;
        match head {
            ReplyHead::Many(_, Some(count)) => {
                parts = count;
                to.extend_from_slice(b"data: ");
                continue;
            }
            ReplyHead::Bulk(_, Some(length)) => {
                let end = at.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(messages.len());
                write_data(&messages[at..end], to);
                at = end + 2;
            }
            ReplyHead::Line if parts == 0 => {
                // A monitor's line is not in an array.
                to.extend_from_slice(b"data: ");
                write_data(&line[1..], to);
            }
            ReplyHead::Line => write_data(&line[1..], to),
            _ => {}
        }
        parts = parts.saturating_sub(1);
        to.extend_from_slice(if parts == 0 { b"\n\n" } else { b"," });
    }
}

/// Writes a part of an event's data. Each of its lines needs a field of its own.
fn write_data(data: &[u8], to: &mut Vec<u8>) {
    let mut from = 0;
    for end in memchr::memchr2_iter(b'\n', b'\r', data) {
        if data[end] == b'\n' && end > 0 && data[end - 1] == b'\r' {
            from = end + 1;
            continue;
        }
        to.extend_from_slice(&data[from..end]);
        to.extend_from_slice(b"\ndata: ");
        from = end + 1;
    }
    to.extend_from_slice(&data[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_events() {
        for (messages, expected) in [
            ("*3\r\n$9\r\nsubscribe\r\n$4\r\nchat\r\n:1\r\n", "data: subscribe,chat,1\n\n"),
            (
                "*3\r\n$7\r\nmessage\r\n$4\r\nchat\r\n$5\r\nhello\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$0\r\n\r\n",
                "data: message,chat,hello\n\ndata: message,c,\n\n",
            ),
            ("*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n$4\r\na,\"b\r\n", "data: pmessage,*,c,a,\"b\n\n"),
            ("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$6\r\na\nb\r\nc\r\n", "data: message,c,a\ndata: b\ndata: c\n\n"),
            ("+OK\r\n+1.2 [0 127.0.0.1:5] \"PING\"\r\n", "data: OK\n\ndata: 1.2 [0 127.0.0.1:5] \"PING\"\n\n"),
        ] {
            let mut events = Vec::new();
            write(messages.as_bytes(), &mut events);
            assert_eq!(String::from_utf8(events).unwrap(), expected);
        }
    }
}
