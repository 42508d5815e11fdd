"""The single payment as `pgbench` runs it: one transaction of single-row statements, no Python anywhere near it."""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from tools.bench.observe import BenchError
from tools.bench.rig import TEMPLATE
from tools.bench.workload import CURRENCY
from tools.stack import Stack
from tools.stack.paths import postgres_binaries

_DATABASE = "bench_pgbench"
_CLIENTS = 8

# What the script needs to know and the mesh computes: ids of accounts and of their ledger accounts.
_KEYS = f"""
CREATE TABLE bench_key AS
SELECT row_number() OVER () AS n, tenant_id, id AS account_id, gen_random_uuid() AS cash_id, gen_random_uuid() AS credit_id
FROM account;
ALTER TABLE bench_key ADD PRIMARY KEY (n);
UPDATE bench_key k SET cash_id = f.cash_id
FROM (SELECT DISTINCT ON (tenant_id) tenant_id, cash_id FROM bench_key ORDER BY tenant_id, n) f WHERE f.tenant_id = k.tenant_id;
GRANT SELECT ON bench_key TO billing_app;
INSERT INTO ledger_account (tenant_id, id, code, currency, account_id, party_id, debits_minor, credits_minor)
SELECT DISTINCT tenant_id, cash_id, '1000', '{CURRENCY}', NULL::uuid, NULL, 0, 0 FROM bench_key;
INSERT INTO ledger_account (tenant_id, id, code, currency, account_id, party_id, debits_minor, credits_minor)
SELECT tenant_id, credit_id, '2100', '{CURRENCY}', account_id, NULL, 0, 0 FROM bench_key;
"""  # noqa: S608  a constant

_SCRIPT = r"""
\set n random(1, :accounts)
SELECT tenant_id AS tenant, account_id AS account, cash_id AS cash, credit_id AS credit FROM bench_key WHERE n = :n \gset
BEGIN;
SELECT set_config('billing.tenant', :tenant::text, true), pg_advisory_xact_lock(hashtext(:tenant::text));
SELECT gen_random_uuid() AS command, gen_random_uuid() AS payment \gset
SELECT 1 FROM inbox WHERE command_id = :command::uuid;
SELECT status FROM account WHERE id = :account::uuid;
SELECT status FROM period WHERE period = '2026-11';
UPDATE tenant_book SET ledger_sequence = ledger_sequence + 1, event_sequence = event_sequence + 1,
    command_sequence = command_sequence + 1
RETURNING ledger_sequence AS ledger, event_sequence AS event, command_sequence AS commands \gset
INSERT INTO payment (tenant_id, id, account_id, method, status, reference, received_on, currency, amount_minor,
    cash_rounding_minor, allocated_minor, refunded_minor, recorded_at)
VALUES (:tenant::text, :payment::uuid, :account::uuid, 'cash', 'recorded', 'R-1', current_date, 'AFN', 1000, 0, 0, 0, now());
UPDATE ledger_account SET debits_minor = debits_minor + 1000 WHERE id = :cash::uuid;
UPDATE ledger_account SET credits_minor = credits_minor + 1000 WHERE id = :credit::uuid;
INSERT INTO ledger_transfer (tenant_id, sequence, id, debit_account_id, credit_account_id, amount_minor, currency, kind,
    document_id, effective_on, recorded_at, command_id, event_sequence, hash_version, hash)
VALUES (:tenant::text, :ledger, gen_random_uuid(), :cash::uuid, :credit::uuid, 1000, 'AFN', 'payment', :payment::uuid,
    current_date, now(), :command::uuid, :event, 1, sha256('x'));
INSERT INTO inbox (tenant_id, command_id, name, payload_hash, status, result, sequence, stream_sequence, recorded_at)
VALUES (:tenant::text, :command::uuid, 'payment.record', sha256('x'), 'applied', '{}', :commands, 1, now());
INSERT INTO outbox (tenant_id, shard, stream, subject, headers, body, recorded_at)
VALUES (:tenant::text, 1, 'events', 'billing.v1.evt.x.payment.recorded', repeat('x', 400)::bytea, repeat('x', 350)::bytea, now());
COMMIT;
"""


def measure(stack: Stack, seconds: int) -> float:
    """Transactions per second of eight clients, prepared statements, over `seconds`. Raises BenchError where it cannot run."""
    stack.postgres.create_database(_DATABASE, TEMPLATE)
    try:
        stack.postgres.execute(_KEYS, _DATABASE)
        accounts = int(stack.postgres.execute("SELECT count(*) FROM bench_key", _DATABASE))
        return _run(stack.postgres.dsn("billing_app", _DATABASE), accounts, seconds)
    finally:
        stack.postgres.drop_database(_DATABASE)


def _run(dsn: str, accounts: int, seconds: int) -> float:
    url = urlsplit(dsn)
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "payment.sql")
        script.write_text(_SCRIPT)
        target = ["-h", str(url.hostname), "-p", str(url.port), "-U", str(url.username), url.path.lstrip("/")]
        load = ["-c", str(_CLIENTS), "-j", "2", "-T", str(seconds), "-D", f"accounts={accounts}", "-M", "prepared"]
        ran = subprocess.run(
            [str(postgres_binaries() / "pgbench"), "-n", "-f", str(script), *load, *target],
            env={"PATH": os.environ.get("PATH", os.defpath), "PGPASSWORD": str(url.password), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 60,
        )
    found = re.search(r"^tps = ([0-9.]+)", ran.stdout, re.MULTILINE)
    if ran.returncode != 0 or found is None:
        raise BenchError(f"pgbench: {(ran.stderr or ran.stdout).strip()[-500:]}")
    return float(found[1])
