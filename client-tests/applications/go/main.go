// Applications in Go; the argument names one. The runner's side of the protocol is described in client-tests/src/lib.rs.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A step takes seconds; a machine that is busy with a build may need far longer.
const limit = 40 * time.Second

var (
	ctx      = context.Background()
	address  = "127.0.0.1:" + os.Getenv("DORMOUSE_TEST_PORT")
	operator = redis.NewClient(&redis.Options{Addr: address})
)

type step struct {
	name string
	run  func()
}

func main() {
	steps, known := map[string][]step{"asynq": asynqSteps, "rueidis": rueidisSteps}[os.Args[1]]
	if !known {
		panic("no application is called " + os.Args[1])
	}
	failed := 0
	for _, step := range steps {
		must(operator.FlushAll(ctx).Err())
		start := time.Now()
		if problem := attempt(step.run); problem != nil {
			failed++
			fmt.Printf("not ok %s\n%v\n", step.name, problem)
		} else {
			fmt.Printf("ok %s (%d ms)\n", step.name, time.Since(start).Milliseconds())
		}
	}
	fmt.Printf("%d passed, %d failed\n", len(steps)-failed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func attempt(run func()) (problem any) {
	defer func() { problem = recover() }()
	run()
	return nil
}

// sleep puts the database to sleep from a connection of its own.
func sleep() {
	if os.Getenv("DORMOUSE_TEST_SERVER") != "dormouse" {
		return
	}
	until("the database sleeps", func() bool {
		err := operator.Do(ctx, "DORMOUSE", "SLEEP").Err()
		// A database that is written to in each round of its last checkpoint stays awake.
		if err != nil && !strings.Contains(err.Error(), "clients go on writing") {
			panic(err)
		}
		return err == nil
	})
}

func until(what string, condition func() bool) {
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			panic("still not so: " + what)
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func value[T any](v T, err error) T {
	must(err)
	return v
}

func equal[T comparable](what string, got, want T) {
	if got != want {
		panic(fmt.Sprintf("%s: %v, not %v", what, got, want))
	}
}
