package main

import (
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Increments a counter once, by go-redis's defaults. client-tests/src/held.rs describes what is printed.
func incrementOnce(counter string) {
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	number, problem := client.Incr(ctx, counter).Result()
	if problem != nil {
		fmt.Println("error", strings.ReplaceAll(problem.Error(), "\n", " "))
		return
	}
	fmt.Println("reply", number)
}
