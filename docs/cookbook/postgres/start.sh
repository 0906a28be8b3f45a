#!/bin/sh
# Makes the database cluster at the first start, then becomes the server.
set -e
bin=/usr/lib/postgresql/15/bin
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    $bin/initdb --auth=trust --no-sync
fi
exec $bin/postgres -c listen_addresses=0.0.0.0 -c jit=off -c unix_socket_directories=/run/postgresql "$@"
