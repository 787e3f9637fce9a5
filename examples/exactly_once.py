"""Exactly once with redis-py.

redis-py sends a command again if the connection breaks before the reply has come, so a counter may count twice. This client gives
each command that is not safe to repeat a key, and all attempts of one call have the same key:

    client = ExactlyOnce(port=6379, retry=Retry(ExponentialBackoff(), 5), retry_on_error=[ConnectionError, TimeoutError])
    client.incr("visits")

Pipelines have calls of their own and are sent as they are.
"""

import uuid

import redis

# For how long the server recognises a repetition: longer than any client goes on trying.
REMEMBERED_MS = 60 * 60 * 1000

# Commands that change more, or answer otherwise, if they are run twice.
KEYED = frozenset(
    """
    APPEND DECR DECRBY GETDEL GETSET HINCRBY HINCRBYFLOAT HSETNX INCR INCRBY INCRBYFLOAT LINSERT LMOVE LMPOP LPOP LPUSH
    LPUSHX LREM MSETNX RENAME RENAMENX RPOP RPOPLPUSH RPUSH RPUSHX SETNX SMOVE SPOP XADD ZADD ZINCRBY ZMPOP ZPOPMAX ZPOPMIN
    DEL DELEX DELIFEQ INCREX LMOVEM MSETEX SADD SREM HDEL ZREM SET EVAL EVALSHA FCALL
    """.split()
)


class ExactlyOnce(redis.Redis):
    def execute_command(self, *args, **options):
        if args[0] in KEYED:
            options["replied_as"] = args[0]
            args = ("ONCE", uuid.uuid4().hex, REMEMBERED_MS, *args)
        return super().execute_command(*args, **options)

    def parse_response(self, connection, command_name, replied_as=None, **options):
        return super().parse_response(connection, replied_as or command_name, **options)
