//! The arguments of each subcommand, and of SORT: all words and pairs of words that it takes, and longer random lines.

use dormouse_client_tests::script::Random;

/// Lines of each length beyond two.
const DRAWN: usize = 150;

/// The data that the lines refer to.
const DATA: &[&str] = &[
    "FLUSHALL",
    "SET k v",
    "SET i 12",
    "SET long xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "HSET h f 1 g 2",
    "RPUSH l 3 1 2 10",
    "SADD s 3 1 2",
    "SADD t a b c",
    "ZADD z 1 3 2 1 3 2",
    "MSET w_1 5 w_2 4 w_3 7",
    "HSET w_10 f 9",
];

/// A command, its possible words, and the limit of their number. `""` is an empty word.
///
/// `CLIENT REPLY` is left out, since it ends the conversation. So are commands that kill these clients or let them time
/// out, and commands for which a server may lack memory.
const SPACE: &[(&str, &str, usize)] = &[
    ("COMMAND COUNT", "x", 2),
    ("COMMAND LIST", "FILTERBY MODULE ACLCAT PATTERN @read read geo* json nosuch xx", 4),
    ("COMMAND INFO", "get GET config|get config nosuch config|nosuch zadd \"\"", 3),
    ("COMMAND DOCS", "nosuch config|nosuch get|x \"\"", 3),
    (
        "COMMAND GETKEYS",
        "get set sort store zunion 2 a b memory usage object encoding limit 0 georadius copy config",
        5,
    ),
    ("COMMAND GETKEYSANDFLAGS", "get set sort store zunion 2 a b memory usage object bitfield 0 lmove copy config", 5),
    ("CLIENT LIST", "TYPE ID normal replica slave pubsub master foo 0 -1 99999999 x", 3),
    ("CLIENT KILL", "ID TYPE USER ADDR LADDR SKIPME MAXAGE 99999999 master replica nosuch 1.2.3.4:5 yes x 0 -1", 6),
    (
        "CLIENT LIST",
        "USER NOT-USER ID NOT-ID DB NOT-DB FLAGS NOT-FLAGS CAPA IP NAME NOT-NAME IDLE SKIPME default nosuch 0 99 x r P yes",
        4,
    ),
    ("COMMANDLOG LEN", "slow large-request LARGE-REPLY x \"\"", 2),
    ("COMMANDLOG GET", "0 1 -1 -2 x slow large-request large-reply nosuch", 2),
    ("CLIENT CAPA", "redirect foo \"\"", 2),
    ("HIMPORT DISCARD", "nosuch \"\"", 2),
    ("SCRIPT SHOW", "nosuch 0000000000000000000000000000000000000000 \"\"", 2),
    ("CLIENT SETNAME", "a \"\" x\\ty", 2),
    ("CLIENT SETINFO", "lib-name LIB-VER foo a \"\" x\\ty 1.0", 3),
    ("CLIENT NO-EVICT", "on OFF x", 2),
    ("CLIENT NO-TOUCH", "on OFF x", 2),
    ("CLIENT GETNAME", "x", 2),
    ("CLIENT GETREDIR", "x", 2),
    ("CLIENT TRACKINGINFO", "x", 2),
    ("OBJECT ENCODING", "k h l s t z i long nosuch", 2),
    ("OBJECT REFCOUNT", "k h nosuch", 2),
    ("OBJECT IDLETIME", "k h nosuch", 2),
    ("OBJECT FREQ", "k h nosuch", 2),
    ("MEMORY USAGE", "k l nosuch SAMPLES 0 5 -1 x", 4),
    ("SLOWLOG GET", "0 1 -1 -2 x 999999999999999999999", 2),
    ("LATENCY HISTORY", "command nosuch \"\"", 2),
    ("LATENCY RESET", "command nosuch \"\"", 3),
    ("LATENCY HISTOGRAM", "get nosuch config config|get client", 3),
    ("CONFIG GET", "maxmemory MAXMEMORY m?xmemory nosuch nosuch* [ hz timeout \"\"", 4),
    ("CONFIG SET", "maxmemory 0 100mb 1gb x maxmemory-policy noeviction allkeys-lru timeout -1 hz nosuch", 6),
    ("CONFIG SET", "slowlog-log-slower-than 10000 -1 -2 lazyfree-lazy-expire yes no x list-max-listpack-size -5", 4),
    ("PUBSUB CHANNELS", "* x [ \"\"", 2),
    ("PUBSUB NUMSUB", "a b \"\"", 4),
    ("PUBSUB NUMPAT", "x", 2),
    ("SORT", "l s t z k h nosuch ALPHA DESC ASC LIMIT 0 1 -1 x BY nosort w_* GET # w_*->f STORE d", 7),
    ("SORT_RO", "l s t z k nosuch ALPHA DESC LIMIT 0 2 BY nosort w_* GET # STORE", 7),
];

/// Returns the lines, and those that restore the settings.
pub fn lines() -> Vec<String> {
    let mut random = Random::new(1);
    let mut lines: Vec<String> = DATA.iter().map(|line| (*line).to_string()).collect();
    for (command, words, most) in SPACE {
        let words: Vec<&str> = words.split(' ').collect();
        lines.push((*command).to_string());
        for first in &words {
            lines.push(format!("{command} {first}"));
            lines.extend(words.iter().map(|second| format!("{command} {first} {second}")));
        }
        for length in 3..=*most {
            let mut draw = || {
                let drawn: Vec<&str> = (0..length).map(|_| *random.pick(&words)).collect();
                format!("{command} {}", drawn.join(" "))
            };
            lines.extend((0..DRAWN).map(|_| draw()));
        }
    }
    let back = "CONFIG SET maxmemory 0 maxmemory-policy noeviction timeout 0 hz 10 list-max-listpack-size -2 lazyfree-lazy-expire no \
                slowlog-log-slower-than 10000";
    lines.push(back.to_string());
    lines
}
