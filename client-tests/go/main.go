// go-redis's tour. The runner's side of it is described in client-tests/src/lib.rs.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	ctx        = context.Background()
	address    = "127.0.0.1:" + os.Getenv("DORMOUSE_TEST_PORT")
	isDormouse = os.Getenv("DORMOUSE_TEST_SERVER") == "dormouse"
	input      = bufio.NewReader(os.Stdin)
)

// overTLS trusts the authority of the server, if it speaks TLS.
func overTLS() *tls.Config {
	file := os.Getenv("DORMOUSE_TEST_TLS_CA")
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		panic(fmt.Sprintf("no authority in %s: %v", file, err))
	}
	return &tls.Config{RootCAs: roots}
}

func connect(change ...func(*redis.Options)) *redis.Client {
	options := &redis.Options{Addr: address, Protocol: 2, PoolSize: 50, TLSConfig: overTLS()}
	for _, apply := range change {
		apply(options)
	}
	return redis.NewClient(options)
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "cluster" {
		clusterTour()
		return
	}
	if len(os.Args) > 1 {
		incrementOnce(os.Args[1])
		return
	}
	steps := []struct {
		name string
		run  func(*redis.Client)
	}{
		{"strings", stringValues}, {"keys and expiry", keysAndExpiry}, {"hashes", hashes}, {"lists", lists},
		{"sets", sets}, {"sorted sets", sortedSets}, {"scanning", scanning}, {"pipelines", pipelines},
		{"transactions", transactions}, {"publish and subscribe", publishSubscribe}, {"values", values},
		{"concurrency", concurrency}, {"errors", errorReplies}, {"RESP3", resp3},
		{"sleep and wake", sleepAndWake}, {"restart", restart},
	}
	failed := 0
	for _, step := range steps {
		if problem := attempt(step.run); problem != "" {
			failed++
			fmt.Printf("not ok %s\n%s\n", step.name, problem)
		} else {
			fmt.Println("ok", step.name)
		}
	}
	fmt.Printf("%d passed, %d failed\n", len(steps)-failed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func attempt(step func(*redis.Client)) (problem string) {
	client := connect()
	defer client.Close()
	defer func() {
		if reason := recover(); reason != nil {
			problem = fmt.Sprintf("%v\n%s", reason, debug.Stack())
		}
	}()
	ok(client.FlushAll(ctx))
	step(client)
	return ""
}

// A reply of go-redis: its value and its error.
type reply[T any] interface{ Result() (T, error) }

// is demands a reply without an error and with this value.
func is[T any](got reply[T], want T) {
	value, err := got.Result()
	if err != nil {
		fail("%v: %v", got, err)
	}
	if !reflect.DeepEqual(value, want) {
		fail("%v: got %v, want %v", got, value, want)
	}
}

func ok[T any](got reply[T]) T {
	value, err := got.Result()
	if err != nil {
		fail("%v: %v", got, err)
	}
	return value
}

// anyOrder is is for what has no order.
func anyOrder(got *redis.StringSliceCmd, want ...string) {
	value := slices.Sorted(slices.Values(ok(got)))
	slices.Sort(want)
	if !slices.Equal(value, want) {
		fail("%v: got %v, want %v", got, value, want)
	}
}

func isNil[T any](got reply[T]) {
	if _, err := got.Result(); err != redis.Nil {
		fail("%v: got %v, want nil", got, err)
	}
}

func refused[T any](got reply[T], message string) {
	if _, err := got.Result(); err == nil || err.Error() != message {
		fail("got error %q, want %q", err, message)
	}
}

func fail(format string, arguments ...any) {
	_, _, line, _ := runtime.Caller(2)
	panic(fmt.Sprintf("line %d: ", line) + fmt.Sprintf(format, arguments...))
}

func stringValues(c *redis.Client) {
	is(c.Set(ctx, "k", "v", 0), "OK")
	isNil(c.SetArgs(ctx, "k", "w", redis.SetArgs{Mode: "NX"}))
	is(c.SetArgs(ctx, "k", "w", redis.SetArgs{Mode: "XX", Get: true, TTL: 100 * time.Second}), "v")
	is(c.Set(ctx, "k", "x", redis.KeepTTL), "OK")
	is(c.TTL(ctx, "k"), 100*time.Second)
	is(c.SetArgs(ctx, "k", "y", redis.SetArgs{ExpireAt: time.Unix(4_000_000_000, 0)}), "OK")
	is(c.ExpireTime(ctx, "k"), 4_000_000_000*time.Second)
	is(c.Set(ctx, "k", "z", 1500*time.Millisecond), "OK")
	if left := ok(c.PTTL(ctx, "k")); left <= 0 || left > 1500*time.Millisecond {
		fail("PTTL %v", left)
	}
	is(c.GetEx(ctx, "k", 0), "z")
	is(c.TTL(ctx, "k"), -1)
	is(c.GetDel(ctx, "k"), "z")
	isNil(c.Get(ctx, "k"))
	is(c.MSet(ctx, "a", 1, "b", 2), "OK")
	is(c.MGet(ctx, "a", "none", "b"), []any{"1", nil, "2"})
	is(c.MSetNX(ctx, "c", 3, "a", 9), false)
	is(c.IncrBy(ctx, "a", 41), 42)
	is(c.Decr(ctx, "a"), 41)
	is(c.IncrByFloat(ctx, "a", 0.25), 41.25)
	is(c.Append(ctx, "s", "Hello World"), 11)
	is(c.SetRange(ctx, "s", 6, "Redis"), 11)
	is(c.GetRange(ctx, "s", -5, -1), "Redis")
	is(c.StrLen(ctx, "s"), 11)
}

func keysAndExpiry(c *redis.Client) {
	ok(c.MSet(ctx, "user:1", "a", "user:2", "b", "other", "c"))
	anyOrder(c.Keys(ctx, "user:*"), "user:1", "user:2")
	is(c.DBSize(ctx), 3)
	is(c.Exists(ctx, "user:1", "user:1", "none"), 2)
	is(c.Type(ctx, "user:1"), "string")
	is(c.Type(ctx, "none"), "none")
	is(c.Rename(ctx, "other", "another"), "OK")
	is(c.RenameNX(ctx, "another", "user:1"), false)
	is(c.Copy(ctx, "user:1", "user:2", 0, true), 1)
	is(c.Expire(ctx, "user:1", 100*time.Second), true)
	is(c.ExpireGT(ctx, "user:1", 50*time.Second), false)
	is(c.ExpireLT(ctx, "user:1", 50*time.Second), true)
	is(c.TTL(ctx, "user:1"), 50*time.Second)
	is(c.TTL(ctx, "none"), -2)
	is(c.Persist(ctx, "user:1"), true)
	is(c.PExpire(ctx, "user:2", time.Millisecond), true)
	until(func() bool { return ok(c.Exists(ctx, "user:2")) == 0 })
	is(c.ObjectEncoding(ctx, "user:1"), "embstr")
	is(c.Move(ctx, "another", 3), true)
	is(c.Unlink(ctx, "user:1", "none"), 1)
	is(c.DBSize(ctx), 0)
}

func hashes(c *redis.Client) {
	is(c.HSet(ctx, "h", "name", "Ada", "age", 36), 2)
	is(c.HGetAll(ctx, "h"), map[string]string{"name": "Ada", "age": "36"})
	is(c.HMGet(ctx, "h", "name", "none"), []any{"Ada", nil})
	is(c.HIncrBy(ctx, "h", "age", -6), 30)
	is(c.HIncrByFloat(ctx, "h", "age", 0.5), 30.5)
	is(c.HSetNX(ctx, "h", "name", "x"), false)
	is(c.HExists(ctx, "h", "name"), true)
	anyOrder(c.HKeys(ctx, "h"), "name", "age")
	anyOrder(c.HVals(ctx, "h"), "Ada", "30.5")
	var person struct {
		Name string  `redis:"name"`
		Age  float64 `redis:"age"`
	}
	if err := c.HGetAll(ctx, "h").Scan(&person); err != nil || person.Name != "Ada" || person.Age != 30.5 {
		fail("%v %v", person, err)
	}
	is(c.HDel(ctx, "h", "name", "age", "none"), 2)
	isNil(c.HGet(ctx, "h", "name"))
	is(c.HLen(ctx, "h"), 0)
}

func lists(c *redis.Client) {
	is(c.RPush(ctx, "l", "a", "b", "c", "d"), 4)
	is(c.LPush(ctx, "l", "z"), 5)
	is(c.LRange(ctx, "l", 0, -1), []string{"z", "a", "b", "c", "d"})
	is(c.LInsertAfter(ctx, "l", "z", "y"), 6)
	is(c.LSet(ctx, "l", -1, "e"), "OK")
	is(c.LIndex(ctx, "l", -1), "e")
	is(c.LPopCount(ctx, "l", 2), []string{"z", "y"})
	is(c.LPos(ctx, "l", "c", redis.LPosArgs{Rank: -1}), 2)
	is(c.LRem(ctx, "l", 0, "c"), 1)
	is(c.LMove(ctx, "l", "m", "RIGHT", "LEFT"), "e")
	key, popped, err := c.LMPop(ctx, "left", 9, "none", "l").Result()
	if key != "l" || !slices.Equal(popped, []string{"a", "b"}) || err != nil {
		fail("LMPOP %s %v %v", key, popped, err)
	}
	is(c.RPushX(ctx, "none", "x"), 0)
	ok(c.RPush(ctx, "t", 1, 2, 3, 4, 5))
	is(c.LTrim(ctx, "t", 1, -2), "OK")
	is(c.LRange(ctx, "t", 0, -1), []string{"2", "3", "4"})
	isNil(c.LPop(ctx, "none"))
}

func sets(c *redis.Client) {
	is(c.SAdd(ctx, "a", 1, 2, 3, 3), 3)
	is(c.SAdd(ctx, "b", 2, 3, 4), 3)
	anyOrder(c.SInter(ctx, "a", "b"), "2", "3")
	anyOrder(c.SUnion(ctx, "a", "b"), "1", "2", "3", "4")
	anyOrder(c.SDiff(ctx, "a", "b"), "1")
	is(c.SUnionStore(ctx, "d", "a", "b"), 4)
	is(c.SInterCard(ctx, 1, "a", "b"), 1)
	is(c.SMIsMember(ctx, "a", "1", "9"), []bool{true, false})
	is(c.SMembersMap(ctx, "b"), map[string]struct{}{"2": {}, "3": {}, "4": {}})
	is(c.SMove(ctx, "a", "b", 1), true)
	is(c.SRem(ctx, "a", 2, 9), 1)
	anyOrder(c.SPopN(ctx, "b", 9), "1", "2", "3", "4")
	is(c.SRandMemberN(ctx, "a", -2), []string{"3", "3"})
	is(c.SCard(ctx, "a"), 1)
}

func sortedSets(c *redis.Client) {
	is(c.ZAdd(ctx, "z", redis.Z{Score: 1, Member: "a"}, redis.Z{Score: 2, Member: "b"}, redis.Z{Score: 3, Member: "c"}), 3)
	is(c.ZAddNX(ctx, "z", redis.Z{Score: 9, Member: "a"}), 0)
	is(c.ZAddArgs(ctx, "z", redis.ZAddArgs{GT: true, Ch: true, Members: []redis.Z{{Score: 4, Member: "d"}}}), 1)
	is(c.ZAddArgsIncr(ctx, "z", redis.ZAddArgs{XX: true, Members: []redis.Z{{Score: 0.5, Member: "a"}}}), 1.5)
	is(c.ZRange(ctx, "z", 0, -1), []string{"a", "b", "c", "d"})
	is(c.ZRangeArgs(ctx, redis.ZRangeArgs{Key: "z", Start: 0, Stop: 1, Rev: true}), []string{"d", "c"})
	is(c.ZRangeArgs(ctx, redis.ZRangeArgs{Key: "z", Start: "(1.5", Stop: "+inf", ByScore: true, Offset: 1, Count: 1}), []string{"c"})
	is(c.ZRangeArgs(ctx, redis.ZRangeArgs{Key: "z", Start: "+inf", Stop: "(2", ByScore: true, Rev: true}), []string{"d", "c"})
	is(c.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{Key: "z", Start: 0, Stop: 0}), []redis.Z{{Score: 1.5, Member: "a"}})
	is(c.ZRangeStore(ctx, "to", redis.ZRangeArgs{Key: "z", Start: 1, Stop: 2}), 2)
	for _, member := range "abcde" {
		ok(c.ZAdd(ctx, "lex", redis.Z{Member: string(member)}))
	}
	is(c.ZRangeArgs(ctx, redis.ZRangeArgs{Key: "lex", Start: "[b", Stop: "(e", ByLex: true}), []string{"b", "c", "d"})
	is(c.ZRangeArgs(ctx, redis.ZRangeArgs{Key: "lex", Start: "+", Stop: "[d", ByLex: true, Rev: true}), []string{"e", "d"})
	is(c.ZRangeByLex(ctx, "lex", &redis.ZRangeBy{Min: "-", Max: "[b"}), []string{"a", "b"})
	is(c.ZLexCount(ctx, "lex", "-", "+"), 5)
	is(c.ZRemRangeByLex(ctx, "lex", "[a", "[b"), 2)
	is(c.ZRemRangeByScore(ctx, "lex", "0", "0"), 3)
	is(c.ZRank(ctx, "z", "c"), 2)
	is(c.ZRevRank(ctx, "z", "c"), 1)
	isNil(c.ZRank(ctx, "z", "none"))
	is(c.ZCount(ctx, "z", "2", "(4"), 2)
	is(c.ZMScore(ctx, "z", "a", "none"), []float64{1.5, 0})
	ok(c.ZAdd(ctx, "y", redis.Z{Score: 10, Member: "a"}, redis.Z{Score: 20, Member: "x"}))
	is(c.ZUnionStore(ctx, "u", &redis.ZStore{Keys: []string{"z", "y"}, Weights: []float64{2, 1}, Aggregate: "MAX"}), 5)
	is(c.ZScore(ctx, "u", "d"), 8)
	is(c.ZInterWithScores(ctx, &redis.ZStore{Keys: []string{"z", "y"}}), []redis.Z{{Score: 11.5, Member: "a"}})
	is(c.ZDiff(ctx, "z", "y"), []string{"b", "c", "d"})
	is(c.ZPopMin(ctx, "z", 1), []redis.Z{{Score: 1.5, Member: "a"}})
	is(c.ZPopMax(ctx, "z", 2), []redis.Z{{Score: 4, Member: "d"}, {Score: 3, Member: "c"}})
	is(c.ZIncrBy(ctx, "z", 0.25, "b"), 2.25)
}

func scanning(c *redis.Client) {
	names := make([]string, 2000)
	pipe := c.Pipeline()
	for i := range names {
		names[i] = fmt.Sprintf("key:%d", i)
		pipe.Set(ctx, names[i], "v", 0)
		pipe.HSet(ctx, "hash", names[i], "v")
		pipe.SAdd(ctx, "set", names[i])
		pipe.ZAdd(ctx, "zset", redis.Z{Score: float64(i), Member: names[i]})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		fail("%v", err)
	}
	iterate := func(iterator *redis.ScanIterator, step int, want ...string) {
		found := map[string]bool{}
		for i := 0; iterator.Next(ctx); i++ {
			if i%step == 0 {
				found[iterator.Val()] = true
			}
		}
		if len(found) != len(want) || slices.ContainsFunc(want, func(name string) bool { return !found[name] }) {
			fail("scanned %d, want %d: %v", len(found), len(want), iterator.Err())
		}
	}
	iterate(c.Scan(ctx, 0, "key:*", 100).Iterator(), 1, names...)
	iterate(c.ScanType(ctx, 0, "", 10, "hash").Iterator(), 1, "hash")
	iterate(c.HScan(ctx, "hash", 0, "", 0).Iterator(), 2, names...)
	iterate(c.SScan(ctx, "set", 0, "key:199?", 50).Iterator(), 1, names[1990:]...)
	iterate(c.ZScan(ctx, "zset", 0, "", 500).Iterator(), 2, names...)
}

func pipelines(c *redis.Client) {
	replies, err := c.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range 5000 {
			pipe.Set(ctx, fmt.Sprint("key:", i), i, 0)
			pipe.Get(ctx, fmt.Sprint("key:", i))
		}
		return nil
	})
	if err != nil || len(replies) != 10_000 {
		fail("%d replies: %v", len(replies), err)
	}
	for i := range 5000 {
		is(replies[2*i].(*redis.StatusCmd), "OK")
		is(replies[2*i+1].(*redis.StringCmd), fmt.Sprint(i))
	}
}

func transactions(c *redis.Client) {
	var sum *redis.IntCmd
	_, err := c.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Set(ctx, "a", 1, 0)
		pipe.LPush(ctx, "a", "x")
		sum = pipe.IncrBy(ctx, "a", 41)
		return nil
	})
	if err == nil || err.Error() != "WRONGTYPE Operation against a key holding the wrong kind of value" {
		fail("%v", err)
	}
	is(sum, 42)
	transfer := func(meddle func()) error {
		return c.Watch(ctx, func(tx *redis.Tx) error {
			balance := ok(tx.IncrBy(ctx, "unrelated", 1))
			meddle()
			_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				pipe.Set(ctx, "a", balance, 0)
				return nil
			})
			return err
		}, "a")
	}
	if err := transfer(func() { ok(c.Set(ctx, "a", "from elsewhere", 0)) }); !errors.Is(err, redis.TxFailedErr) {
		fail("%v", err)
	}
	is(c.Get(ctx, "a"), "from elsewhere")
	if err := transfer(func() {}); err != nil {
		fail("%v", err)
	}
	is(c.Get(ctx, "a"), "2")
	one := c.Conn()
	defer one.Close()
	is(one.Do(ctx, "MULTI"), any("OK"))
	is(one.Do(ctx, "SET", "a", "gone"), any("QUEUED"))
	is(one.Do(ctx, "DISCARD"), any("OK"))
	refused(one.Do(ctx, "EXEC"), "ERR EXEC without MULTI")
	is(c.Get(ctx, "a"), "2")
}

func publishSubscribe(c *redis.Client) {
	listener := c.Subscribe(ctx, "news")
	defer listener.Close()
	receive(listener, "subscribe: news")
	if err := listener.PSubscribe(ctx, "user.*"); err != nil {
		fail("%v", err)
	}
	receive(listener, "psubscribe: user.*")
	is(c.Publish(ctx, "news", "hello"), 1)
	is(c.Publish(ctx, "user.7", "hi"), 1)
	is(c.Publish(ctx, "nobody", "?"), 0)
	receive(listener, "Message<news: hello>")
	receive(listener, "Message<user.7: hi>")
	is(c.PubSubChannels(ctx, "*"), []string{"news"})
	is(c.PubSubNumSub(ctx, "news"), map[string]int64{"news": 1})
	is(c.PubSubNumPat(ctx), 1)
}

func receive(listener *redis.PubSub, want string) {
	message, err := listener.ReceiveTimeout(ctx, 10*time.Second)
	if got := fmt.Sprint(message); err != nil || got != want {
		fail("received %q, want %q: %v", got, want, err)
	}
}

func values(c *redis.Client) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	big := strings.Repeat(string(every), 4096)
	is(c.Set(ctx, string(every), big, 0), "OK")
	is(c.Get(ctx, string(every)), big)
	is(c.Keys(ctx, "*"), []string{string(every)})
	is(c.HSet(ctx, "h", every, big), 1)
	is(c.HGetAll(ctx, "h"), map[string]string{string(every): big})
	is(c.Set(ctx, "größe", "mäuschen 🐭", 0), "OK")
	is(c.Get(ctx, "größe"), "mäuschen 🐭")
	is(c.Set(ctx, "", "", 0), "OK")
	is(c.Get(ctx, ""), "")
}

func concurrency(c *redis.Client) {
	own := func(options *redis.Options) { options.PoolSize = 1 }
	done := make(chan error)
	for range 100 {
		go func() {
			client := connect(own)
			defer client.Close()
			var err error
			for range 50 {
				err = errors.Join(err, client.Incr(ctx, "counter").Err())
			}
			done <- err
		}()
	}
	for range 100 {
		if err := <-done; err != nil {
			fail("%v", err)
		}
	}
	is(c.Get(ctx, "counter"), "5000")
}

func errorReplies(c *redis.Client) {
	ok(c.Set(ctx, "s", "text", 0))
	refused(c.LPush(ctx, "s", "x"), "WRONGTYPE Operation against a key holding the wrong kind of value")
	refused(c.Incr(ctx, "s"), "ERR value is not an integer or out of range")
	refused(c.Do(ctx, "SET", "s", "v", "SIDEWAYS"), "ERR syntax error")
	refused(c.Do(ctx, "GET"), "ERR wrong number of arguments for 'get' command")
	refused(c.Do(ctx, "NONSENSE", "x"), "ERR unknown command 'NONSENSE', with args beginning with: 'x' ")
	refused(c.Rename(ctx, "none", "x"), "ERR no such key")
	refused(c.Do(ctx, "ZADD", "z", "NX", "GT", 1, "a"), "ERR GT, LT, and/or NX options at the same time are not compatible")
	is(c.Get(ctx, "s"), "text")
}

func resp3(*redis.Client) {
	c := connect(func(options *redis.Options) { options.Protocol = 3 })
	defer c.Close()
	hello := ok(c.Do(ctx, "HELLO", 3)).(map[any]any)
	if hello["proto"] != int64(3) || hello["role"] != "master" {
		fail("%v", hello)
	}
	for _, tour := range []func(*redis.Client){stringValues, hashes, lists, sets, sortedSets, scanning, transactions, publishSubscribe, errorReplies} {
		ok(c.FlushAll(ctx))
		tour(c)
	}
}

func sleepAndWake(c *redis.Client) {
	if !isDormouse {
		return
	}
	fill(c)
	one, other := c.Conn(), c.Conn()
	defer one.Close()
	defer other.Close()
	listener := c.Subscribe(ctx, "news")
	defer listener.Close()
	receive(listener, "subscribe: news")
	first, second := ok(one.ClientID(ctx)), ok(other.ClientID(ctx))
	is(one.Do(ctx, "DORMOUSE", "SLEEP"), any("OK"))
	is(other.LIndex(ctx, "list", 999), "999")
	is(one.HGet(ctx, "hash", "f7"), "7")
	is(one.Do(ctx, "DORMOUSE", "SLEEP"), any("OK"))
	checkFilled(c)
	is(one.ClientID(ctx), first)
	is(other.ClientID(ctx), second)
	is(one.Do(ctx, "DORMOUSE", "SLEEP"), any("OK"))
	is(c.Publish(ctx, "news", "awake?"), 1)
	receive(listener, "Message<news: awake?>")
	is(other.Incr(ctx, "counter"), 8)
}

func restart(c *redis.Client) {
	fill(c)
	fmt.Println("RESTART")
	if line, err := input.ReadString('\n'); line != "RESTARTED\n" {
		fail("the runner says %q: %v", line, err)
	}
	checkFilled(c)
}

func fill(c *redis.Client) {
	ok(c.Set(ctx, "counter", 7, 10_000*time.Second))
	pipe := c.Pipeline()
	for i := range 1000 {
		pipe.HSet(ctx, "hash", fmt.Sprint("f", i), i)
		pipe.RPush(ctx, "list", i)
		pipe.SAdd(ctx, "set", i)
		pipe.ZAdd(ctx, "zset", redis.Z{Score: float64(i) / 2, Member: fmt.Sprint("m", i)})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		fail("%v", err)
	}
}

func checkFilled(c *redis.Client) {
	numbers, fields, scored := make([]string, 1000), map[string]string{}, make([]redis.Z, 1000)
	for i := range numbers {
		numbers[i] = fmt.Sprint(i)
		fields[fmt.Sprint("f", i)] = numbers[i]
		scored[i] = redis.Z{Score: float64(i) / 2, Member: fmt.Sprint("m", i)}
	}
	is(c.Get(ctx, "counter"), "7")
	if left := ok(c.TTL(ctx, "counter")); left < 9_900*time.Second || left > 10_000*time.Second {
		fail("TTL %v", left)
	}
	is(c.DBSize(ctx), 5)
	is(c.HGetAll(ctx, "hash"), fields)
	is(c.LRange(ctx, "list", 0, -1), numbers)
	anyOrder(c.SMembers(ctx, "set"), slices.Clone(numbers)...)
	is(c.ZRangeWithScores(ctx, "zset", 0, -1), scored)
}

func until(condition func() bool) {
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			fail("still not so after 10 s")
		}
	}
}
