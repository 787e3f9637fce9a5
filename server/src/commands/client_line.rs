//! The line of `CLIENT LIST` and `CLIENT INFO`.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::clients::Client;
use crate::commands::TABLE;
use crate::peer::Peer;
use crate::session::Session;
use crate::tracking_clients::{IS_BROKEN, TRACKS, TRACKS_PREFIXES};

/// Returns a client's line of `CLIENT LIST`, with every field of Redis's in Redis's order, and with newer ones where Valkey has
/// them. `qbuf-free` is 0: a client reads into its worker's buffer, and has a buffer of its own, without spare room, only for an
/// incomplete request.
pub fn line(client: &Client, now_ms: u64) -> String {
    let number = |cell: &AtomicU32| cell.load(Ordering::Relaxed);
    let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
    let told = client.told.lock().clone();
    let last = usize::from(client.last_command.load(Ordering::Relaxed));
    let (input, output) = (client.input_bytes.load(Ordering::Relaxed), client.output_bytes.load(Ordering::Relaxed));
    let outbox = client.outbox_bytes();
    let bytes = |cell: &AtomicUsize| cell.load(Ordering::Relaxed);
    let (arguments, queued) = (bytes(&client.argument_bytes), bytes(&client.queued_bytes));
    let [net_in, net_out, commands] = client.traffic();
    let (replies, replies_peak) = (bytes(&client.reply_bytes).max(output), bytes(&client.reply_bytes_peak).max(output));
    format!(
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} capa={} db={} sub={} psub={} ssub={} multi={} \
         watch={} qbuf={input} qbuf-free=0 argv-mem={arguments} multi-mem={queued} rbs={replies} rbp={replies_peak} obl={output} \
         oll={} omem={outbox} tot-mem={} \
         events={} cmd={} user={} redir={} resp={} lib-name={} lib-ver={} \
         tot-net-in={net_in} tot-net-out={net_out} tot-cmds={commands}",
        client.id,
        client.peer(),
        client.peer().local(),
        client.fd.load(Ordering::Relaxed),
        String::from_utf8_lossy(&told.name),
        seconds(client.connected_ms),
        seconds(client.active_ms.load(Ordering::Relaxed)),
        flags(client),
        if client.can_redirect.load(Ordering::Relaxed) { "r" } else { "" },
        client.select.load(Ordering::Relaxed),
        number(&client.channels),
        number(&client.patterns),
        number(&client.sharded),
        number(&client.queued) as i32,
        number(&client.watching),
        u8::from(outbox > 0),
        (input + arguments + queued + replies + outbox + size_of::<Client>() + size_of::<Session>())
            .max(client.held_bytes()),
        if output > 0 { "rw" } else { "r" },
        if last < TABLE.entries().len() { &*TABLE.get(last).name } else { "NULL" },
        String::from_utf8_lossy(&told.user),
        client.redirect.load(Ordering::Relaxed),
        client.resp.load(Ordering::Relaxed),
        told.library,
        told.library_version,
    )
}

/// Redis's letters.
pub fn flags(client: &Client) -> String {
    let tracking = client.tracking.load(Ordering::Relaxed);
    let letters = [
        (client.is_replica.load(Ordering::Relaxed), 'S'),
        (client.is_monitor.load(Ordering::Relaxed), 'O'),
        (client.is_subscriber(), 'P'),
        (client.queued.load(Ordering::Relaxed) != u32::MAX, 'x'),
        (client.is_blocked.load(Ordering::Relaxed), 'b'),
        (tracking & TRACKS != 0, 't'),
        (tracking & IS_BROKEN != 0, 'R'),
        (tracking & TRACKS_PREFIXES != 0, 'B'),
        (client.is_killed(), 'A'),
        (matches!(client.peer(), Peer::Unix(_)), 'U'),
        (client.no_evict.load(Ordering::Relaxed), 'e'),
        (client.no_touch.load(Ordering::Relaxed), 'T'),
    ];
    let flags: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
    if flags.is_empty() { "N".into() } else { flags }
}
