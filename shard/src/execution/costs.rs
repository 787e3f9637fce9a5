//! Tests that the costs in rows are true: counted in instructions, a request does no more than its cost allows.
//!
//! Each row has a sample or more. A sample runs over a small input and over one that is six hundred times as large: the
//! value of its key, the keyspace around it, and its own arguments where the line says so. The instructions that its
//! cost and its command take must be within [`INSTRUCTIONS_PER_UNIT`] for each unit of its cost. So a row without a
//! cost is verified to be constant beyond its words and its reply, and a new row without a sample fails.
//!
//! Time would depend on the machine. Valgrind counts the instructions; the test starts itself under it: each call of
//! [`measured`] is counted, and each call of [`note`] leaves the count in a file.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use dormouse_protocol::{OwnedRequest, Reply, Version};

use crate::commands::testing::Bench;
use crate::commands::{FAMILIES, Flags, Row, Run, call, find};
use crate::execution::budget::{self, BYTES_PER_ELEMENT, FREED_BYTES_PER_ELEMENT};
use crate::keyspace::Keyspace;

const SMALL: usize = 1;
/// More than the elements that are packed.
const LARGE: usize = 600 * SMALL;

/// For a build without optimisations, which takes about ten times as many as one with them.
const INSTRUCTIONS_PER_UNIT: u64 = 25_000;
/// Instructions that every command takes, a look into one node of a list or a tree included.
const INSTRUCTIONS_ANYWAY: u64 = 150_000;

/// Where Valgrind leaves its counts; set where the test runs under it.
const COUNTS: &str = "DORMOUSE_COUNTS";
/// The part of the samples that a process under Valgrind runs.
const PART: &str = "DORMOUSE_PART";
/// Set where all samples are run, which takes minutes, and not only one of so many.
const LONG: &str = "DORMOUSE_LONG";
const ONE_OF: usize = 6;
/// Processes that share the samples, since one alone takes minutes.
const PARTS: usize = 2;

/// A line with the kind of its keys `k` and `k2`. Words in braces stand for as many words as the input is large:
///
/// | word | what for |
/// | --- | --- |
/// | `{n}` | the number itself |
/// | `{old}`, `{new}` | members that exist, and that do not |
/// | `{fields}`, `{scores}`, `{places}` | members with a value, a score, a longitude and a latitude |
/// | `{keys}`, `{pairs}` | keys of the keyspace, alone and with a value |
/// | `{steps}` | steps of `BITFIELD` |
/// | `{ids}` | ids of entries |
/// | `{spread}` | indices of arrays, far from each other, with a number |
/// | `{digits}` | numbers of many digits |
/// | `{bytes}` | one word of 64 times as many bytes |
/// | `{class}` | a pattern that is one class |
/// | `{dump}` | the answer of `DUMP` for `k` |
/// | `{json}` | a document with so many members, and a list of so many values |
const SAMPLES: &[(&str, &str)] = &[
    ("GET k", "string"),
    ("SET k v", "string"),
    ("SET k v GET", "string"),
    ("SET k {bytes}", "string"),
    ("SETNX k v", "string"),
    ("SETEX k 10 v", "string"),
    ("PSETEX k 10 {bytes}", "string"),
    ("GETSET k v", "string"),
    ("GETDEL k", "string"),
    ("GETEX k EX 10", "string"),
    ("SET k v IFEQ {bytes}", "string"),
    ("SET k v IFDNE 0123456789abcdef", "string"),
    ("DIGEST k", "string"),
    ("DELEX k", "string"),
    ("DELEX k", "set"),
    ("DELEX k IFNE v", "string"),
    ("DELEX k IFNE {bytes}", "string"),
    ("DELEX k IFDNE 0123456789abcdef", "string"),
    ("DELIFEQ k v", "string"),
    ("INCREX k BYINT 5 UBOUND 10 EX 10", "integer"),
    ("INCREX k BYFLOAT 0.5 LBOUND 0 SATURATE", "integer"),
    ("INCREX k", "string"),
    ("INCR k", "integer"),
    ("INCR k", "string"),
    ("DECR k", "integer"),
    ("INCRBY k 5", "integer"),
    ("DECRBY k 5", "integer"),
    ("INCRBYFLOAT k 0.5", "integer"),
    ("INCRBYFLOAT k 0.5", "string"),
    ("APPEND k v", "string"),
    ("STRLEN k", "string"),
    ("SETRANGE k 1 v", "string"),
    ("SETRANGE k 256000 v", "string"),
    ("SETRANGE k 0 {bytes}", "string"),
    ("GETRANGE k 0 10", "string"),
    ("GETRANGE k 0 -1", "string"),
    ("SUBSTR k 0 -1", "string"),
    ("MGET k k", "string"),
    ("MGET {keys}", "none"),
    ("MSET {pairs}", "none"),
    ("MSETNX {pairs}", "none"),
    ("MSETEX {n} {pairs}", "none"),
    ("MSETEX {n} {pairs} NX EX 10", "none"),
    ("LCS k k2", "text"),
    ("SETBIT k 3 1", "string"),
    ("SETBIT none 1000000 1", "none"),
    ("GETBIT k 3", "string"),
    ("BITCOUNT k", "string"),
    ("BITPOS k 1 0", "string"),
    ("BITOP OR d k k2", "string"),
    ("BITFIELD k SET u8 0 1", "string"),
    ("BITFIELD k {steps}", "string"),
    ("BITFIELD_RO k {steps}", "string"),
    ("PFADD k {new}", "hll"),
    ("PFADD k {new}", "none"),
    ("PFCOUNT k", "hll"),
    ("PFCOUNT k k2", "hll"),
    ("PFMERGE d k k2", "hll"),
    ("PFDEBUG GETREG k", "hll"),
    ("DEL k", "set"),
    ("DEL k", "hash"),
    ("DEL k", "list"),
    ("DEL k", "string"),
    ("DEL {keys}", "none"),
    ("UNLINK k", "zset"),
    ("UNLINK {keys}", "none"),
    ("EXISTS {keys}", "none"),
    ("TYPE k", "set"),
    ("RENAME k d", "set"),
    ("RENAME k d", "string"),
    ("RENAME k d", "zset"),
    ("RENAMENX k d", "hash"),
    ("RENAMENX k d", "list"),
    ("COPY k d", "set"),
    ("COPY k d", "hash"),
    ("COPY k d", "string"),
    ("COPY k d REPLACE DB 2", "list"),
    ("MOVE k 1", "set"),
    ("MOVE k 1", "string"),
    ("TOUCH {keys}", "none"),
    ("RANDOMKEY", "none"),
    ("SCAN 0", "none"),
    ("SCAN 0 COUNT {n}", "none"),
    ("SCAN 0 COUNT {n} MATCH *{class}x", "none"),
    ("SCAN 0 COUNT {n} TYPE string", "none"),
    ("OBJECT ENCODING k", "set"),
    ("OBJECT REFCOUNT k", "set"),
    ("OBJECT IDLETIME k", "set"),
    ("OBJECT FREQ k", "set"),
    ("DUMP k", "set"),
    ("DUMP k", "hash"),
    ("DUMP k", "list"),
    ("DUMP k", "zset"),
    ("DUMP k", "string"),
    ("RESTORE d 0 {dump}", "set"),
    ("RESTORE d 0 {dump}", "zset"),
    ("RESTORE d 0 {dump}", "string"),
    ("RESTORE-ASKING d 0 {dump}", "set"),
    ("EXPIRE k 10", "set"),
    ("EXPIRE k -1", "set"),
    ("PEXPIRE k 10", "string"),
    ("EXPIREAT k 10", "list"),
    ("PEXPIREAT k 10", "hash"),
    ("TTL k", "set"),
    ("PTTL k", "string"),
    ("EXPIRETIME k", "set"),
    ("PEXPIRETIME k", "set"),
    ("PERSIST k", "set"),
    ("DBSIZE", "none"),
    ("SWAPDB 0 1", "none"),
    ("FLUSHDB", "none"),
    ("FLUSHALL", "none"),
    ("MEMORY USAGE k", "set"),
    ("MEMORY USAGE k SAMPLES 0", "list"),
    ("MEMORY USAGE k SAMPLES 0", "hash"),
    ("MEMORY USAGE k SAMPLES 0", "zset"),
    ("HSET k m1 v", "hash"),
    ("HSET k {fields}", "hash"),
    ("HSET d {fields}", "none"),
    ("HMSET k {fields}", "hash"),
    ("HSETNX k f v", "hash"),
    ("HGET k m1", "hash"),
    ("HMGET k {old}", "hash"),
    ("HGETALL k", "hash"),
    ("HDEL k m1", "hash"),
    ("HDEL k {old}", "hash"),
    ("HEXISTS k m1", "hash"),
    ("HLEN k", "hash"),
    ("HSTRLEN k m1", "hash"),
    ("HKEYS k", "hash"),
    ("HVALS k", "hash"),
    ("HINCRBY k new 1", "hash"),
    ("HINCRBYFLOAT k new 1", "hash"),
    ("HRANDFIELD k", "hash"),
    ("HRANDFIELD k {n} WITHVALUES", "hash"),
    ("HRANDFIELD k -{n}", "hash"),
    ("HSCAN k 0", "hash"),
    ("HSCAN k 0 COUNT {n} MATCH *{class}x", "hash"),
    ("HEXPIRE k 10 FIELDS 1 m1", "hash"),
    ("HEXPIRE k 10 FIELDS {n} {old}", "hash"),
    ("HEXPIRE k 0 FIELDS {n} {old}", "hash"),
    ("HPEXPIRE k 10 FIELDS 1 m1", "timed"),
    ("HPEXPIRE k 10 FIELDS {n} {old}", "timed"),
    ("HEXPIREAT k 10 FIELDS 1 m1", "timed"),
    ("HPEXPIREAT k 10 FIELDS {n} {old}", "timed"),
    ("HPERSIST k FIELDS 1 m1", "timed"),
    ("HPERSIST k FIELDS {n} {old}", "timed"),
    ("HTTL k FIELDS {n} {old}", "timed"),
    ("HPTTL k FIELDS 1 m1", "timed"),
    ("HEXPIRETIME k FIELDS {n} {old}", "timed"),
    ("HPEXPIRETIME k FIELDS 1 m1", "timed"),
    ("HGETEX k EX 10 FIELDS 1 m1", "timed"),
    ("HGETEX k EX 10 FIELDS {n} {old}", "hash"),
    ("HSETEX k EX 10 FIELDS 1 m1 v", "timed"),
    ("HSETEX k EX 10 FIELDS {n} {fields}", "hash"),
    ("HSETEX d EX 10 FIELDS {n} {fields}", "none"),
    ("HSETEX k FNX FIELDS 1 new v", "timed"),
    ("HGETDEL k FIELDS 1 m1", "timed"),
    ("HGETDEL k FIELDS {n} {old}", "timed"),
    ("HSET k m1 v", "timed"),
    ("HDEL k m1", "timed"),
    ("HGETALL k", "stale"),
    ("HRANDFIELD k", "stale"),
    ("HRANDFIELD k -{n}", "stale"),
    ("HGET k m1", "stale"),
    ("HMGET k {old}", "stale"),
    ("HSCAN k 0", "stale"),
    ("DUMP k", "timed"),
    ("COPY k d", "timed"),
    ("LPUSH k v", "list"),
    ("LPUSH k {new}", "list"),
    ("RPUSH k {new}", "list"),
    ("RPUSH k {bytes}", "list"),
    ("LPUSHX k {new}", "list"),
    ("RPUSHX k {new}", "list"),
    ("LPOP k", "list"),
    ("LPOP k {n}", "list"),
    ("RPOP k", "list"),
    ("RPOP k {n}", "list"),
    ("LLEN k", "list"),
    ("LINDEX k 2", "list"),
    ("LINDEX k {middle}", "list"),
    ("LSET k {middle} v", "list"),
    ("LRANGE k {middle} {middle}", "list"),
    ("LRANGE k 0 -1", "list"),
    ("LINSERT k BEFORE {middle-member} v", "list"),
    ("LREM k 0 m1", "list"),
    ("LREM k -1 m1", "list"),
    ("LTRIM k 1 1", "list"),
    ("LTRIM k 1 -2", "list"),
    ("LTRIM k 2 1", "list"),
    ("LPOS k none", "list"),
    ("LMOVE k k2 LEFT RIGHT", "list"),
    ("LMOVEM k k2 LEFT RIGHT", "list"),
    ("LMOVEM k k2 LEFT LEFT COUNT {n} OBO", "list"),
    ("LMOVEM k k2 RIGHT RIGHT EXACTLY {half} BULK", "list"),
    ("LMOVEM k d LEFT RIGHT COUNT {n} BULK", "list"),
    ("LMOVEM k k LEFT LEFT COUNT {half} OBO", "list"),
    ("RPOPLPUSH k k2", "list"),
    ("LMPOP 2 none k LEFT COUNT {n}", "list"),
    ("LMPOP 1 k LEFT", "list"),
    ("BLPOP none k 0", "list"),
    ("BRPOP k 0", "list"),
    ("BLMOVE k k2 LEFT RIGHT 0", "list"),
    ("BRPOPLPUSH k k2 0", "list"),
    ("BLMOVEM k k2 LEFT RIGHT 0", "list"),
    ("BLMOVEM k k2 RIGHT LEFT 0 COUNT {n} OBO", "list"),
    ("BLMPOP 0 2 none k LEFT COUNT {n}", "list"),
    ("SADD k new", "set"),
    ("SADD k {new}", "set"),
    ("SADD d {new}", "none"),
    ("SREM k m1", "set"),
    ("SREM k {old}", "set"),
    ("SMEMBERS k", "set"),
    ("SISMEMBER k m1", "set"),
    ("SMISMEMBER k {old}", "set"),
    ("SCARD k", "set"),
    ("SPOP k", "set"),
    ("SPOP k {n}", "set"),
    ("SPOP k {half}", "set"),
    ("SRANDMEMBER k", "set"),
    ("SRANDMEMBER k {half}", "set"),
    ("SRANDMEMBER k -{n}", "set"),
    ("SMOVE k k2 m1", "set"),
    ("SINTER k k2", "set"),
    ("SINTERSTORE d k k2", "set"),
    ("SINTERCARD 2 k k2", "set"),
    ("SUNION k k2", "set"),
    ("SUNIONSTORE d k k2", "set"),
    ("SDIFF k none", "set"),
    ("SDIFFSTORE d k none", "set"),
    ("SUNIONCARD 2 k k2", "set"),
    ("SDIFFCARD 2 k none", "set"),
    ("SDIFFCARD 2 k k2", "set"),
    ("SSCAN k 0", "set"),
    ("SSCAN k 0 COUNT {n} MATCH *{class}x", "set"),
    ("SSCAN k 0 COUNT {n} MATCH {class}x", "set"),
    ("ZADD k 5 new", "zset"),
    ("ZADD k {scores}", "zset"),
    ("ZADD d {scores}", "none"),
    ("ZINCRBY k 5 m1", "zset"),
    ("ZREM k m1", "zset"),
    ("ZREM k {old}", "zset"),
    ("ZCARD k", "zset"),
    ("ZSCORE k m1", "zset"),
    ("ZMSCORE k {old}", "zset"),
    ("ZRANK k m3", "zset"),
    ("ZREVRANK k m3 WITHSCORE", "zset"),
    ("ZPOPMIN k", "zset"),
    ("ZPOPMIN k {n}", "zset"),
    ("ZPOPMAX k {half}", "zset"),
    ("ZMPOP 1 k MIN", "zset"),
    ("BZPOPMIN none k 0", "zset"),
    ("BZPOPMAX k 0", "zset"),
    ("BZMPOP 0 2 none k MAX COUNT {n}", "zset"),
    ("ZMPOP 2 none k MAX COUNT {n}", "zset"),
    ("ZRANDMEMBER k", "zset"),
    ("ZRANDMEMBER k {half} WITHSCORES", "zset"),
    ("ZRANDMEMBER k -{n}", "zset"),
    ("ZSCAN k 0", "zset"),
    ("ZSCAN k 0 COUNT {n} MATCH *{class}x", "zset"),
    ("ZRANGE k 0 -1", "zset"),
    ("ZRANGE k {middle} {middle}", "zset"),
    ("ZRANGE k 1 2 BYSCORE LIMIT 0 1", "zset"),
    ("ZRANGESTORE d k 0 -1", "zset"),
    ("ZREVRANGE k 0 -1 WITHSCORES", "zset"),
    ("ZRANGEBYSCORE k -inf +inf LIMIT {middle} 1", "zset"),
    ("ZRANGEBYSCORE k -inf +inf", "zset"),
    ("ZREVRANGEBYSCORE k +inf -inf", "zset"),
    ("ZRANGEBYLEX k - +", "zset"),
    ("ZREVRANGEBYLEX k + -", "zset"),
    ("ZCOUNT k -inf +inf", "zset"),
    ("ZLEXCOUNT k - +", "zset"),
    ("ZREMRANGEBYRANK k 1 1", "zset"),
    ("ZREMRANGEBYRANK k 1 -1", "zset"),
    ("ZREMRANGEBYSCORE k 1 +inf", "zset"),
    ("ZREMRANGEBYLEX k - +", "zset"),
    ("ZUNION 2 k k2", "zset"),
    ("ZINTER 2 k k2", "zset"),
    ("ZDIFF 2 k none", "zset"),
    ("ZUNIONSTORE d 2 k k2", "zset"),
    ("ZINTERSTORE d 2 k k2", "zset"),
    ("ZDIFFSTORE d 2 k none", "zset"),
    ("ZINTERCARD 2 k k2", "zset"),
    ("ZUNION 2 k k2 AGGREGATE COUNT", "zset"),
    ("GEOADD k {places}", "geo"),
    ("GEOADD d {places}", "none"),
    ("GEODIST k m1 m2", "geo"),
    ("GEOHASH k {old}", "geo"),
    ("GEOPOS k {old}", "geo"),
    ("GEOSEARCH k FROMLONLAT 15 37 BYRADIUS 20000 km", "geo"),
    ("GEOSEARCHSTORE d k FROMLONLAT 15 37 BYRADIUS 20000 km", "geo"),
    ("GEOSEARCH k BYPOLYGON 4 -179 -80 179 -80 179 80 -179 80", "geo"),
    ("GEOSEARCHSTORE d k BYPOLYGON 4 -179 -80 179 -80 179 80 -179 80 STOREDIST", "geo"),
    ("GEORADIUS k 15 37 20000 km", "geo"),
    ("GEORADIUS_RO k 15 37 20000 km WITHDIST", "geo"),
    ("GEORADIUSBYMEMBER k m1 20000 km", "geo"),
    ("GEORADIUSBYMEMBER_RO k m1 20000 km", "geo"),
    ("XADD k * f v", "stream"),
    ("XADD k * {fields}", "stream"),
    ("XADD k * f {bytes}", "stream"),
    ("XADD k MAXLEN 1 * f v", "stream"),
    ("XADD k MAXLEN ~ 1 * f v", "stream"),
    ("XADD k MINID 9999 9999 f v", "stream"),
    ("XLEN k", "stream"),
    ("XRANGE k - +", "stream"),
    ("XRANGE k {middle} {middle}", "stream"),
    ("XRANGE k - + COUNT 1", "stream"),
    ("XREVRANGE k + -", "stream"),
    ("XREVRANGE k + - COUNT 1", "stream"),
    ("XDEL k {middle}", "stream"),
    ("XDEL k {ids}", "stream"),
    ("XTRIM k MAXLEN 1", "stream"),
    ("XTRIM k MINID {middle}", "stream"),
    ("XSETID k 99999", "stream"),
    ("XREAD STREAMS k 0", "stream"),
    ("XREAD STREAMS k $", "stream"),
    ("XREAD STREAMS k {middle}", "stream"),
    ("XREAD COUNT 1 STREAMS k none 0 0", "stream"),
    ("XRANGE k 1 1", "groups"),
    ("XREAD STREAMS k 0", "groups"),
    ("XINFO STREAM k FULL", "groups"),
    ("XGROUP CREATE k a $", "groups"),
    ("XGROUP DESTROY k group0", "groups"),
    ("XDEL k {middle}", "long-stream"),
    ("XTRIM k MINID {middle}", "long-stream"),
    ("XSETID k 99999", "long-stream"),
    ("XREAD STREAMS k $", "long-stream"),
    ("XRANGE k {middle} {middle}", "long-stream"),
    ("XREADGROUP GROUP read c STREAMS k >", "long-stream"),
    ("XCLAIM k read d 0 1 JUSTID", "long-stream"),
    ("XAUTOCLAIM k read d 0 0 JUSTID", "long-stream"),
    ("XINFO STREAM k", "long-stream"),
    ("XREADGROUP GROUP unread c STREAMS k >", "stream"),
    ("XREADGROUP GROUP unread c COUNT 1 STREAMS k >", "stream"),
    ("XREADGROUP GROUP read c STREAMS k >", "stream"),
    ("XREADGROUP GROUP read c STREAMS k 0", "stream"),
    ("XADD k IDMP p new * f v", "messages"),
    ("XADD k IDMP p m1 * f v", "messages"),
    ("XADD k IDMP new m * f v", "messages"),
    ("XADD k IDMPAUTO p * {fields}", "messages"),
    ("XADD k ACKED MAXLEN 1 * f v", "stream"),
    ("XADD k DELREF MAXLEN 1 * f v", "stream"),
    ("XTRIM k MAXLEN 1 ACKED", "stream"),
    ("XTRIM k MAXLEN ~ 1 DELREF", "stream"),
    ("XTRIM k MINID 1 ACKED", "groups"),
    ("XCFGSET k IDMP-MAXSIZE 7", "messages"),
    ("XIDMPRECORD k p new 1700000000001-0", "messages"),
    ("XDELEX k IDS {n} {ids}", "stream"),
    ("XDELEX k DELREF IDS {n} {ids}", "stream"),
    ("XDELEX k ACKED IDS 1 1", "groups"),
    ("XACKDEL k read IDS {n} {ids}", "stream"),
    ("XACKDEL k group0 DELREF IDS 1 1", "groups"),
    ("XNACK k read FAIL IDS 1 {middle}", "stream"),
    ("XNACK k read SILENT IDS {n} {ids}", "stream"),
    ("XNACK k unread FAIL FORCE IDS {n} {ids}", "stream"),
    ("XREADGROUP GROUP read d CLAIM 0 STREAMS k >", "stream"),
    ("XREADGROUP GROUP read d CLAIM 0 COUNT 1 STREAMS k >", "stream"),
    ("XREADGROUP GROUP read d CLAIM 99999 STREAMS k >", "stream"),
    ("XREADGROUP GROUP unread d CLAIM 0 MAXCOUNT 1 STREAMS k >", "stream"),
    ("XREAD MAXCOUNT 1 STREAMS k 0", "stream"),
    ("XINFO STREAM k", "messages"),
    ("DEL k", "messages"),
    ("COPY k d", "messages"),
    ("DUMP k", "messages"),
    ("RESTORE d 0 {dump}", "messages"),
    ("XGROUP CREATE k new $", "stream"),
    ("XGROUP SETID k read 0", "stream"),
    ("XGROUP DESTROY k read", "stream"),
    ("XGROUP CREATECONSUMER k read new", "stream"),
    ("XGROUP DELCONSUMER k read c", "stream"),
    ("XACK k read {middle}", "stream"),
    ("XACK k read {ids}", "stream"),
    ("XPENDING k read", "stream"),
    ("XPENDING k read - + {n}", "stream"),
    ("XPENDING k read IDLE 99999 - + 1", "stream"),
    ("XCLAIM k read d 0 {middle}", "stream"),
    ("XCLAIM k read d 0 {ids}", "stream"),
    ("XCLAIM k unread d 0 {ids} FORCE", "stream"),
    ("XAUTOCLAIM k read d 0 0", "stream"),
    ("XAUTOCLAIM k read d 0 0 COUNT {n}", "stream"),
    ("XINFO STREAM k", "stream"),
    ("XINFO STREAM k FULL", "stream"),
    ("XINFO STREAM k FULL COUNT 0", "stream"),
    ("XINFO GROUPS k", "stream"),
    ("XINFO CONSUMERS k read", "stream"),
    ("BF.RESERVE d 0.01 {n}000", "none"),
    ("BF.ADD k new", "bloom"),
    ("BF.ADD d new", "none"),
    ("BF.MADD k {new}", "bloom"),
    ("BF.MADD d {new}", "none"),
    ("BF.INSERT k ITEMS {new}", "bloom"),
    ("BF.INSERT d CAPACITY {n}000 ITEMS {new}", "none"),
    ("BF.EXISTS k m1", "bloom"),
    ("BF.MEXISTS k {old}", "bloom"),
    ("BF.CARD k", "bloom"),
    ("BF.INFO k", "bloom"),
    ("BF.INFO k CAPACITY", "bloom"),
    ("BF.SCANDUMP k 0", "bloom"),
    ("BF.SCANDUMP k 1", "bloom"),
    ("BF.LOADCHUNK k 2 a", "bloom"),
    ("BF.EXISTS k m1", "links"),
    ("BF.ADD k new", "links"),
    ("BF.INFO k", "links"),
    ("BF.SCANDUMP k 0", "links"),
    ("CF.RESERVE d {n}000", "none"),
    ("CF.ADD k new", "cuckoo"),
    ("CF.ADDNX k new", "cuckoo"),
    ("CF.ADD d new", "none"),
    ("CF.INSERT k ITEMS {new}", "cuckoo"),
    ("CF.INSERTNX k ITEMS {new}", "cuckoo"),
    ("CF.INSERT d CAPACITY {n}000 ITEMS {new}", "none"),
    ("CF.EXISTS k m1", "cuckoo"),
    ("CF.MEXISTS k {old}", "cuckoo"),
    ("CF.COUNT k m1", "cuckoo"),
    ("CF.DEL k m1", "cuckoo"),
    ("CF.DEL k m1", "layers"),
    ("CF.ADD k new", "layers"),
    ("CF.INFO k", "cuckoo"),
    ("CF.SCANDUMP k 0", "cuckoo"),
    ("CF.SCANDUMP k 1", "cuckoo"),
    ("CF.LOADCHUNK k 3 a", "cuckoo"),
    ("COPY k d", "bloom"),
    ("DUMP k", "bloom"),
    ("RESTORE d 0 {dump}", "bloom"),
    ("DEL k", "bloom"),
    ("COPY k d", "cuckoo"),
    ("DUMP k", "cuckoo"),
    ("RESTORE d 0 {dump}", "cuckoo"),
    ("DEL k", "stream"),
    ("COPY k d", "stream"),
    ("DUMP k", "stream"),
    ("RESTORE d 0 {dump}", "stream"),
    ("ARSET k 0 v", "array"),
    ("ARSET k 0 {new}", "array"),
    ("ARSET d 0 {new}", "none"),
    ("ARSET k 0 {bytes}", "array"),
    ("ARMSET k {spread}", "array"),
    ("ARMSET d {spread}", "none"),
    ("ARGET k {middle}", "array"),
    ("ARMGET k {ids}", "array"),
    ("ARGETRANGE k 0 {n}", "array"),
    ("ARGETRANGE k 0 {n}", "long-array"),
    ("ARGETRANGE none 0 {n}", "none"),
    ("ARDEL k {ids}", "array"),
    ("ARDELRANGE k 0 {n}", "array"),
    ("ARDELRANGE k 0 18446744073709551614", "far-array"),
    ("ARLEN k", "far-array"),
    ("ARCOUNT k", "far-array"),
    ("ARINSERT k {new}", "array"),
    ("ARNEXT k", "array"),
    ("ARSEEK k 5", "array"),
    ("ARRING k {n} v", "array"),
    ("ARRING k {half} v", "array"),
    ("ARLASTITEMS k {n}", "array"),
    ("ARLASTITEMS k {n}", "long-array"),
    ("ARSCAN k 0 {n}", "array"),
    ("ARSCAN k 0 18446744073709551614", "far-array"),
    ("ARSCAN k 0 18446744073709551614 LIMIT 1", "far-array"),
    ("ARGREP k - + MATCH m1 EXACT m2 GLOB *m1", "array"),
    ("ARGREP k - + MATCH m1 NOCASE", "long-array"),
    ("ARGREP k - + GLOB *{class}x", "array"),
    ("ARGREP k - + RE ^m1.*", "array"),
    ("AROP k 0 {n} SUM", "array"),
    ("AROP k 0 18446744073709551614 SUM", "far-array"),
    ("AROP k 0 {n} MATCH v", "long-array"),
    ("AROP k 0 {n} MAX", "digits"),
    ("ARINFO k FULL", "far-array"),
    ("DEL k", "far-array"),
    ("COPY k d", "array"),
    ("COPY k d", "far-array"),
    ("DUMP k", "far-array"),
    ("DUMP k", "long-array"),
    ("RESTORE d 0 {dump}", "array"),
    ("RESTORE d 0 {dump}", "far-array"),
    ("JSON.SET k $ {json}", "json"),
    ("JSON.SET d $ {json}", "none"),
    ("JSON.SET k $.m0.n 5", "json"),
    ("JSON.SET k $.list[-1] 500", "json"),
    ("JSON.SET k $..n {bytes-string}", "json"),
    ("JSON.SET k $.new 5", "json"),
    ("JSON.GET k", "json"),
    ("JSON.GET k $", "json"),
    ("JSON.GET k $..n", "json"),
    ("JSON.GET k $.last", "json"),
    ("JSON.GET k INDENT _ NEWLINE _ SPACE _", "json"),
    ("JSON.GET k $.list[?(@>1)]", "json"),
    ("JSON.GET k $..[?(@.n>1)]", "json"),
    ("JSON.GET k $[?(@.s=~'1$')].n", "json"),
    ("JSON.GET k $[?(@.n==$.last)]", "json"),
    ("JSON.GET k $..*..*", "json"),
    ("JSON.GET k $[?(@['n']in$.list)].n", "json"),
    ("JSON.GET k $[?@subsetof$.list]", "json"),
    ("JSON.GET k $[?search(@.s,'1$')].n", "json"),
    ("JSON.GET k $.list.append($)", "json"),
    ("JSON.GET k stddev($.list)", "json"),
    ("JSON.GET k $~", "json"),
    ("JSON.MGET k k k $.last", "json"),
    ("JSON.MSET k $.last 5 d $ {json}", "json"),
    ("JSON.MERGE k $ {json}", "json"),
    ("JSON.MERGE k $.* {\"x\":1}", "json"),
    ("JSON.DEL k", "json"),
    ("JSON.DEL k $..n", "json"),
    ("JSON.DEL k $.m0", "json"),
    ("JSON.FORGET k $.last", "json"),
    ("JSON.TYPE k $.*", "json"),
    ("JSON.NUMINCRBY k $..n 1000", "json"),
    ("JSON.NUMINCRBY k $.last 1", "json"),
    ("JSON.NUMMULTBY k $.last 2", "json"),
    ("JSON.NUMPOWBY k $.list[*] 2", "json"),
    ("JSON.TOGGLE k $..t", "json"),
    ("JSON.STRAPPEND k $..s \"x\"", "json"),
    ("JSON.STRLEN k $..s", "json"),
    ("JSON.ARRAPPEND k $.list 5", "json"),
    ("JSON.ARRAPPEND k $..list {json}", "json"),
    ("JSON.ARRINDEX k $.list null", "json"),
    ("JSON.ARRINSERT k $.list 0 5", "json"),
    ("JSON.ARRLEN k $..list", "json"),
    ("JSON.ARRPOP k $.list 0", "json"),
    ("JSON.ARRTRIM k $.list 1 -2", "json"),
    ("JSON.OBJKEYS k $", "json"),
    ("JSON.OBJLEN k $..*", "json"),
    ("JSON.CLEAR k $..*", "json"),
    ("JSON.RESP k", "json"),
    ("JSON.RESP k $..*.count()", "json"),
    ("JSON.DEBUG MEMORY k $..*", "json"),
    ("DUMP k", "json"),
    ("RESTORE d 0 {dump}", "json"),
    ("COPY k d", "json"),
    ("DEL k", "json"),
    ("VADD k VALUES 2 1 3 new M 4 NOQUANT", "vectors"),
    ("VADD k VALUES 2 1 3 m1 M 4 NOQUANT", "vectors"),
    ("VADD d FP32 {bytes} new", "none"),
    ("VADD d REDUCE 2 FP32 {bytes} new", "none"),
    ("VREM k m1", "vectors"),
    ("VSIM k ELE m1", "vectors"),
    ("VSIM k ELE m1 EF {n}", "vectors"),
    ("VSIM k VALUES 2 1 3 TRUTH WITHSCORES", "vectors"),
    ("VSIM k ELE m1 FILTER .x>1andnot(.x==5)", "vectors"),
    ("VDIM k", "vectors"),
    ("VCARD k", "vectors"),
    ("VEMB k m1", "vectors"),
    ("VLINKS k m1 WITHSCORES", "vectors"),
    ("VSETATTR k m1 {bytes}", "vectors"),
    ("VGETATTR k m1", "vectors"),
    ("VINFO k", "vectors"),
    ("VRANDMEMBER k", "vectors"),
    ("VRANDMEMBER k {half}", "vectors"),
    ("VRANDMEMBER k -{n}", "vectors"),
    ("VISMEMBER k m1", "vectors"),
    ("VRANGE k - +", "vectors"),
    ("DEL k", "vectors"),
    ("COPY k d", "vectors"),
    ("DUMP k", "vectors"),
    ("RESTORE d 0 {dump}", "vectors"),
];

/// Collections may be tried twice: with many elements, and with few that are long.
const COLLECTIONS: [&str; 4] = ["list", "set", "hash", "zset"];

/// Commands that add members enlarge a table now and then, and rehash its members. All additions share that cost, so it
/// is not counted where a few long members come before many short ones.
const AMORTIZED: [&str; 5] = ["SADD", "HSET", "HSETEX", "HMSET", "ZADD"];

#[test]
fn every_row_has_a_sample() {
    let is_sampled =
        |name: &str| SAMPLES.iter().any(|(line, _)| *line == name || line.starts_with(&format!("{name} ")));
    for command in FAMILIES.iter().flat_map(|family| family.commands) {
        let subcommands = command.subcommands.iter().map(|sub| (format!("{} {}", command.row.name, sub.row.name), sub));
        for (name, command) in subcommands.chain([(command.row.name.to_owned(), command)]) {
            // The cost of a script is that of its calls; without a bound it runs on the lane.
            let is_script = command.row.strays.is_some();
            let is_long = command.run.is_none() || is_script || command.row.flags.contains(Flags::SLOW_LANE);
            // HELP is a text of constant length.
            let is_known = is_long || command.row.name == "HELP" || is_sampled(&name);
            assert!(is_known, "{name} has no sample: its cost is not verified");
        }
    }
}

#[test]
fn a_request_does_no_more_than_its_cost_allows() {
    let part = std::env::var(PART).ok().and_then(|part| part.parse().ok());
    match std::env::var_os(COUNTS).zip(part) {
        Some((counts, part)) => measure_part(Path::new(&counts), part),
        None => run_under_valgrind(),
    }
}

fn run_under_valgrind() {
    if Process::new("valgrind").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "the cost of commands was NOT tested: `valgrind` is missing");
        println!("the cost of commands was NOT tested: `valgrind` is missing");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let start = |part: usize| {
        let counts = folder.path().join(format!("part-{part}"));
        let mut valgrind = Process::new("valgrind");
        valgrind.args(["--quiet", "--tool=callgrind", "--toggle-collect=*execution::costs::measured*"]);
        valgrind.args(["--dump-before=*execution::costs::note*", "--combine-dumps=no"]);
        valgrind.arg(format!("--callgrind-out-file={}", counts.display()));
        valgrind.arg(std::env::current_exe().expect("this test"));
        valgrind.args(["--exact", "--nocapture", "--test-threads=1"]);
        valgrind.arg("execution::costs::a_request_does_no_more_than_its_cost_allows");
        valgrind.env(COUNTS, &counts).env(PART, part.to_string());
        let running = valgrind.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("valgrind runs");
        (counts, running)
    };
    let running: Vec<_> = (0..PARTS).map(start).collect();
    for (counts, running) in running {
        let output = running.wait_with_output().expect("valgrind ends");
        if !counts.with_extension("1").exists() && std::env::var_os("CI").is_none() {
            println!("the cost of commands was NOT tested: the test has no symbols for valgrind");
            continue;
        }
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}\n{stderr}");
    }
}

/// Cost and instructions of one run of a sample.
#[derive(Debug, Clone, Copy)]
struct Taken {
    instructions: u64,
    cost: usize,
}

/// Measures every sample whose number leaves `part` when it is divided by [`PARTS`].
fn measure_part(counts: &Path, part: usize) {
    let mut benches = [filled(SMALL), filled(LARGE)];
    let (mut failures, mut table, mut noted) = (String::new(), String::new(), 0);
    let is_long = std::env::var_os(LONG).is_some();
    let chosen = SAMPLES.iter().step_by(if is_long { 1 } else { ONE_OF });
    for (line, kind) in chosen.skip(part).step_by(PARTS) {
        let is_amortized = AMORTIZED.iter().any(|name| line.starts_with(&format!("{name} ")));
        let wide = (is_long && COLLECTIONS.contains(kind) && !is_amortized).then(|| format!("wide-{kind}"));
        for kind in std::iter::once((*kind).to_owned()).chain(wide) {
            let [small, large] = [SMALL, LARGE].map(|size| {
                noted += 1;
                let count = counts.with_extension(noted.to_string());
                match line.starts_with("FLUSH") || line.starts_with("SWAPDB") {
                    // They would lose the values of every kind, which take a minute to make.
                    true => run(&mut filled_with_keys(size), line, &kind, size, &count),
                    false => run(&mut benches[usize::from(size == LARGE)], line, &kind, size, &count),
                }
            });
            let allowed = |taken: Taken| INSTRUCTIONS_ANYWAY + INSTRUCTIONS_PER_UNIT * taken.cost as u64;
            let shown = format!("{line} ({kind}): {small:?}, {large:?}\n");
            table += &shown;
            if [small, large].into_iter().any(|taken| taken.instructions > allowed(taken)) {
                failures += &shown;
            }
        }
    }
    println!("{table}");
    assert!(failures.is_empty(), "these do more than their cost allows:\n{failures}");
}

/// A keyspace of `size` keys.
fn filled_with_keys(size: usize) -> Bench {
    let mut bench = Bench::new();
    run_all(&mut bench, &["MSET {pairs}"], size);
    bench
}

/// A keyspace of `size` keys, with a value of `size` elements of each kind.
fn filled(size: usize) -> Bench {
    let mut bench = filled_with_keys(size);
    let lines = [
        "SET string {bytes}",
        "SET text {text}",
        "SET integer 17",
        "RPUSH list {old}",
        "SADD set {old}",
        "HSET hash {fields}",
        "HSETEX timed EX 1000 FIELDS {n} {fields}",
        "HSETEX stale PX 1 FIELDS {n} {fields}",
        "ZADD zset {scores}",
        "GEOADD geo {places}",
        "PFADD hll {old}",
        "BF.MADD bloom {old}",
        "BF.RESERVE links 0.01 1 EXPANSION 1",
        "CF.INSERT cuckoo CAPACITY {n}00 ITEMS {old}",
        "CF.RESERVE layers 4 BUCKETSIZE 2 EXPANSION 1",
        "JSON.SET json $ {json}",
        "RPUSH wide-list {bytes} {bytes}1 {bytes}2 m1",
        "SADD wide-set {bytes} {bytes}1 {bytes}2 m1",
        "HSET wide-hash {bytes} {bytes} m1 {bytes} m2 m2",
        "ZADD wide-zset 1 {bytes} 2 {bytes}2 3 m1 3 m3",
        "ARSET array 0 {old}",
        "ARMSET far-array {spread}",
        "ARSET long-array 0 {bytes} {bytes}1 v {bytes}2",
        "ARSET digits 0 {digits}",
    ];
    run_all(&mut bench, &lines, size);
    // Many sub-filters. After the next deletion the items of all layers move.
    for n in 0..size.min(100) {
        bench.run(&format!("BF.ADD links {n}"));
        bench.run(&format!("CF.ADD layers m{}", n % 8));
    }
    (0..9).for_each(|_| drop(bench.run("CF.DEL layers m0")));
    bench.now_ms += 1;
    for n in 1..=size {
        bench.run(&format!("XADD stream {n} field value:{n}"));
    }
    // A producer with many messages, and many producers with one.
    bench.run("XADD messages * f v");
    bench.run("XCFGSET messages IDMP-MAXSIZE 10000");
    for n in 1..=size {
        bench.run(&format!("XADD messages MAXLEN 5 IDMP p m{n} * f v"));
        bench.run(&format!("XADD messages MAXLEN 5 IDMP p{n} m * f v"));
    }
    for n in 0..size {
        bench.run(&format!("VADD vectors VALUES 2 {n} {} m{n} M 4 EF 4 NOQUANT SETATTR {{\"x\":{n}}}", n % 7));
    }
    bench.run("XADD groups 1 f v");
    for n in 0..4 * size {
        bench.run(&format!("XGROUP CREATE groups group{n} 0"));
    }
    // An entry whose fields fill a node of its own.
    let fields = " f v".repeat(8 * size);
    bench.run(&format!("XADD long-stream 1{fields}"));
    for line in [
        "XGROUP CREATE stream read 0",
        "XREADGROUP GROUP read c STREAMS stream >",
        "XGROUP CREATE stream unread 0",
        "XGROUP CREATE long-stream read 0",
        "XREADGROUP GROUP read c STREAMS long-stream >",
    ] {
        bench.run(line);
    }
    bench
}

/// Runs lines whose words in braces stand for `size` words.
fn run_all(bench: &mut Bench, lines: &[&str], size: usize) {
    for line in lines {
        let words = words(bench, line, size);
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        bench.run_args(&words);
    }
}

/// Runs a sample, on copies if it writes, and reads its counts.
fn run(bench: &mut Bench, line: &str, kind: &str, size: usize, count: &Path) -> Taken {
    assert!(["none", "stale"].contains(&kind) || bench.run(&format!("EXISTS {kind}")) == "1", "there is no {kind}");
    // Copies take most of the time. A read of one key does without, unless it finds what has expired.
    let is_read = !["k2", "{dump}"].iter().any(|word| line.contains(word)) && kind != "stale" && {
        let request = request_of(&words(bench, line, size));
        find(request.as_request()).is_some_and(|(row, _)| row.flags.contains(Flags::READ))
    };
    if !is_read {
        bench.run("DEL d k k2");
        bench.run(&format!("COPY {kind} k"));
        if line.contains("k2") {
            bench.run(&format!("COPY {kind} k2"));
        }
    }
    let words = words(bench, line, size);
    let renamed = |word: &Vec<u8>| if is_read && word == b"k" { kind.as_bytes().to_vec() } else { word.clone() };
    let request = request_of(&words.iter().map(renamed).collect::<Vec<_>>());
    let (row, run) = find(request.as_request()).expect("a command");
    let mut db = bench.keyspace();
    let mut reply = Reply::new(Version::Resp2);
    let estimated = measured(&mut db, row, run, &mut reply, &request);
    note();
    let freed = db.freed_bytes() / FREED_BYTES_PER_ELEMENT;
    // Another thread frees the values that it has buried.
    drop(db.take_graveyard());
    drop(db);
    if line == "DEL {keys}" || line == "UNLINK {keys}" {
        run_all(bench, &["MSET {pairs}"], size);
    }
    let text = std::fs::read_to_string(count).expect("valgrind has left a count");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).expect("a total");
    let instructions = total.trim().parse().expect("a number");
    Taken { instructions, cost: estimated + freed + reply.len() / BYTES_PER_ELEMENT }
}

fn request_of(words: &[Vec<u8>]) -> OwnedRequest {
    OwnedRequest::from_args(&words.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// Everything that is counted.
#[inline(never)]
fn measured(db: &mut Keyspace<'_>, row: &Row, run: Run, reply: &mut Reply, request: &OwnedRequest) -> usize {
    let cost = budget::cost(db, row, request.as_request());
    call(row, run, db, reply, request.as_request()).expect("everything is in memory");
    cost
}

/// Valgrind dumps its counts so far before it runs this.
#[inline(never)]
fn note() {
    std::hint::black_box(());
}

fn words(bench: &mut Bench, line: &str, size: usize) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    for word in line.split(' ') {
        let mut each = |make: &dyn Fn(usize, &mut String)| {
            for n in 0..size {
                let mut made = String::new();
                make(n, &mut made);
                words.extend(made.split(' ').map(|word| word.as_bytes().to_vec()));
            }
        };
        match word {
            "{old}" => each(&|n, word| _ = write!(word, "m{n}")),
            "{new}" => each(&|n, word| _ = write!(word, "new{n}")),
            "{fields}" => each(&|n, word| _ = write!(word, "m{n} value{n}")),
            "{scores}" => each(&|n, word| _ = write!(word, "{n} m{n}")),
            "{places}" => each(&|n, word| _ = write!(word, "{}.{n} {}.{n} m{n}", n % 170, n % 80)),
            "{keys}" => each(&|n, word| _ = write!(word, "key:{n}")),
            "{pairs}" => each(&|n, word| _ = write!(word, "key:{n} v")),
            "{ids}" => each(&|n, word| _ = write!(word, "{}", n + 1)),
            "{spread}" => each(&|n, word| _ = write!(word, "{} {n}", 5000 * n)),
            "{digits}" => each(&|n, word| _ = write!(word, "{n}.12345678901234567890123456789")),
            "{steps}" => each(&|n, word| _ = write!(word, "GET u8 {}", n % 64)),
            "{dump}" => {
                let reply = bench.run_raw(&[b"DUMP", b"k"]);
                let start = reply.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                words.push(reply[start..reply.len() - 2].to_vec());
            }
            word => {
                // Each text is made only where it is asked for: valgrind makes all of this slow.
                let mut word = word.to_owned();
                let mut replace = |name: &str, text: &dyn Fn() -> String| {
                    if word.contains(name) {
                        word = word.replace(name, &text());
                    }
                };
                replace("{bytes}", &|| "b".repeat(64 * size));
                replace("{text}", &|| "ab".repeat(size / 8 + 1));
                replace("{json}", &|| document(size));
                replace("{bytes-string}", &|| format!("\"{}\"", "b".repeat(size)));
                replace("{class}", &|| format!("[{}]", "xy".repeat(size)));
                replace("{middle-member}", &|| format!("m{}", size / 2));
                replace("{n}", &|| size.to_string());
                replace("{half}", &|| (size / 2).to_string());
                replace("{middle}", &|| (size / 2).to_string());
                words.push(word.into_bytes());
            }
        }
    }
    words
}

/// A document of `size` members, and a list of as many numbers.
fn document(size: usize) -> String {
    let members: Vec<String> =
        (0..size).map(|n| format!("\"m{n}\":{{\"n\":{n},\"s\":\"value{n}\",\"t\":true}}")).collect();
    let list: Vec<String> = (0..size).map(|n| n.to_string()).collect();
    format!("{{{},\"list\":[{}],\"last\":1}}", members.join(","), list.join(","))
}
