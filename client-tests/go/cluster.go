package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The client of Redis Cluster, with a token for each database.
func clusterTour() {
	steps := []struct {
		name string
		run  func(*redis.ClusterClient)
	}{
		{"topology", clusterTopology}, {"keys of many slots", keysOfManySlots}, {"databases apart", databasesApart},
		{"publish and subscribe", publishInCluster}, {"restart", restartOfCluster},
	}
	failed := 0
	for _, step := range steps {
		problem := attemptInCluster(step.run)
		if problem != "" {
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

func attemptInCluster(step func(*redis.ClusterClient)) (problem string) {
	client := openCluster(0)
	defer client.Close()
	defer func() {
		if reason := recover(); reason != nil {
			problem = fmt.Sprint(reason)
		}
	}()
	ok(client.FlushAll(ctx))
	step(client)
	return ""
}

func openCluster(database int) *redis.ClusterClient {
	token := strings.Fields(os.Getenv("DORMOUSE_TEST_TOKENS"))[database]
	return redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{address}, Password: token})
}

func clusterTopology(c *redis.ClusterClient) {
	slots, err := c.ClusterSlots(ctx).Result()
	if err != nil || len(slots) != 1 || slots[0].End != 16383 || slots[0].Nodes[0].Addr != address {
		fail("%v: %v", slots, err)
	}
	shards, err := c.ClusterShards(ctx).Result()
	if err != nil || len(shards) != 1 || shards[0].Nodes[0].Health != "online" {
		fail("%v: %v", shards, err)
	}
	if slot := c.ClusterKeySlot(ctx, "{user}:1").Val(); slot != 5474 {
		fail("slot %d", slot)
	}
}

func keysOfManySlots(c *redis.ClusterClient) {
	pipe := c.Pipeline()
	for n := range 300 {
		pipe.Set(ctx, fmt.Sprint("key:", n), n, 0)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		fail("%v", err)
	}
	for n := range 300 {
		if value := c.Get(ctx, fmt.Sprint("key:", n)).Val(); value != fmt.Sprint(n) {
			fail("key:%d is %q", n, value)
		}
	}
	if size := c.DBSize(ctx).Val(); size != 300 {
		fail("%d keys", size)
	}
}

func databasesApart(c *redis.ClusterClient) {
	other := openCluster(1)
	defer other.Close()
	ok(other.FlushAll(ctx))
	ok(c.Set(ctx, "whose", "first", 0))
	if err := other.Get(ctx, "whose").Err(); err != redis.Nil {
		fail("%v", err)
	}
	ok(other.Set(ctx, "whose", "second", 0))
	if value := c.Get(ctx, "whose").Val(); value != "first" {
		fail("%q", value)
	}
}

func publishInCluster(c *redis.ClusterClient) {
	subscriber := c.Subscribe(ctx, "news")
	defer subscriber.Close()
	if _, err := subscriber.Receive(ctx); err != nil {
		fail("%v", err)
	}
	if err := c.Publish(ctx, "news", "hello").Err(); err != nil {
		fail("%v", err)
	}
	message, err := subscriber.ReceiveMessage(ctx)
	if err != nil || message.Payload != "hello" {
		fail("%v: %v", message, err)
	}
}

func restartOfCluster(c *redis.ClusterClient) {
	ok(c.Set(ctx, "kept", "v", 0))
	fmt.Println("RESTART")
	if line, err := input.ReadString('\n'); line != "RESTARTED\n" {
		fail("the runner says %q: %v", line, err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for c.Get(ctx, "kept").Val() != "v" {
		if time.Now().After(deadline) {
			fail("still not reachable after 20 s")
		}
	}
}
