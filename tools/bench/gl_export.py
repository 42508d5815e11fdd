"""How long a worker takes to export a ledger, and how much memory: real command, worker, PostgreSQL, NATS and S3.

python -m tools.bench.gl_export [--entries 1000000] [--format csv --format parquet] [--form detail]

Memory is the worker's own high-water mark (VmHWM), so it runs on Linux. The ledger is written past the pipeline, its hash chain
and sums as the pipeline would have made them: the export recomputes both.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from adapters.postgres.tables import ledger_account, ledger_transfer
from domain.entities import Transfer
from domain.ids import ledger_account_id
from domain.ledger import GENESIS, HASH_VERSION, transfer_hash
from tools.cli.command_client import CommandClient
from tools.cli.mesh_client import MeshClient
from tools.stack import Stack
from tools.stack.mesh import Mesh

TENANT = "bench"
SUB_LEDGERS = 10_000
_DAY, _MOMENT = date(2026, 10, 15), datetime(2026, 10, 15, 12, tzinfo=UTC)
_COPY_ROWS = 20_000
_POLL_SECONDS = 0.1


class Measured(NamedTuple):
    """`seconds` from the command to the job's end; `bytes` of all files; memory in MiB, before and at its highest."""

    entries: int
    form: str
    formats: tuple[str, ...]
    seconds: float
    entries_per_second: int
    bytes: int
    memory_before_mib: int
    memory_peak_mib: int


def measure(entries: int, form: str, formats: tuple[str, ...]) -> Measured:
    with Stack(f"bench-gl-{os.getpid()}", objects=True, ephemeral=True) as stack:
        with Mesh(stack, roles=("handlers", "worker"), tenants=[TENANT]) as mesh:
            return asyncio.run(_measure(mesh, entries, form, formats))


async def _measure(mesh: Mesh, entries: int, form: str, formats: tuple[str, ...]) -> Measured:
    import nats

    await seed(mesh.dsn("postgres"), entries)
    connection = await nats.connect(mesh.nats_url("operator"))
    try:
        async with CommandClient.on(connection) as commands:
            client = MeshClient(connection, commands, TENANT)
            mappings = [
                {"ledger_code": code, "gl_code": f"GL-{code}", "gl_name": code} for code in ("1000", "1100", "4000")
            ]
            await client.send("gl.map", {"mappings": mappings})
            pid = mesh["worker"].pid()
            before = _memory_mib(pid, "VmRSS")
            began = time.perf_counter()
            body = {"first_sequence": 1, "last_sequence": entries, "form": form, "formats": list(formats)}
            job_id = (await client.send("gl.export", body))["job_id"]
            job = await _ended(client, job_id)
            seconds = time.perf_counter() - began
            if job["status"] != "succeeded":
                raise RuntimeError(f"the export {job['status']}: {job['error_code']} {job['error_detail']}")
            written = await client.ask("gl.get", job_id=job_id)
    finally:
        await connection.close()
    return Measured(
        entries=written["transfers"],
        form=form,
        formats=formats,
        seconds=round(seconds, 1),
        entries_per_second=int(entries / seconds),
        bytes=sum(file["bytes"] for file in written["files"]),
        memory_before_mib=before,
        memory_peak_mib=_memory_mib(pid, "VmHWM"),
    )


async def _ended(client: MeshClient, job_id: str) -> dict[str, Any]:
    while True:
        job = await client.ask("job.get", job_id=job_id)
        if job["finished_at"] is not None:
            return job
        await asyncio.sleep(_POLL_SECONDS)


async def seed(dsn: str, entries: int) -> None:
    """Invoices and their payments by turns over SUB_LEDGERS accounts, as the superuser, without foreign keys checked.

    The book comes last: until it is there, the worker's own verification does not know the tenant.
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET session_replication_role = replica")
        head, rows = GENESIS, list[tuple[Any, ...]]()
        for transfer in _transfers(entries):
            head = transfer_hash(head, TENANT, transfer)
            rows.append((TENANT, *transfer._replace(hash=head)))
            if len(rows) == _COPY_ROWS:
                await connection.copy_records_to_table(
                    "ledger_transfer", records=rows, columns=_columns(ledger_transfer)
                )
                rows.clear()
        await connection.copy_records_to_table("ledger_transfer", records=rows, columns=_columns(ledger_transfer))
        await connection.copy_records_to_table(
            "ledger_account", records=_accounts(entries), columns=_columns(ledger_account)
        )
        await connection.execute("VACUUM ANALYZE ledger_transfer, ledger_account")
        await connection.execute(
            "INSERT INTO tenant_book (tenant_id, ledger_sequence, ledger_head, event_sequence, command_sequence)"
            " VALUES ($1, $2, $3, 0, 0)",
            TENANT,
            entries,
            head,
        )
    finally:
        await connection.close()


def _transfers(entries: int) -> Iterator[Transfer]:
    cash, revenue = (ledger_account_id(TENANT, code, "AED") for code in ("1000", "4000"))
    for number in range(entries):
        owed = _receivable(number // 2 % SUB_LEDGERS)
        debit, credit, kind = (owed, revenue, "invoice") if number % 2 == 0 else (cash, owed, "payment")
        yield Transfer(
            sequence=number + 1,
            id=UUID(int=(1 << 100) + number),
            debit_account_id=debit,
            credit_account_id=credit,
            amount_minor=_amount(number // 2),
            currency="AED",
            kind=kind,
            document_id=UUID(int=(2 << 100) + number // 2),
            reverses_document_id=None,
            effective_on=_DAY,
            recorded_at=_MOMENT,
            command_id=UUID(int=(3 << 100) + number),
            event_sequence=0,
            hash_version=HASH_VERSION,
            hash=b"",
        )


def _accounts(entries: int) -> list[tuple[Any, ...]]:
    """Each with the sums of its entries."""
    sums: dict[UUID, list[int]] = {}
    for transfer in _transfers(entries):
        sums.setdefault(transfer.debit_account_id, [0, 0])[0] += transfer.amount_minor
        sums.setdefault(transfer.credit_account_id, [0, 0])[1] += transfer.amount_minor
    rows = [
        (
            TENANT,
            _receivable(number),
            "1100",
            "AED",
            UUID(int=number),
            "patient",
            *sums.get(_receivable(number), (0, 0)),
        )
        for number in range(SUB_LEDGERS)
    ]
    for code in ("1000", "4000"):
        account = ledger_account_id(TENANT, code, "AED")
        rows.append((TENANT, account, code, "AED", None, None, *sums.get(account, (0, 0))))
    return rows


def _receivable(number: int) -> UUID:
    return ledger_account_id(TENANT, "1100", "AED", UUID(int=number), "patient")


def _amount(number: int) -> int:
    return 100 + number * 7_919 % 1_000_000


def _columns(table: Any) -> list[str]:
    return [column.name for column in table.columns]


def _memory_mib(pid: int | None, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError(f"/proc has no {field}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--form", choices=("detail", "summary"), default="detail")
    parser.add_argument("--format", action="append", choices=("csv", "jsonl", "parquet"), dest="formats")
    given = parser.parse_args()
    print(json.dumps(measure(given.entries, given.form, tuple(given.formats or ("csv",)))._asdict()))


if __name__ == "__main__":
    main()
