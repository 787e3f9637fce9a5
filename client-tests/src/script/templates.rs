//! The commands and their forms.
//!
//! `<pool>` is a word of a pool, `[a | b]` one of these or nothing, `(a | b)` one of these, `{a}` some of it, `<3 pool>`
//! as many as that, `<n pool>` a number and as many words or pairs, `<weights>` as many weights as the last such number.

use super::{Pools, Random};
use crate::Kind;
use crate::resp::Words;

/// (weight, forms of about equal weight)
const TEMPLATES: &[(u32, &[&str])] = &[
    (
        30,
        &[
            "SET <string> <value> [NX | XX] [GET] [EX <seconds> | PX <milliseconds> | EXAT <moment> | PXAT <moment-ms> | KEEPTTL]",
            "SET <string> <value>",
            "GET <string>",
            "GETSET <string> <value>",
            "GETDEL <string>",
            "GETEX <string> [EX <seconds> | PX <milliseconds> | EXAT <moment> | PXAT <moment-ms> | PERSIST]",
            "SETEX <string> <seconds> <value>",
            "PSETEX <string> <milliseconds> <value>",
            "SETNX <string> <value>",
            "MGET {<key>}",
            "MSET {<string> <value>}",
            "MSETNX {<string> <value>}",
            "STRLEN <string>",
            "APPEND <string> <value>",
            "SETRANGE <string> <offset> <value>",
            "GETRANGE <string> <index> <index>",
            "SUBSTR <string> <index> <index>",
            "INCR <string>",
            "DECR <string>",
            "INCRBY <string> <int>",
            "DECRBY <string> <int>",
            "INCRBYFLOAT <string> <float>",
            "SET <string> <value> (IFEQ | IFNE) <value> [EX <seconds> | PXAT <moment-ms> | KEEPTTL] [GET]",
            "SET <string> <value> (IFDEQ | IFDNE) <digest> [PX <milliseconds> | KEEPTTL]",
            "DIGEST <string>",
            "DELEX <string> [(IFEQ | IFNE | junk) <value> | (IFDEQ | ifdne) <digest>]",
            "DELIFEQ <string> <value>",
            "MSETEX <n string-pairs> [NX | XX] [EX <seconds> | PX <milliseconds> | EXAT <moment> | PXAT <moment-ms> | KEEPTTL]",
            "INCREX <string> [BYINT <int>] [LBOUND <int>] [UBOUND <int>] [SATURATE] [EX <seconds> | PERSIST] [ENX]",
            "INCREX <string> BYFLOAT <float> [LBOUND <int>] [UBOUND <float>] [SATURATE] [PX <milliseconds> | PXAT <moment-ms>]",
            "LCS <string> <string> [LEN] [IDX] [MINMATCHLEN <int>] [WITHMATCHLEN]",
        ],
    ),
    (
        14,
        &[
            "SETBIT <string> <bit> (0 | 1)",
            "SETBIT <string> <bit> <int>",
            "SETBIT <bits> <bit> 1",
            "GETBIT <string> <bit>",
            "BITCOUNT <bits> [<index> <index>] [BYTE | BIT]",
            "BITCOUNT <string> <index> <index> [BYTE | BIT | junk]",
            "BITPOS <bits> (0 | 1) <index> <index> [BYTE | BIT]",
            "BITPOS <string> (0 | 1 | 2) [<index>] [<index>] [BYTE | BIT]",
            "BITOP (AND | OR | XOR | and) <bits> {<bits>}",
            "BITOP (AND | OR | XOR | NOT | NAND) <string> {<string>}",
            "BITOP NOT <bits> <bits>",
            "BITOP (DIFF | DIFF1 | ANDOR | one) <bits> {<bits>}",
            "BITFIELD <bits> {(GET <field-type> <bit> | SET <field-type> <bit> <int>) [OVERFLOW (WRAP | SAT | FAIL | junk)] INCRBY <field-type> <bit> <int>}",
            "BITFIELD <string> {GET <field-type> <bit>}",
            "BITFIELD_RO <string> {(GET <field-type> <bit> | OVERFLOW SAT)} [SET u8 0 1]",
        ],
    ),
    (
        12,
        &[
            "GEOADD <places> {<longitude> <latitude> <member>}",
            "GEOADD <places> [NX | XX] [CH] {<longitude> <latitude> <number>}",
            "GEOADD <zset> [NX | XX | junk] [CH] <longitude> <latitude> <member>",
            "GEODIST <places> <member> <member> [<unit>]",
            "GEOHASH <places> {<member>}",
            "GEOPOS <places> {<member>}",
            "GEOSEARCH <places> (FROMMEMBER <member> | FROMLONLAT <longitude> <latitude>) (BYRADIUS <distance> <unit> | BYBOX <distance> <distance> <unit>) [ASC | DESC] [WITHDIST] [WITHCOORD] [WITHHASH]",
            "GEOSEARCH <places> FROMLONLAT <longitude> <latitude> BYRADIUS <distance> <unit> COUNT <count> [ANY] [ASC | DESC]",
            "GEOSEARCH <zset> [FROMMEMBER <member>] [FROMLONLAT <longitude> <latitude>] [BYRADIUS <distance> <unit>] [BYBOX <distance> <distance> <unit>] [ANY] [COUNT <int>]",
            "GEOSEARCHSTORE <zset> <places> FROMMEMBER <number> BYRADIUS <distance> <unit> [STOREDIST] [WITHDIST]",
            "GEOSEARCH <places> BYPOLYGON 3 <east> <north> <east> <north> <east> <north> [ASC | DESC] [WITHDIST] [WITHHASH]",
            "GEOSEARCH <places> BYPOLYGON <count> <east> <north> <east> <north> <east> <north> <east> <north>",
            "GEOSEARCHSTORE <places> <places> BYPOLYGON 4 <east> <north> <east> <north> <east> <north> <east> <north> [STOREDIST]",
            "(GEORADIUS | GEORADIUS_RO) <places> <longitude> <latitude> <distance> <unit> [WITHDIST] [WITHCOORD] [ASC] [COUNT <count>] [STORE <zset> | STOREDIST <zset>]",
            "(GEORADIUSBYMEMBER | GEORADIUSBYMEMBER_RO) <places> <member> <distance> <unit> [WITHHASH] [DESC] [STORE <zset> | STOREDIST <zset>]",
        ],
    ),
    (
        8,
        &[
            "PFADD <hll> {<member>}",
            "PFADD <hll> {<number>}",
            "PFADD <string> <value>",
            "PFCOUNT <hll>",
            "PFCOUNT {<hll>}",
            "PFMERGE <hll> {<hll>}",
            "PFMERGE <string> <hll>",
            "(DEL | OBJECT ENCODING) <hll>",
            "PFDEBUG (ENCODING | DECODE | TODENSE | NONSENSE) <hll>",
        ],
    ),
    (
        24,
        &[
            "XADD <stream> [NOMKSTREAM] <id> {<field> <value>}",
            "XADD <stream> <id> {<field> <value>}",
            "XADD <stream> <id> f <value>",
            "XADD <stream> <id> f <value>",
            "XADD <stream> [MAXLEN [= | ~] <number> | MINID [= | ~] <id>] [LIMIT <count>] [NOMKSTREAM] <id> f <value>",
            "XADD <stream> [KEEPREF | DELREF | ACKED] (MAXLEN [= | ~] <number> | MINID <id>) [ACKED] <id> f <value>",
            "XADD <stream> (IDMP <member> <member> | IDMPAUTO <member>) [MAXLEN <number>] <id> f <value>",
            "XTRIM <stream> (MAXLEN <number> | MINID [~] <id>) (KEEPREF | DELREF | ACKED) [LIMIT <int>]",
            "XDELEX <stream> [KEEPREF | DELREF | ACKED | junk] IDS <n id> [DELREF]",
            "XACKDEL <stream> <group> [KEEPREF | DELREF | ACKED] IDS <n id> [acked]",
            "XNACK <stream> <group> (SILENT | FAIL | FATAL | junk) IDS <n id> [RETRYCOUNT <int>] [FORCE]",
            "XCFGSET <stream> [IDMP-DURATION <int>] [IDMP-MAXSIZE <count>]",
            "XIDMPRECORD <stream> <member> <member> <id>",
            "XREADGROUP GROUP <group> <consumer> CLAIM (0 | 0 | 1800000 | <int>) [NOACK] STREAMS <stream> >",
            "XREADGROUP GROUP <group> <consumer> (MAXCOUNT | MAXSIZE) <int> STREAMS <stream> <stream> (> | <id>) >",
            "XREAD [MAXCOUNT <int>] [MAXSIZE <count>] STREAMS <stream> <stream> <id> 0",
            "XLEN <stream>",
            "XRANGE <stream> <id-bound> <id-bound> [COUNT <int>]",
            "XRANGE <stream> - + [COUNT <count>]",
            "XREVRANGE <stream> <id-bound> <id-bound> [COUNT <int>]",
            "XREVRANGE <stream> + - [COUNT <count>]",
            "XDEL <stream> {<id>}",
            "XDEL <stream> <id>",
            "XTRIM <stream> (MAXLEN [= | ~] <number> | MINID [= | ~] <id>) [LIMIT <int>]",
            "XSETID <stream> <id> [ENTRIESADDED <int>] [MAXDELETEDID <id>]",
            "XREAD [COUNT <int>] STREAMS <stream> <id>",
            "XREAD [COUNT <count>] [NOACK | junk] STREAMS <stream> <stream> <id> (<id> | $)",
            "XREADGROUP GROUP <group> <consumer> [COUNT <count>] [NOACK] STREAMS <stream> >",
            "XREADGROUP GROUP <group> <consumer> COUNT 2 STREAMS <stream> >",
            "XREADGROUP GROUP <group> <consumer> [COUNT <count>] [NOACK] STREAMS <stream> (<id> | 0)",
            "XREADGROUP GROUP <group> <consumer> [COUNT <int>] STREAMS <stream> <stream> (> | <id>) >",
            "XGROUP CREATE <stream> <group> (<id> | $ | 0) [MKSTREAM] [ENTRIESREAD <int>]",
            "XGROUP CREATE <stream> <group> 0 MKSTREAM",
            "XGROUP SETID <stream> <group> (<id> | $) [ENTRIESREAD <int>] [junk]",
            "XGROUP (DESTROY | NONSENSE) <stream> <group>",
            "XGROUP (CREATECONSUMER | DELCONSUMER) <stream> <group> <consumer>",
            "XACK <stream> <group> {<id>}",
            "XPENDING <stream> <group> [[IDLE <idle>] <id-bound> <id-bound> <count> [<consumer>]]",
            "XPENDING <stream> <group> [IDLE <idle>] - + <count> [<consumer>]",
            "XCLAIM <stream> <group> <consumer> <idle> {<id>} [IDLE <idle> | TIME <idle>] [RETRYCOUNT <int>] [FORCE] [JUSTID] [LASTID <id>]",
            "XAUTOCLAIM <stream> <group> <consumer> <idle> <id-bound> [COUNT <int>] [JUSTID]",
            "XINFO STREAM <stream> [FULL] [COUNT <int>]",
            "XINFO STREAM <stream> FULL",
            "XINFO GROUPS <stream>",
            "XINFO CONSUMERS <stream> <group>",
        ],
    ),
    (
        14,
        &[
            "DEL {<key>}",
            "UNLINK <key>",
            "EXISTS {<key>}",
            "TYPE <key>",
            "TOUCH {<key>}",
            "RENAME <key> <key>",
            "RENAMENX <key> <key>",
            "COPY <key> <key> [DB <db>] [REPLACE]",
            "MOVE <key> <db>",
            "KEYS <pattern>",
            "OBJECT (ENCODING | REFCOUNT | IDLETIME | FREQ | NONSENSE) <key>",
            "MEMORY USAGE <key> [SAMPLES <count>]",
            "PERSIST <key>",
            "DUMP <key>",
            "RESTORE <key> (0 | <milliseconds>) <payload> [REPLACE]",
            "RESTORE <key> (0 | <moment-ms>) <payload> [ABSTTL] [REPLACE] [IDLETIME <seconds> | FREQ <number> | junk]",
            "(TTL | PTTL | EXPIRETIME | PEXPIRETIME) <key>",
            "(TTL | PTTL) <key>",
        ],
    ),
    (
        6,
        &[
            "EXPIRE <key> <seconds> [NX | XX | GT | LT | XX GT | XX LT | NX GT | GT LT | junk]",
            "PEXPIRE <key> <milliseconds> [NX | XX | GT | LT]",
            "EXPIREAT <key> <moment> [NX | XX | GT | LT]",
            "PEXPIREAT <key> <moment-ms> [NX | XX | GT | LT]",
        ],
    ),
    (1, &["SELECT <db>", "SELECT 0", "SWAPDB <db> <db>", "FLUSHDB [ASYNC | SYNC | junk]", "FLUSHALL [ASYNC | SYNC]"]),
    (
        20,
        &[
            "HSET <hash> {<field> <value>}",
            "HSET <hash> {<field> <value>}",
            "HMSET <hash> {<field> <value>}",
            "HSETNX <hash> <field> <value>",
            "HGET <hash> <field>",
            "HMGET <hash> {<field>}",
            "HGETALL <hash>",
            "HKEYS <hash>",
            "HVALS <hash>",
            "HLEN <hash>",
            "HSTRLEN <hash> <field>",
            "HEXISTS <hash> <field>",
            "HDEL <hash> {<field>}",
            "HINCRBY <hash> <field> <int>",
            "HINCRBYFLOAT <hash> <field> <float>",
        ],
    ),
    (
        22,
        &[
            "(LPUSH | RPUSH) <list> {<value>}",
            "(LPUSH | RPUSH) <list> {<member>}",
            "(LPUSHX | RPUSHX) <list> {<value>}",
            "(LPOP | RPOP) <list> [<int>]",
            "LLEN <list>",
            "LRANGE <list> <index> <index>",
            "LINDEX <list> <index>",
            "LSET <list> <index> <value>",
            "LINSERT <list> (BEFORE | AFTER | after | junk) <member> <value>",
            "LREM <list> <index> <member>",
            "LTRIM <list> <index> <index>",
            "LPOS <list> <member> [RANK <index>] [COUNT <index>] [MAXLEN <index>]",
            "RPOPLPUSH <list> <list>",
            "LMOVE <list> <list> (LEFT | RIGHT | junk) (LEFT | right)",
            "LMOVEM <list> <list> (LEFT | RIGHT | junk) (LEFT | right) [(COUNT | EXACTLY) <int> (OBO | BULK)]",
            "LMOVEM <list> <list> (LEFT | RIGHT) (LEFT | RIGHT) (COUNT | EXACTLY) <count> (OBO | BULK | junk)",
            "BLMOVEM <list> <list> (LEFT | RIGHT) (LEFT | RIGHT) 0.001 [(COUNT | EXACTLY) <int> (OBO | BULK)]",
            "LMPOP <n list> (LEFT | RIGHT) [COUNT <int>]",
            "(BLPOP | BRPOP) {<list>} (0.001 | 0.001 | 0.001 | -1 | junk)",
            "BLMOVE <list> <list> (LEFT | RIGHT) (LEFT | RIGHT) 0.001",
            "BRPOPLPUSH <list> <list> 0.001",
            "BLMPOP 0.001 <n list> (LEFT | RIGHT) [COUNT <int>]",
        ],
    ),
    (
        20,
        &[
            "SADD <set> {<member>}",
            "SADD <set> {<number>}",
            "SREM <set> {<member>}",
            "SMOVE <set> <set> <member>",
            "SCARD <set>",
            "SISMEMBER <set> <member>",
            "SMISMEMBER <set> {<member>}",
            "SMEMBERS <set>",
            "(SINTER | SUNION | SDIFF) {<set>}",
            "(SINTERSTORE | SUNIONSTORE | SDIFFSTORE) <set> {<set>}",
            "SINTERCARD <n set> [LIMIT <index>]",
            "(SUNIONCARD | SDIFFCARD) <n set> [LIMIT <index>]",
        ],
    ),
    (
        40,
        &[
            "ZADD <zset> {<score> <member>}",
            "ZADD <zset> {<score> <member>}",
            "ZADD <zset> [NX | XX] [GT | LT] [CH] [INCR] {<score> <member>}",
            "ZADD <zset> [NX | XX] [GT | LT] [CH] INCR <score> <member>",
            "ZINCRBY <zset> <score> <member>",
            "ZREM <zset> {<member>}",
            "ZADD <lex> {0 <letter>}",
            "ZADD <lex> {0 <letter>}",
            "(ZREM <lex> <letter> | ZRANGE <lex> 0 -1 | ZUNIONSTORE <zset> 2 <lex> <zset>)",
            "ZCARD <zset>",
            "ZSCORE <zset> <member>",
            "ZMSCORE <zset> {<member>}",
            "(ZRANK | ZREVRANK) <zset> <member>",
            "ZCOUNT <zset> <min> <max>",
            "ZLEXCOUNT <lex> <lexmin> <lexmax>",
            "ZRANGE <zset> <index> <index> [REV] [WITHSCORES]",
            "ZRANGE <zset> <min> <max> BYSCORE [LIMIT <index> <index>] [WITHSCORES]",
            "ZRANGE <zset> <max> <min> BYSCORE REV [LIMIT <index> <index>] [WITHSCORES]",
            "ZRANGE <lex> <lexmin> <lexmax> BYLEX [LIMIT <index> <index>] [WITHSCORES]",
            "ZRANGE <lex> <lexmax> <lexmin> BYLEX REV [LIMIT <index> <index>]",
            "ZRANGE <zset> <index> <index> [BYSCORE | BYLEX] [REV] [LIMIT <index> <index>] [WITHSCORES]",
            "ZRANGESTORE <zset> <zset> <index> <index> [REV]",
            "ZRANGESTORE <zset> <zset> <min> <max> BYSCORE [REV] [LIMIT <index> <index>]",
            "ZRANGESTORE <lex> <lex> <lexmin> <lexmax> BYLEX [REV] [LIMIT <index> <index>]",
            "ZREVRANGE <zset> <index> <index> [WITHSCORES]",
            "ZRANGEBYSCORE <zset> <min> <max> [WITHSCORES] [LIMIT <index> <index>]",
            "ZREVRANGEBYSCORE <zset> <max> <min> [WITHSCORES] [LIMIT <index> <index>]",
            "ZRANGEBYLEX <lex> <lexmin> <lexmax> [LIMIT <index> <index>]",
            "ZREVRANGEBYLEX <lex> <lexmax> <lexmin> [LIMIT <index> <index>]",
            "ZREMRANGEBYRANK <zset> <index> <index>",
            "ZREMRANGEBYSCORE <zset> <min> <max>",
            "ZREMRANGEBYLEX <lex> <lexmin> <lexmax>",
            "(ZPOPMIN | ZPOPMAX) <zset> [<int>]",
            "ZMPOP <n zset> (MIN | MAX) [COUNT <int>]",
            "(BZPOPMIN | BZPOPMAX) {<zset>} (0.001 | 0.001 | 0.001 | -1 | junk)",
            "BZMPOP 0.001 <n zset> (MIN | MAX) [COUNT <int>]",
            "(ZUNION | ZINTER) <n zset> [WEIGHTS <weights>] [AGGREGATE (SUM | MIN | MAX)] [WITHSCORES]",
            "(ZUNIONSTORE | ZINTERSTORE) <zset> <n zset> [WEIGHTS <weights>] [AGGREGATE (SUM | MIN | MAX | junk)]",
            "(ZUNION | ZINTERSTORE) <zset> 2 <set> <zset>",
            "(ZUNION | ZINTER) <n zset> [WEIGHTS <weights>] AGGREGATE COUNT [WITHSCORES]",
            "(ZUNIONSTORE | ZINTERSTORE) <zset> <n zset> [WEIGHTS <weights>] AGGREGATE count",
            "ZDIFF <n zset> [WITHSCORES]",
            "ZDIFFSTORE <zset> <n zset>",
            "ZINTERCARD <n zset> [LIMIT <index>]",
        ],
    ),
    // Large values, past the thresholds of the packed encodings.
    (
        1,
        &[
            "HSET <hash> <150 field-pairs>",
            "SADD <set> <200 number>",
            "SADD <set> <600 number>",
            "ZADD <zset> <150 score-pairs>",
            "RPUSH <list> <300 value>",
            "PFADD <hll> <300 number>",
            "DEL <key> <key> <key> <key> <key> <key>",
        ],
    ),
    (
        4,
        &[
            "PING [<value>]",
            "ECHO <value>",
            "CLIENT (GETNAME | SETNAME <field> | NO-EVICT (ON | OFF | junk))",
            "COMMAND GETKEYS (GET <key> | MSET <key> v <key> v | ZUNIONSTORE <zset> <n zset> | PING x | NONSENSE x | SET <key>)",
            "COMMAND COUNT junk",
            "CONFIG SET nonsense 1",
            "SLOWLOG (LEN | GET | RESET) junk",
            "SCAN (x | 1.5 | 99999999999999999999) [MATCH <pattern>]",
            "SCAN 0 (COUNT 0 | COUNT x | junk | MATCH)",
            "(SSCAN | HSCAN | ZSCAN) <key> 0 (COUNT 0 | COUNT -1 | junk | TYPE string)",
            "(EXEC | DISCARD | UNWATCH)",
            "NONSENSE <value> <value>",
            "PUBLISH channel <value>",
            "PUBSUB (CHANNELS | NUMSUB <key> | NUMPAT | NONSENSE)",
        ],
    ),
];

const BOTH: &[Kind] = &[Kind::Valkey, Kind::Redis8];

/// The commands that only newer servers have: (servers, weight, forms of about equal weight).
const NEWER: &[(&[Kind], u32, &[&str])] = &[
    (BOTH, 1, &["(SCAN | SSCAN <set> | ZSCAN <zset>) 0 NOVALUES"]),
    (&[Kind::Valkey], 1, &["(SCAN | SSCAN <set> | HSCAN <hash>) 0 NOSCORES"]),
    // The sets of fields are those of the connection.
    (
        &[Kind::Redis8],
        6,
        &[
            "HIMPORT PREPARE (one <field> | two <field> <field> | three <field> <field> <field>)",
            "HIMPORT PREPARE (one | two | three | <member>) {<field>}",
            "HIMPORT SET <hash> (one <value> | two <value> <value> | three <value> <value> <value>)",
            "HIMPORT SET <hash> (one <member> | two <value> <member> | three <number> <value> <value>)",
            "HIMPORT SET <hash> (one | two | three | <member>) {<value>}",
            "HIMPORT (DISCARD (one | two | three | <member>) | DISCARDALL [junk] | HELP | NONSENSE <hash> one)",
        ],
    ),
    // Vector sets have keys of their own, as Redis does not copy them. Elements that are equally near come in any order.
    (
        &[Kind::Redis8],
        10,
        &[
            "VADD (v1 | v2) VALUES 2 (1 | 2 | -3 | 0.5 | <number>) (1 | -2 | 4 | <number>) <member> [SETATTR <value>] [EF 10 | EF <int>] [CAS | Q8]",
            "VADD (v1 | v2) VALUES 2 <number> 7 <member>",
            "VADD (v1 | v2) VALUES 2 3 <number> <member> SETATTR <value>",
            "VADD v3 [REDUCE 2 | REDUCE <count>] VALUES (3 | <count>) 1 <number> (0.5 | -2.25 | 1e3 | x | nan) <member> [NOQUANT | BIN | Q8] [M 8 | M <int>]",
            "VADD v3 REDUCE 2 VALUES 3 1 <number> 5 <member> NOQUANT",
            "(VCARD | VDIM) (v1 | v2 | v3 | <string>)",
            "VEMB (v1 | v2 | v3) <member> [RAW | junk]",
            "(VISMEMBER | VGETATTR) (v1 | v2 | v3 | <hash>) <member>",
            "VSETATTR (v1 | v2 | <set>) <member> <value>",
            "VREM (v1 | v2 | v3 | <list>) <member>",
            "VRANGE (v1 | v2 | v3 | <zset>) (- | <lexmin>) (+ | <lexmax>) [<int>]",
            "VSIM (v1 | v2) (ELE <member> | VALUES 3 1 2 3 | FP32 <value>) junk",
            "VSIM v4 (ELE <member> | junk) [WITHSCORES] [COUNT <int>]",
            "VRANDMEMBER (v4 | <string>) [<count>]",
            "(VINFO v4 | VLINKS v4 <member> [WITHSCORES] | DEL v3)",
        ],
    ),
];

pub(super) const ITERATIONS: [&str; 6] = [
    "SCAN 0 [MATCH <pattern>] [COUNT 1 | COUNT 7 | COUNT 1000]",
    "SCAN 0 TYPE <type> [MATCH <pattern>]",
    "SSCAN <set> 0 [MATCH *1*] [COUNT 3]",
    "HSCAN <hash> 0 [COUNT 1000]",
    "ZSCAN <zset> 0 [MATCH ?] [COUNT 10]",
    "HSCAN <key> 0",
];

/// (a list of all, a draw from it, the key's pool)
pub(super) const DRAWS: [(&str, &str, &str); 10] = [
    ("SMEMBERS <key>", "SRANDMEMBER <key>", "set"),
    ("SMEMBERS <key>", "SRANDMEMBER <key> <count>", "set"),
    ("SMEMBERS <key>", "SPOP <key>", "set"),
    ("SMEMBERS <key>", "SPOP <key> <count>", "set"),
    ("HKEYS <key>", "HRANDFIELD <key>", "hash"),
    ("HKEYS <key>", "HRANDFIELD <key> <count>", "hash"),
    ("HGETALL <key>", "HRANDFIELD <key> <count> WITHVALUES", "hash"),
    ("ZRANGE <key> 0 -1", "ZRANDMEMBER <key> <count>", "zset"),
    ("ZRANGE <key> 0 -1 WITHSCORES", "ZRANDMEMBER <key> <count> WITHSCORES", "zset"),
    ("KEYS *", "RANDOMKEY", "key"),
];

pub(super) const EXPIRIES: [&str; 4] =
    ["SET <key> v PX 1", "PEXPIRE <key> 1", "PSETEX <key> 1 v", "PEXPIREAT <key> 1700000000000"];

/// Returns what every server has, and what `peer` has beyond it.
pub(super) fn all(peer: Option<Kind>) -> Vec<Template> {
    let newer = NEWER.iter().filter(|(servers, ..)| peer.is_some_and(|peer| servers.contains(&peer)));
    let newer = newer.map(|(_, weight, forms)| (weight, forms));
    TEMPLATES
        .iter()
        .map(|(weight, forms)| (weight, forms))
        .chain(newer)
        .flat_map(|(weight, forms)| {
            let each = (weight * 1000 / forms.len() as u32).max(1);
            forms.iter().map(move |form| Template::parse(each, form))
        })
        .collect()
}

pub(super) struct Template {
    pub weight: u32,
    nodes: Vec<Node>,
}

enum Node {
    Literal(&'static str),
    Word(&'static str),
    Several(usize, &'static str),
    Numbered(&'static str),
    Weights,
    Optional(Vec<Vec<Node>>),
    Choice(Vec<Vec<Node>>),
    Some(Vec<Node>),
}

impl Template {
    pub fn parse(weight: u32, form: &'static str) -> Self {
        let mut rest = form;
        let nodes = parse(&mut rest).pop().expect("a sequence ends each parse");
        assert!(rest.is_empty(), "an unbalanced template: {form}");
        Self { weight, nodes }
    }

    pub fn fill(&self, random: &mut Random, pools: &mut Pools) -> Words {
        let mut words = Vec::new();
        let mut count = 0;
        fill(&self.nodes, &mut words, &mut count, random, pools);
        words
    }
}

/// Reads alternatives up to a closing bracket, which stays, or to the end.
fn parse(rest: &mut &'static str) -> Vec<Vec<Node>> {
    let mut alternatives = vec![Vec::new()];
    loop {
        *rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return alternatives };
        let node = match first {
            ']' | ')' | '}' => return alternatives,
            '|' => {
                *rest = &rest[1..];
                alternatives.push(Vec::new());
                continue;
            }
            '[' | '(' | '{' => {
                *rest = &rest[1..];
                let mut inner = parse(rest);
                *rest = &rest[1..];
                match first {
                    '[' => Node::Optional(inner),
                    '(' => Node::Choice(inner),
                    _ => Node::Some(inner.pop().expect("at least one")),
                }
            }
            '<' => {
                let (hole, after) = rest[1..].split_once('>').expect("a hole is closed");
                *rest = after;
                match hole.split_once(' ') {
                    None if hole == "weights" => Node::Weights,
                    None => Node::Word(hole),
                    Some(("n", pool)) => Node::Numbered(pool),
                    Some((count, pool)) => Node::Several(count.parse().expect("a count"), pool),
                }
            }
            _ => {
                let end = rest.find([' ', ']', ')', '}', '|']).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                *rest = after;
                Node::Literal(word)
            }
        };
        alternatives.last_mut().expect("never empty").push(node);
    }
}

fn fill(nodes: &[Node], words: &mut Words, count: &mut usize, random: &mut Random, pools: &mut Pools) {
    for node in nodes {
        match node {
            Node::Literal(word) => words.push(word.as_bytes().to_vec()),
            Node::Word(pool) => words.push(pools.word(pool, random)),
            Node::Several(times, "field-pairs") => {
                words.extend((0..2 * times).map(|i| pools.word(["number", "value"][i % 2], random)));
            }
            Node::Several(times, "score-pairs") => {
                words.extend(
                    (0..2 * times).map(|i| if i % 2 == 0 { b"2.5".to_vec() } else { pools.word("number", random) }),
                );
            }
            Node::Several(times, pool) => words.extend((0..*times).map(|_| pools.word(pool, random))),
            Node::Numbered(pool) => {
                *count = 1 + random.below(3);
                let told = if random.one_in(15) { random.below(5) } else { *count };
                words.push(told.to_string().into_bytes());
                match *pool {
                    "string-pairs" => {
                        words.extend((0..2 * *count).map(|i| pools.word(["string", "value"][i % 2], random)));
                    }
                    pool => words.extend((0..*count).map(|_| pools.word(pool, random))),
                }
            }
            Node::Weights => words.extend((0..*count).map(|_| pools.word("weight", random))),
            Node::Optional(alternatives) => {
                if random.one_in(2) {
                    let chosen: &Vec<Node> = random.pick(alternatives);
                    fill(chosen, words, count, random, pools);
                }
            }
            Node::Choice(alternatives) => {
                let chosen: &Vec<Node> = random.pick(alternatives);
                fill(chosen, words, count, random, pools);
            }
            Node::Some(inner) => {
                for _ in 0..1 + random.below(4) {
                    fill(inner, words, count, random, pools);
                }
            }
        }
    }
}
