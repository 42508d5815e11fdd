#!/bin/sh
# The first start copies the primary and leaves a replication slot there, so that nothing is recycled before it arrived here.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    PGPASSFILE=/run/billing/pgpass pg_basebackup --pgdata="$PGDATA" --write-recovery-conf --wal-method=stream --checkpoint=fast \
        --create-slot --slot=billing_replica --dbname="host=postgres user=billing_replication passfile=/run/billing/pgpass \
sslmode=verify-full sslrootcert=/run/billing/ca.crt sslcert=/run/billing/server.crt sslkey=/run/billing/server.key"
    chmod 0700 "$PGDATA"
fi
exec postgres "$@"
