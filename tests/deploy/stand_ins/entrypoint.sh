#!/bin/sh
# Does what the entry point of the image would do that this one stands in for: $STAND_IN names its program.
set -eu
case "$STAND_IN" in
postgres)
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        printf %s "$POSTGRES_PASSWORD" >/tmp/password
        initdb --pgdata "$PGDATA" --username postgres --auth scram-sha-256 --pwfile /tmp/password --encoding UTF8
        rm /tmp/password
        echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    fi
    exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"
    ;;
nats) exec nats-server "$@" ;;
weed) exec weed "$@" ;;
prometheus) exec prometheus --storage.tsdb.path=/prometheus "$@" ;;
*) exec python /stand-in/stand_in.py "$@" ;;
esac
