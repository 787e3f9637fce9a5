//! The same long random script for the server and for a real redis-server: every reply must be the same.

#[path = "comparison/arrays.rs"]
mod arrays;

use std::collections::VecDeque;
use std::time::{Duration, Instant};
use std::{env, io::Write};

use dormouse_client_tests::{
    Kind, Server, Settings, compare,
    resp::{Connection, Reply, Words, request},
    script::{Script, Step},
    unrest::Unrest,
    wait_for,
};

const TEST: &str = "comparison with real servers";
const SEEDS: &str = "1-4";
/// Seeds for RESP2 and RESP3.
const SEEDS_OF_PEERS: &str = "1-2";
const COMMANDS: usize = 20_000;
/// Commands on their way at once.
const PIPELINE: usize = 8000;
/// More workers than a small machine has cores, so that shards move between workers everywhere.
const WORKERS: Settings = Settings {
    max_clients: None,
    workers: Some(4),
    http_port: None,
    tokens: &[],
    is_cluster: false,
    sleep_after: None,
    loss_window: None,
    takes_debug: false,
    tls: None,
    is_unchecked: false,
    options: &[],
};

#[test]
fn random_scripts_get_the_replies_of_redis() {
    random_scripts_get_the_replies_of(Kind::Redis, SEEDS);
}

#[test]
fn random_scripts_get_the_replies_of_valkey() {
    random_scripts_get_the_replies_of(Kind::Valkey, SEEDS_OF_PEERS);
}

#[test]
fn random_scripts_get_the_replies_of_redis_8() {
    random_scripts_get_the_replies_of(Kind::Redis8, SEEDS_OF_PEERS);
}

fn random_scripts_get_the_replies_of(peer: Kind, seeds: &str) {
    if !peer.is_present(TEST) {
        return;
    }
    let (mut ours, theirs) = pair(peer);
    let commands = env::var("DORMOUSE_COMPARE_COMMANDS").map_or(COMMANDS, |n| n.parse().expect("a number of commands"));
    let seeds = env::var("DORMOUSE_COMPARE_SEEDS").unwrap_or_else(|_| seeds.into());
    let (first, last) = seeds.split_once('-').unwrap_or((&seeds, &seeds));
    for seed in first.parse().expect("a seed")..=last.parse::<u64>().expect("a seed") {
        let mut comparison = Comparison::new(seed, ours.port(), &theirs);
        let mut script = Script::beside(seed, peer);
        let mut restarted = !comparison.sleeps;
        let mut unrest = comparison.unrest();
        while comparison.commands < commands {
            comparison.step(script.next().expect("a script has no end"));
            if !restarted && comparison.commands > commands / 2 {
                restarted = true;
                comparison.flush();
                drop(unrest.take());
                ours.restart();
                comparison.reconnect();
                unrest = comparison.unrest();
            }
        }
        comparison.flush();
        comparison.inventory();
        println!("seed {seed}: {} commands, {} of them refused", comparison.commands, comparison.refused);
    }
}

/// One long pipeline, answered in order and as Redis does, while the database falls asleep all the time.
#[test]
fn a_pipeline_does_not_notice_sleep() {
    if !Kind::Redis.is_present(TEST) {
        return;
    }
    let (ours, theirs) = pair(Kind::Redis);
    for seed in [102, 103] {
        let mut comparison = Comparison::new(seed, ours.port(), &theirs);
        let commands = Script::new(seed).filter_map(|step| match step {
            Step::Command(words) if !lives_for_moments(&words) && !compare::is_left_out(Kind::Redis, &words, false) => {
                Some(words)
            }
            _ => None,
        });
        comparison.pending = commands.take(PIPELINE).collect();
        let unrest = (ours.kind() == Kind::Dormouse)
            .then(|| (Unrest::of_sleep(ours.port(), seed), Unrest::of_shards(ours.port(), seed)));
        comparison.flush();
        drop(unrest);
        comparison.inventory();
    }
}

/// Whether RESTORE makes a key that expires while a pipeline is under way, at a moment that differs between servers.
fn lives_for_moments(words: &Words) -> bool {
    let time = words.get(2).and_then(|time| std::str::from_utf8(time).ok()?.parse::<u64>().ok());
    words[0].eq_ignore_ascii_case(b"RESTORE")
        && time.is_some_and(|ms| (1..60_000).contains(&ms))
        && !words.iter().any(|word| word.eq_ignore_ascii_case(b"ABSTTL"))
}

/// Hand-picked commands, for cases that chance would find too rarely.
#[test]
fn edges_get_the_replies_of_redis() {
    for peer in [Kind::Redis, Kind::Valkey, Kind::Redis8].into_iter().filter(|peer| peer.is_present(TEST)) {
        let (ours, theirs) = pair(peer);
        for resp3 in [0, 1] {
            let mut comparison = Comparison::new(resp3, ours.port(), &theirs);
            let lines = include_str!("edges.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            for line in lines.filter_map(|line| of_peer(line, peer)) {
                let word = |word: &str| if word == "\"\"" { Vec::new() } else { word.as_bytes().to_vec() };
                comparison.send(line.split(' ').map(word).collect());
            }
            comparison.inventory();
        }
    }
}

/// Returns the command of a line, unless it begins with servers that `peer` is not one of: `[redis8] DELEX key`.
fn of_peer(line: &str, peer: Kind) -> Option<&str> {
    let Some((servers, command)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return Some(line);
    };
    let name = match peer {
        Kind::Dormouse => "dormouse",
        Kind::Redis => "redis",
        Kind::Valkey => "valkey",
        Kind::Redis8 => "redis8",
    };
    servers.split(',').any(|server| server == name).then_some(command)
}

fn pair(peer: Kind) -> (Server, Server) {
    (Server::start_with(Kind::under_test(), WORKERS), Server::start_with(peer, Settings::default()))
}

/// Commands that go out together, at most.
const BATCH_MAX: usize = 64;

/// Both servers, at the same point of the script.
///
/// Even seeds speak RESP2, odd ones RESP3. The seed also decides how many commands go out together. In half of the
/// scripts our server sleeps after each inventory and is restarted midway. In more than half, its shards are split and
/// merged all the time. In some of both, it sleeps all the time. Its replies must be the same.
struct Comparison {
    seed: u64,
    batch: usize,
    sleeps: bool,
    /// Commands that were not sent yet.
    pending: Vec<Words>,
    ours: Connection,
    theirs: Connection,
    ports: (u16, u16),
    peer: Kind,
    /// Commands that were answered QUEUED since MULTI. EXEC's reply is theirs.
    queued: Vec<Words>,
    in_transaction: bool,
    /// The servers hold different values after a listed difference. Nothing is compared until all is flushed.
    diverged: bool,
    /// How far apart the servers may have run the same command: by the time of the longest pipeline.
    apart: Duration,
    /// The latest commands and their replies, for the report.
    history: VecDeque<(usize, Words, Reply)>,
    commands: usize,
    refused: usize,
}

impl Comparison {
    fn new(seed: u64, ours: u16, peer: &Server) -> Self {
        let (peer, theirs) = (peer.kind(), peer.port());
        let mut comparison = Self {
            seed,
            batch: [1, 8, BATCH_MAX][(seed % 3) as usize],
            sleeps: seed % 4 >= 2,
            pending: Vec::new(),
            ours: connect_to_ours(seed, ours),
            theirs: connect(seed, theirs),
            ports: (ours, theirs),
            peer,
            queued: Vec::new(),
            in_transaction: false,
            diverged: false,
            apart: compare::APART,
            history: VecDeque::new(),
            commands: 0,
            refused: 0,
        };
        comparison.command(vec![b"FLUSHALL".to_vec()]);
        comparison
    }

    /// Splits and merges the shards of our server, and puts it to sleep, as this seed decides.
    fn unrest(&self) -> Option<(Unrest, Option<Unrest>)> {
        let restless = [0, 2, 4].contains(&(self.seed % 5)) && Kind::under_test() == Kind::Dormouse;
        let (port, seed) = (self.ports.0, self.seed);
        restless.then(|| (Unrest::of_shards(port, seed), self.sleeps.then(|| Unrest::of_sleep(port, seed))))
    }

    /// Opens new connections to both, so that the state of the connections is the same again.
    fn reconnect(&mut self) {
        self.ours = connect_to_ours(self.seed, self.ports.0);
        self.theirs = connect(self.seed, self.ports.1);
    }

    fn step(&mut self, step: Step) {
        if let Step::Command(words) = step {
            if compare::is_left_out(self.peer, &words, false) {
                return;
            }
            self.pending.push(words);
            if self.pending.len() >= self.batch {
                self.flush();
            }
            return;
        }
        self.flush();
        match step {
            Step::Command(words) => _ = self.command(words),
            Step::Transaction { commands, end } => self.transaction(commands, end),
            Step::Watched { watch, other, command } => {
                self.command(watch);
                self.elsewhere(&other);
                self.transaction(vec![command], "EXEC");
            }
            Step::Draw { list, draw, after } => {
                let members = self.command(list);
                let (ours, theirs) = self.ask(&draw);
                if !compare::fair_draw(&draw, &members, &ours, &theirs) {
                    self.mismatch(&draw, &ours, &theirs);
                }
                self.remember(draw, ours);
                self.command(after);
            }
            Step::Iteration { command, cursor } => self.iteration(command, cursor),
            Step::Expiry { key, command } => {
                self.command(command);
                let exists: Words = vec![b"EXISTS".to_vec(), key];
                let gone = wait_for(Duration::from_secs(10), || {
                    let (ours, theirs) = self.ask(&exists);
                    (ours == theirs && ours.number() == Some(0.0)).then_some(())
                });
                assert!(gone.is_some(), "seed {}: still there after 10 s: {}", self.seed, text(&exists));
            }
            Step::Inventory => {
                self.inventory();
                self.sleep();
            }
        }
    }

    fn transaction(&mut self, commands: Vec<Words>, end: &str) {
        self.command(vec![b"MULTI".to_vec()]);
        for words in commands {
            self.send(words);
        }
        self.command(vec![end.as_bytes().to_vec()]);
    }

    /// Sends the command, unless the other server would treat it differently.
    fn send(&mut self, words: Words) {
        if !compare::is_left_out(self.peer, &words, self.in_transaction) {
            self.command(words);
        }
    }

    /// Sends one command to both, compares, and returns our reply.
    fn command(&mut self, words: Words) -> Reply {
        let (ours, theirs) = self.ask(&words);
        self.compare(words, ours.clone(), theirs);
        self.converge();
        ours
    }

    /// Flushes everything after a difference that has changed the servers' data.
    fn converge(&mut self) {
        if self.diverged && !self.in_transaction {
            self.ask(&vec![b"FLUSHALL".to_vec()]);
            self.diverged = false;
        }
    }

    fn compare(&mut self, words: Words, ours: Reply, theirs: Reply) {
        if !self.agree(&words, &ours, &theirs) && !self.diverged {
            self.mismatch(&words, &ours, &theirs);
        }
        self.remember(words, ours);
    }

    /// Sends all pending commands at once.
    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let bytes: Vec<u8> = pending.iter().flat_map(|words| request(words)).collect();
        let began = Instant::now();
        let mut writers = [self.ours.writer(), self.theirs.writer()];
        std::thread::scope(|scope| {
            // Sockets hold only so much: a client that does not read the replies cannot continue to send.
            for writer in &mut writers {
                scope.spawn(|| writer.write_all(&bytes).expect("the server reads"));
            }
            for words in pending {
                let (ours, theirs) = self.replies(&words);
                self.apart = self.apart.max(compare::APART + began.elapsed());
                self.compare(words, ours, theirs);
            }
        });
        self.converge();
    }

    fn sleep(&mut self) {
        if self.sleeps && Kind::under_test() == Kind::Dormouse {
            let slept = self.ours.run("DORMOUSE SLEEP");
            assert_eq!(slept, Reply::Line('+', "OK".into()), "seed {}, command {}", self.seed, self.commands);
        }
    }

    fn agree(&mut self, words: &Words, ours: &Reply, theirs: &Reply) -> bool {
        if *ours == Reply::Line('+', "QUEUED".into()) {
            self.queued.push(words.clone());
            return ours == theirs;
        }
        self.in_transaction |= words[0].eq_ignore_ascii_case(b"MULTI");
        let ends = [b"EXEC".as_slice(), b"DISCARD", b"RESET"].iter().any(|end| words[0].eq_ignore_ascii_case(end));
        self.in_transaction &= !ends;
        let queued = if ends { std::mem::take(&mut self.queued) } else { Vec::new() };
        match (ours.items(), theirs.items()) {
            (Some(ours), Some(theirs)) if !queued.is_empty() => {
                let mut pairs = queued.iter().zip(ours.iter().zip(theirs));
                let differs = pairs.find(|(words, (ours, theirs))| !self.rule(words, ours, theirs));
                if let Some((words, _)) = differs {
                    println!("in the transaction: {}", text(words));
                }
                differs.is_none() && ours.len() == queued.len() && theirs.len() == queued.len()
            }
            (Some(_), None) | (None, Some(_)) if !queued.is_empty() && self.watches_a_moment() => {
                self.diverged = true;
                true
            }
            _ => self.rule(words, ours, theirs),
        }
    }

    /// Whether a watched key lives for moments. It may expire before WATCH on one server, and after it on the other.
    fn watches_a_moment(&self) -> bool {
        let is = |words: &Words, name: &[u8]| words[0].eq_ignore_ascii_case(name);
        let mut latest = self.history.iter().rev().map(|(_, words, _)| words);
        let Some(watched) = latest.find(|words| is(words, b"WATCH")) else { return false };
        latest.take(BATCH_MAX).any(|words| lives_for_moments(words) && watched[1..].contains(&words[1]))
    }

    fn rule(&mut self, words: &Words, ours: &Reply, theirs: &Reply) -> bool {
        if compare::diverges(words, ours, theirs) {
            self.diverged = true;
            return true;
        }
        let encoding = words.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"ENCODING"));
        if self.sleeps && encoding && !ours.is_error() && !theirs.is_error() {
            return ours.bytes().is_some() == theirs.bytes().is_some();
        }
        compare::agree(self.peer, words, ours, theirs, self.apart)
    }

    fn ask(&mut self, words: &Words) -> (Reply, Reply) {
        let bytes = request(words);
        self.ours.write(&bytes).and_then(|()| self.theirs.write(&bytes)).expect("both servers read");
        self.replies(words)
    }

    fn replies(&mut self, words: &Words) -> (Reply, Reply) {
        let theirs = self.theirs.read().expect("the other server replies");
        match self.ours.read() {
            Ok(ours) => (ours, theirs),
            Err(problem) => self.fail(words, &format!("ours:   {problem}\ntheirs: {theirs:?}")),
        }
    }

    /// Sends a command on a connection of its own, in the initially selected database.
    fn elsewhere(&mut self, words: &Words) {
        if compare::is_left_out(self.peer, words, false) {
            return;
        }
        let (ours, theirs) = (Connection::open(self.ports.0).call(words), Connection::open(self.ports.1).call(words));
        if !compare::agree(self.peer, words, &ours, &theirs, self.apart) {
            self.mismatch(words, &ours, &theirs);
        }
        self.remember(words.clone(), ours);
    }

    /// Compares whole iterations. Each server's cursor is its own; the elements until the cursor is 0 again must be the
    /// same.
    fn iteration(&mut self, command: Words, cursor: usize) {
        let ours = follow(&mut self.ours, command.clone(), cursor);
        let theirs = follow(&mut self.theirs, command.clone(), cursor);
        if !compare::same_elements(&command, &ours, &theirs) {
            self.mismatch(&command, &ours, &theirs);
        }
        self.remember(command, ours);
    }

    /// Compares all data of the first databases, and continues in the first.
    fn inventory(&mut self) {
        for database in ["2", "1", "0"] {
            self.command(vec![b"SELECT".to_vec(), database.into()]);
            let keys = self.command(vec![b"KEYS".to_vec(), b"*".to_vec()]);
            self.size();
            for key in keys.items().unwrap_or_default().iter().filter_map(Reply::bytes) {
                let kind = self.command(vec![b"TYPE".to_vec(), key.to_vec()]);
                let read = match kind.bytes() {
                    Some(b"string") => "GET <key>",
                    Some(b"hash") => "HGETALL <key>",
                    Some(b"list") => "LRANGE <key> 0 -1",
                    Some(b"set") => "SMEMBERS <key>",
                    _ => "ZRANGE <key> 0 -1 WITHSCORES",
                };
                // Sleep packs shrunk values, as Redis does when it loads its file.
                let last = if self.sleeps { "EXPIRETIME <key>" } else { "OBJECT ENCODING <key>" };
                for form in [read, "PTTL <key>", last] {
                    let word = |word| if word == "<key>" { key.to_vec() } else { Vec::from(word) };
                    self.command(form.split(' ').map(word).collect());
                }
            }
        }
    }

    /// Compares DBSIZE. It counts expired keys until the server notices them, which each server does in its own time.
    fn size(&mut self) {
        let words = vec![b"DBSIZE".to_vec()];
        let equal = wait_for(Duration::from_secs(10), || {
            let (ours, theirs) = self.ask(&words);
            (ours == theirs).then_some(())
        });
        if equal.is_none() {
            self.command(words);
        }
    }

    fn remember(&mut self, words: Words, ours: Reply) {
        self.commands += 1;
        self.refused += usize::from(ours.is_error());
        self.history.push_back((self.commands, words, ours));
        if self.history.len() > 5000 {
            self.history.pop_front();
        }
    }

    fn mismatch(&self, words: &Words, ours: &Reply, theirs: &Reply) -> ! {
        self.fail(words, &format!("ours:   {ours:?}\ntheirs: {theirs:?}"))
    }

    fn fail(&self, words: &Words, replies: &str) -> ! {
        let keys: Vec<_> = words.iter().skip(1).filter(|word| is_key(word)).collect();
        let related = |words: &Words| {
            let everywhere = ["FLUSH", "SELECT", "SWAPDB", "MULTI", "EXEC", "DISCARD"];
            let name = String::from_utf8_lossy(&words[0]).to_ascii_uppercase();
            words.iter().any(|word| keys.contains(&word)) || everywhere.iter().any(|prefix| name.starts_with(prefix))
        };
        let mut before: Vec<_> = self.history.iter().rev().filter(|(_, words, _)| related(words)).take(15).collect();
        before.reverse();
        let before: String =
            before.iter().map(|(step, words, reply)| format!("  {step}: {} -> {reply:?}\n", text(words))).collect();
        panic!(
            "{}, seed {}, command {}: {}\n{replies}\nbefore, on these keys (our replies):\n{before}",
            self.peer.name(),
            self.seed,
            self.commands + 1,
            text(words)
        );
    }
}

/// Connects to our server and waits for replies, however slow the machine is.
fn connect_to_ours(seed: u64, port: u16) -> Connection {
    let mut connection = connect(seed, port);
    if Kind::under_test() == Kind::Dormouse {
        assert_eq!(connection.run("CONFIG SET reply-timeout never"), Reply::Line('+', "OK".into()));
    }
    connection
}

fn connect(seed: u64, port: u16) -> Connection {
    let mut connection = Connection::open(port);
    if seed % 2 == 1 {
        connection.run("HELLO 3");
    }
    connection
}

/// Whether a word is a key. Scripts name their keys by a letter and a digit.
fn is_key(word: &[u8]) -> bool {
    let word: Vec<u8> = word.iter().copied().filter(|byte| !b"{}".contains(byte)).collect();
    word == b"nokey" || (word.len() == 2 && b"shltzx".contains(&word[0]) && word[1].is_ascii_digit())
}

fn text(words: &Words) -> String {
    let mut text: Vec<_> = words.iter().take(40).map(|word| format!("\"{}\"", word.escape_ascii())).collect();
    if words.len() > 40 {
        text.push(format!("... ({} words)", words.len()));
    }
    text.join(" ")
}

/// Returns all elements that a SCAN command brings, sorted and deduplicated; or the first reply that is not a page.
fn follow(connection: &mut Connection, mut words: Words, cursor: usize) -> Reply {
    let width = if [b"HSCAN", b"ZSCAN"].iter().any(|name| words[0].eq_ignore_ascii_case(*name)) { 2 } else { 1 };
    let mut found: Vec<Vec<Reply>> = Vec::new();
    for _ in 0..100_000 {
        let reply = connection.call(&words);
        let Some([Reply::Bulk('$', Some(next)), Reply::Many('*', Some(page))]) = reply.items() else { return reply };
        found.extend(page.chunks(width).map(<[Reply]>::to_vec));
        if next == b"0" {
            found.sort();
            found.dedup();
            return Reply::Many('*', Some(found.concat()));
        }
        words[cursor] = next.clone();
    }
    panic!("the iteration does not end: {}", text(&words));
}
