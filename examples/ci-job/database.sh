#!/bin/sh
# Databases for a pull request, from a CI job. It prints what clients read, as NAME=VALUE: append that to $GITHUB_ENV, or in
# GitLab to a dotenv report.
#
#   database.sh open 17    makes a branch for pull request 17, with a copy of the data as it is now. It ends after 7 days.
#   database.sh close 17   deletes the branch
#   database.sh empty      makes an empty database for one run of tests. It ends after an hour.
#
# DORMOUSE_URL names the server, such as rediss://redis.example.com:6380. `open` and `close` take the token of the database
# from DORMOUSE_TOKEN. `empty` takes the admin token from DORMOUSE_ADMIN_TOKEN and the HTTP port from DORMOUSE_ADMIN_URL, such
# as https://redis.example.com:8443.
set -eu

# The token dm_shop_SECRET opens `shop`. A name has no underscore.
database=${DORMOUSE_TOKEN-}
database=${database#dm_}
database=${database%%_*}
branch=pr-${2-}

# With --url, the commands use this token even if there is an admin token.
exists() {
    : "${DORMOUSE_TOKEN:?set it to the token of the database}"
    dormouse db show "$branch" --url "$DORMOUSE_URL" >/dev/null 2>&1
}

delete() {
    dormouse db delete "$branch" --now --url "$DORMOUSE_URL" >&2
}

case "${1-} $#" in
"open 2")
    # A further push begins with fresh data.
    if exists; then delete; fi
    dormouse db branch "$database" "$branch" --ttl 7d --url "$DORMOUSE_URL" >&2
    # The token stands in it as it is, so the logs of the job hide it.
    echo "REDIS_URL=${DORMOUSE_URL%%://*}://$database.$branch:$DORMOUSE_TOKEN@${DORMOUSE_URL#*://}"
    ;;
"close 2")
    if exists; then delete; fi
    ;;
"empty 1")
    dormouse db create --ttl 1h --output env
    ;;
*)
    echo "usage: $0 open NUMBER | close NUMBER | empty" >&2
    exit 2
    ;;
esac
