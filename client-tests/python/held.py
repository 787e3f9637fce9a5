"""Increments a counter once, by redis-py's defaults. client-tests/src/held.rs describes what is printed."""

import os
import sys

import redis

client = redis.Redis(port=int(os.environ["DORMOUSE_TEST_PORT"]))
try:
    print("reply", client.incr(sys.argv[1]))
except redis.RedisError as problem:
    print("error", problem)
