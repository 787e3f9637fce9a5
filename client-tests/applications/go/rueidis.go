package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

var rueidisSteps = []step{
	{"commands are pipelined by themselves", commandsArePipelined},
	{"a dedicated connection has transactions", aDedicatedConnection},
	{"scripts are loaded once", scriptsAreLoadedOnce},
	{"messages arrive", messagesArrive},
	{"copies are kept until their key changes", copiesAreKept},
}

func connect() rueidis.Client {
	return value(rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}}))
}

func commandsArePipelined() {
	c := connect()
	defer c.Close()
	var commands rueidis.Commands
	for n := range 100 {
		commands = append(commands, c.B().Set().Key(fmt.Sprint("key", n)).Value(fmt.Sprint(n)).Build())
	}
	for _, reply := range c.DoMulti(ctx, commands...) {
		must(reply.Error())
	}
	sleep()
	done := make(chan error)
	for n := range 100 {
		go func() {
			got, err := c.Do(ctx, c.B().Incr().Key(fmt.Sprint("key", n)).Build()).AsInt64()
			if err == nil && got != int64(n+1) {
				err = fmt.Errorf("key%d is %d", n, got)
			}
			done <- err
		}()
	}
	for range 100 {
		must(<-done)
	}
	sleep()
	got := value(rueidis.MGet(c, ctx, []string{"key7", "none"}))
	seven := got["key7"]
	equal("key7", value(seven.AsInt64()), 8)
}

func aDedicatedConnection() {
	c := connect()
	defer c.Close()
	must(c.Dedicated(func(d rueidis.DedicatedClient) error {
		must(d.Do(ctx, d.B().Watch().Key("balance").Build()).Error())
		sleep()
		replies := d.DoMulti(ctx, d.B().Multi().Build(), d.B().Incr().Key("balance").Build(), d.B().Exec().Build())
		results := value(replies[2].ToArray())
		equal("balance", value(results[0].AsInt64()), 1)
		must(d.Do(ctx, d.B().Watch().Key("balance").Build()).Error())
		must(c.Do(ctx, c.B().Set().Key("balance").Value("9").Build()).Error())
		sleep()
		replies = d.DoMulti(ctx, d.B().Multi().Build(), d.B().Incr().Key("balance").Build(), d.B().Exec().Build())
		if !rueidis.IsRedisNil(replies[2].Error()) {
			panic("a transaction over a changed key was run")
		}
		return nil
	}))
}

func scriptsAreLoadedOnce() {
	c := connect()
	defer c.Close()
	script := rueidis.NewLuaScript("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}")
	for n := range 3 {
		reply := value(script.Exec(ctx, c, []string{"count"}, []string{"x"}).ToArray())
		equal("count", value(reply[2].AsInt64()), int64(n+1))
		sleep()
	}
}

func messagesArrive() {
	c := connect()
	defer c.Close()
	listening, end := context.WithCancel(ctx)
	defer end()
	seen := make(chan string, 10)
	go c.Receive(listening, c.B().Psubscribe().Pattern("news.*").Build(), func(m rueidis.PubSubMessage) {
		seen <- m.Channel + " " + m.Message
	})
	tell := func(text string) int64 {
		return value(c.Do(ctx, c.B().Publish().Channel("news.today").Message(text).Build()).AsInt64())
	}
	until("it has subscribed", func() bool { return tell("first") == 1 })
	equal("first", <-seen, "news.today first")
	sleep()
	equal("receivers", tell(strings.Repeat("x", 10_000)), 1)
	equal("second", len(<-seen), 10_011)
}

func copiesAreKept() {
	c, other := connect(), connect()
	defer c.Close()
	defer other.Close()
	set := func(text string) { must(other.Do(ctx, other.B().Set().Key("kept").Value(text).Build()).Error()) }
	get := func() (string, bool) {
		reply := c.DoCache(ctx, c.B().Get().Key("kept").Cache(), time.Minute)
		return value(reply.ToString()), reply.IsCacheHit()
	}
	set("1")
	text, isCopy := get()
	equal("first", fmt.Sprintf("%s %t", text, isCopy), "1 false")
	sleep()
	text, isCopy = get()
	equal("second", fmt.Sprintf("%s %t", text, isCopy), "1 true")
	set("2")
	until("it has forgotten the copy", func() bool { text, _ := get(); return text == "2" })
}
