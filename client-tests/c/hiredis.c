/* hiredis's tour. The runner's side of it is described in client-tests/src/lib.rs. */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int port, is_dormouse, failures;

static redisContext *open_connection(void)
{
    redisContext *c = redisConnect("127.0.0.1", port);
    if (c == NULL || c->err) {
        printf("cannot connect: %s\n", c ? c->errstr : "no memory");
        exit(1);
    }
    redisSetTimeout(c, (struct timeval){30, 0});
    return c;
}

/* A reply as text: `OK`, `:1`, `nil`, `-ERR ...`, `[a b]`. */
static void render(const redisReply *r, FILE *out)
{
    if (r == NULL) {
        fputs("no reply", out);
    } else if (r->type == REDIS_REPLY_ARRAY) {
        fputc('[', out);
        for (size_t i = 0; i < r->elements; i++) {
            if (i > 0)
                fputc(' ', out);
            render(r->element[i], out);
        }
        fputc(']', out);
    } else if (r->type == REDIS_REPLY_INTEGER) {
        fprintf(out, ":%lld", r->integer);
    } else if (r->type == REDIS_REPLY_NIL) {
        fputs("nil", out);
    } else {
        fprintf(out, "%s%.*s", r->type == REDIS_REPLY_ERROR ? "-" : "", (int)r->len, r->str);
    }
}

static void compare(int line, const char *want, redisReply *reply, const redisContext *c)
{
    char *got = NULL;
    size_t size;
    FILE *out = open_memstream(&got, &size);
    render(reply, out);
    fclose(out);
    if (strcmp(got, want) != 0) {
        printf("line %d: got `%s`, want `%s` %s\n", line, got, want, c->errstr);
        failures++;
    }
    free(got);
    if (reply != NULL)
        freeReplyObject(reply);
}

/* The command, in hiredis's format, must answer `want`. */
#define WANT(c, want, ...) compare(__LINE__, want, redisCommand(c, __VA_ARGS__), c)

static void expect_reply(int line, redisContext *c, const char *want)
{
    redisReply *reply = NULL;
    redisGetReply(c, (void **)&reply);
    compare(line, want, reply, c);
}
#define NEXT(c, want) expect_reply(__LINE__, c, want)

static void check(int line, int condition, const char *text)
{
    if (!condition) {
        printf("line %d: not so: %s\n", line, text);
        failures++;
    }
}
#define CHECK(condition) check(__LINE__, condition, #condition)

static void strings(redisContext *c)
{
    WANT(c, "OK", "SET k v");
    WANT(c, "nil", "SET k w NX");
    WANT(c, "v", "SET k w XX GET EX 100");
    WANT(c, "OK", "SET k x KEEPTTL");
    WANT(c, ":100", "TTL k");
    WANT(c, "OK", "SET k y PXAT 4000000000123");
    WANT(c, ":4000000000123", "PEXPIRETIME k");
    WANT(c, "y", "GETEX k PERSIST");
    WANT(c, "y", "GETDEL k");
    WANT(c, "nil", "GET k");
    WANT(c, "OK", "MSET a 1 b 2");
    WANT(c, "[1 nil 2]", "MGET a none b");
    WANT(c, ":0", "MSETNX c 3 a 9");
    WANT(c, ":42", "INCRBY a 41");
    WANT(c, "42.25", "INCRBYFLOAT a 0.25");
    WANT(c, ":11", "APPEND s %s", "Hello World");
    WANT(c, ":11", "SETRANGE s 6 Redis");
    WANT(c, "Redis", "GETRANGE s -5 -1");
}

static void keys_and_expiry(redisContext *c)
{
    WANT(c, "OK", "MSET user:1 a user:2 b");
    WANT(c, "[user:2]", "KEYS user:[^1]");
    WANT(c, ":2", "EXISTS user:1 user:1 none");
    WANT(c, "string", "TYPE user:1");
    WANT(c, ":1", "EXPIRE user:1 100");
    WANT(c, ":0", "EXPIRE user:1 50 GT");
    WANT(c, ":1", "EXPIRE user:1 50 LT");
    WANT(c, ":50", "TTL user:1");
    WANT(c, ":-1", "TTL user:2");
    WANT(c, ":-2", "TTL none");
    WANT(c, ":1", "PERSIST user:1");
    WANT(c, "OK", "RENAME user:2 other");
    WANT(c, ":1", "COPY user:1 other REPLACE");
    WANT(c, "embstr", "OBJECT ENCODING other");
    WANT(c, ":2", "UNLINK user:1 other");
    WANT(c, ":0", "DBSIZE");
}

static void collections(redisContext *c)
{
    WANT(c, ":2", "HSET h name Ada age 36");
    WANT(c, "[name Ada age 36]", "HGETALL h");
    WANT(c, "[Ada nil]", "HMGET h name none");
    WANT(c, ":30", "HINCRBY h age -6");
    WANT(c, ":2", "HDEL h name age none");
    WANT(c, ":4", "RPUSH l a b c d");
    WANT(c, ":5", "LPUSH l z");
    WANT(c, "[z a b c d]", "LRANGE l 0 -1");
    WANT(c, "[:3]", "LPOS l c COUNT 0");
    WANT(c, "d", "LMOVE l m RIGHT LEFT");
    WANT(c, "[l [z a b c]]", "LMPOP 2 none l LEFT COUNT 9");
    WANT(c, ":3", "SADD s 1 2 3");
    WANT(c, ":2", "SADD t 3 4");
    WANT(c, "[3]", "SINTER s t");
    WANT(c, ":4", "SUNIONSTORE u s t");
    WANT(c, "[:1 :0]", "SMISMEMBER s 1 9");
    WANT(c, ":1", "SINTERCARD 2 s t LIMIT 5");
    WANT(c, "intset", "OBJECT ENCODING u");
}

static void sorted_sets(redisContext *c)
{
    WANT(c, ":4", "ZADD z 1 a 2 b 3 c 4 d");
    WANT(c, ":0", "ZADD z NX 9 a");
    WANT(c, "1.5", "ZADD z XX GT INCR 0.5 a");
    WANT(c, "[a 1.5 b 2]", "ZRANGE z 0 1 WITHSCORES");
    WANT(c, "[d c]", "ZRANGE z 0 1 REV");
    WANT(c, "[c]", "ZRANGE z (1.5 +inf BYSCORE LIMIT 1 1");
    WANT(c, "[d c]", "ZRANGE z +inf (2 BYSCORE REV");
    WANT(c, ":2", "ZRANGESTORE to z 1 2");
    WANT(c, ":3", "ZADD lex 0 a 0 b 0 c");
    WANT(c, "[b c]", "ZRANGE lex [b + BYLEX");
    WANT(c, "[b a]", "ZRANGE lex (c - BYLEX REV");
    WANT(c, ":2", "ZREVRANK z b");
    WANT(c, ":3", "ZUNIONSTORE u 2 to lex WEIGHTS 2 1 AGGREGATE MAX");
    WANT(c, "[a 0 b 4 c 6]", "ZRANGE u 0 -1 WITHSCORES");
    WANT(c, "[d]", "ZDIFF 3 z lex to");
    WANT(c, "[d 4 c 3]", "ZPOPMAX z 2");
}

static void scanning(redisContext *c)
{
    char cursor[32] = "0", seen[2000] = {0};
    int found = 0;
    for (int i = 0; i < 2000; i++)
        redisAppendCommand(c, "SET key:%d v", i);
    for (int i = 0; i < 2000; i++)
        NEXT(c, "OK");
    do {
        redisReply *page = redisCommand(c, "SCAN %s MATCH key:* COUNT 100", cursor);
        if (page == NULL || page->type != REDIS_REPLY_ARRAY || page->elements != 2) {
            CHECK(0 && "a page of SCAN");
            return;
        }
        for (size_t i = 0; i < page->element[1]->elements; i++) {
            int number = atoi(page->element[1]->element[i]->str + strlen("key:"));
            found += !seen[number];
            seen[number] = 1;
        }
        snprintf(cursor, sizeof cursor, "%s", page->element[0]->str);
        freeReplyObject(page);
    } while (strcmp(cursor, "0") != 0);
    CHECK(found == 2000);
}

static void pipelines(redisContext *c)
{
    char number[16];
    for (int i = 0; i < 5000; i++) {
        redisAppendCommand(c, "SET key:%d %d", i, i);
        redisAppendCommand(c, "GET key:%d", i);
    }
    for (int i = 0; i < 5000; i++) {
        snprintf(number, sizeof number, "%d", i);
        NEXT(c, "OK");
        NEXT(c, number);
    }
}

static void transactions(redisContext *c)
{
    redisContext *other = open_connection();
    WANT(c, "OK", "MULTI");
    WANT(c, "QUEUED", "SET a 1");
    WANT(c, "QUEUED", "LPUSH a x");
    WANT(c, "QUEUED", "INCR a");
    WANT(c, "[OK -WRONGTYPE Operation against a key holding the wrong kind of value :2]", "EXEC");
    WANT(c, "OK", "WATCH a");
    WANT(other, "OK", "SET a elsewhere");
    WANT(c, "OK", "MULTI");
    WANT(c, "QUEUED", "SET a mine");
    WANT(c, "nil", "EXEC");
    WANT(c, "elsewhere", "GET a");
    WANT(c, "OK", "MULTI");
    WANT(c, "-ERR wrong number of arguments for 'set' command", "SET a");
    WANT(c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC");
    WANT(c, "-ERR DISCARD without MULTI", "DISCARD");
    redisFree(other);
}

static void publish_subscribe(redisContext *c)
{
    redisContext *listener = open_connection();
    WANT(listener, "[subscribe news :1]", "SUBSCRIBE news");
    WANT(listener, "[psubscribe user.* :2]", "PSUBSCRIBE user.*");
    WANT(c, ":1", "PUBLISH news hello");
    WANT(c, ":1", "PUBLISH user.7 hi");
    NEXT(listener, "[message news hello]");
    NEXT(listener, "[pmessage user.* user.7 hi]");
    WANT(listener, "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
         "GET k");
    if (is_dormouse) {
        WANT(c, "OK", "DORMOUSE SLEEP");
        WANT(c, ":1", "PUBLISH news awake?");
        NEXT(listener, "[message news awake?]");
    }
    redisFree(listener);
}

static void values(redisContext *c)
{
    size_t size = 1 << 20;
    char every[256], *big = malloc(size);
    for (size_t i = 0; i < size; i++)
        big[i] = every[i % 256] = (char)i;
    WANT(c, "OK", "SET %b %b", every, sizeof every, big, size);
    redisReply *reply = redisCommand(c, "GET %b", every, sizeof every);
    CHECK(reply != NULL && reply->type == REDIS_REPLY_STRING && reply->len == size && memcmp(reply->str, big, size) == 0);
    freeReplyObject(reply);
    free(big);
    WANT(c, "OK", "SET %b %b", "", (size_t)0, "", (size_t)0);
    WANT(c, "", "GET %b", "", (size_t)0);
}

static void many_connections(redisContext *c)
{
    enum { COUNT = 200 };
    redisContext *all[COUNT];
    for (int i = 0; i < COUNT; i++) {
        all[i] = open_connection();
        redisAppendCommand(all[i], "INCRBY counter %d", i);
        for (int done = 0; !done;)
            redisBufferWrite(all[i], &done);
    }
    for (int i = 0; i < COUNT; i++) {
        redisReply *reply = NULL;
        redisGetReply(all[i], (void **)&reply);
        CHECK(reply != NULL && reply->type == REDIS_REPLY_INTEGER);
        freeReplyObject(reply);
        redisFree(all[i]);
    }
    WANT(c, "19900", "GET counter");
}

static void errors(redisContext *c)
{
    WANT(c, "OK", "SET s text");
    WANT(c, "-WRONGTYPE Operation against a key holding the wrong kind of value", "LPUSH s x");
    WANT(c, "-ERR value is not an integer or out of range", "INCR s");
    WANT(c, "-ERR syntax error", "SET s v SIDEWAYS");
    WANT(c, "-ERR wrong number of arguments for 'get' command", "GET");
    WANT(c, "-ERR unknown command 'NONSENSE', with args beginning with: 'x' ", "NONSENSE x");
    WANT(c, "text", "GET s");
}

static void fill(redisContext *c)
{
    WANT(c, "OK", "SET counter 7");
    for (int i = 0; i < 1000; i++) {
        redisAppendCommand(c, "HSET hash f%d %d", i, i);
        redisAppendCommand(c, "RPUSH list %d", i);
        redisAppendCommand(c, "ZADD zset %d m%d", i, i);
    }
    for (int i = 0; i < 3000; i++) {
        redisReply *reply = NULL;
        redisGetReply(c, (void **)&reply);
        CHECK(reply != NULL && reply->type == REDIS_REPLY_INTEGER);
        freeReplyObject(reply);
    }
}

static void check_filled(redisContext *c)
{
    WANT(c, "7", "GET counter");
    WANT(c, ":1000", "HLEN hash");
    WANT(c, "999", "HGET hash f999");
    WANT(c, "[0 1 2]", "LRANGE list 0 2");
    WANT(c, "999", "LINDEX list -1");
    WANT(c, ":500", "ZRANK zset m500");
    WANT(c, "[m998 998 m999 999]", "ZRANGE zset -2 -1 WITHSCORES");
}

static void sleep_and_wake(redisContext *c)
{
    if (!is_dormouse)
        return;
    redisContext *other = open_connection();
    fill(c);
    WANT(c, "OK", "DORMOUSE SLEEP");
    check_filled(other);
    WANT(other, "OK", "DORMOUSE SLEEP");
    check_filled(c);
    WANT(c, "OK", "DORMOUSE SLEEP");
    WANT(c, ":8", "INCR counter");
    redisFree(other);
}

static void restart(redisContext *c)
{
    char line[32] = "";
    fill(c);
    puts("RESTART");
    fflush(stdout);
    CHECK(fgets(line, sizeof line, stdin) != NULL && strcmp(line, "RESTARTED\n") == 0);
    CHECK(redisReconnect(c) == REDIS_OK);
    check_filled(c);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(redisContext *);
    } steps[] = {
        {"strings", strings},           {"keys and expiry", keys_and_expiry},
        {"collections", collections},   {"sorted sets", sorted_sets},
        {"scanning", scanning},         {"pipelines", pipelines},
        {"transactions", transactions}, {"publish and subscribe", publish_subscribe},
        {"values", values},             {"many connections", many_connections},
        {"errors", errors},             {"sleep and wake", sleep_and_wake},
        {"restart", restart},
    };
    int count = sizeof steps / sizeof steps[0], failed = 0;
    port = atoi(getenv("DORMOUSE_TEST_PORT"));
    is_dormouse = strcmp(getenv("DORMOUSE_TEST_SERVER"), "dormouse") == 0;
    for (int i = 0; i < count; i++) {
        redisContext *c = open_connection();
        failures = 0;
        WANT(c, "OK", "FLUSHALL");
        steps[i].run(c);
        redisFree(c);
        printf("%s %s\n", failures ? "not ok" : "ok", steps[i].name);
        fflush(stdout);
        failed += failures > 0;
    }
    printf("%d passed, %d failed\n", count - failed, failed);
    return failed > 0;
}
