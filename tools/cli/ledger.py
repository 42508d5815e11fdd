"""`billing ledger verify`: every invariant of the books, recomputed from the rows themselves."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.cli.errors import FAILED, OK, UNAVAILABLE, USAGE, CliError
from tools.cli.output import Json, console, note, print_json, print_table

if TYPE_CHECKING:
    from nats.aio.client import Client

    from adapters.postgres.database import Database
    from schemas.ledger import LedgerVerification

app = typer.Typer(help="The books.", no_args_is_help=True)

_STREAM_CHECKS = ("event_stream", "event_sequence")


@app.callback()
def _group() -> None:
    """Keeps `verify` a command of its own while it is the only one."""


@app.command()
def verify(
    tenant: Annotated[
        list[str] | None, typer.Option(help="May be repeated; all tenants that can be found without.")
    ] = None,
    scan_events: Annotated[bool, typer.Option("--scan-events", help="Read every event in the stream, too.")] = False,
    as_json: Json = False,
) -> None:
    """Verify balances, receivables, credit, the hash chain, the inbox, and that every event reached its stream.

    DATABASE_URL may be any role that reads the tables. With NATS_URL the event stream is checked too, and without --tenant
    tenants are found in it; TENANT_DIRECTORY_FILE names tenants as well. Row-level security hides tenants nobody names.

    Example: billing ledger verify --tenant kabul-central

    Exit codes: 0 every check holds, 1 a mismatch, 2 unusable settings or no tenant, 3 a server is away.
    """
    from tools.cli.servers import quiet

    quiet()
    results = asyncio.run(_verify(tenant or [], scan_events=scan_events))
    if as_json:
        print_json({"ok": all(row["ok"] for row in results), "tenants": results})
    else:
        _print(results)
    raise typer.Exit(OK if all(row["ok"] for row in results) else FAILED)


async def _verify(named: list[str], *, scan_events: bool) -> list[dict[str, Any]]:
    import os

    from adapters.postgres.database import Database
    from adapters.settings import DatabaseSettings, NatsSettings, check, load
    from tools.cli.servers import database_errors, nats_client

    wants_events = bool(os.environ.get("NATS_URL") or os.environ.get("NATS_URL_FILE"))
    check(DatabaseSettings, *([NatsSettings] if wants_events else []))
    async with AsyncExitStack() as resources:
        client = await resources.enter_async_context(nats_client()) if wants_events else None
        tenants = _checked(named) or await _known_tenants(client)
        dsn = load(DatabaseSettings).database_url.get_secret_value()
        database = Database(dsn, application_name="billing-cli", pool_size=2)
        resources.push_async_callback(database.close)
        with database_errors():
            results = []
            with console(stderr=True).status("") as status:
                for tenant in tenants:
                    status.update(f"verifying {tenant}")
                    results.append(await _verify_one(database, client, tenant, scan_events=scan_events))
    if client is None:
        note("NATS_URL is not set: the event stream was not checked")
    return results


async def _verify_one(
    database: "Database", client: "Client | None", tenant: str, *, scan_events: bool
) -> dict[str, Any]:
    from adapters.postgres.verify import verify_tenant

    async with database.reading(tenant) as connection:
        books = await verify_tenant(connection, tenant)
    events = await _events(database, client, tenant, scan_events=scan_events) if client is not None else None
    return _result(tenant, books, events)


async def _events(database: "Database", client: "Client", tenant: str, *, scan_events: bool) -> tuple[Any, ...]:
    from nats.errors import Error as NatsError
    from nats.js.errors import Error as JetStreamError

    from handlers.event_check import ScanInterrupted, check_events

    try:
        return await check_events(client, database, tenant, scan=scan_events)
    except ScanInterrupted:
        raise CliError(
            f"events of {tenant}: the connection to NATS broke while reading; verify again", UNAVAILABLE
        ) from None
    except (NatsError, JetStreamError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise CliError(
            f"events of {tenant}: {reason}; NATS_URL needs a user that may read BILLING_EVENTS, or unset it",
            UNAVAILABLE,
        ) from None


def _result(tenant: str, books: "LedgerVerification", events: tuple[Any, ...] | None) -> dict[str, Any]:
    mismatches = [mismatch.model_dump(mode="json") for mismatch in (*books.mismatches, *(events or ()))]
    return {
        "tenant": tenant,
        "ok": not mismatches,
        "transfers": books.transfers,
        "head_sequence": books.head_sequence,
        "head_hash": books.head_hash,
        "events_checked": events is not None,
        "mismatches": mismatches,
    }


def _checked(named: list[str]) -> list[str]:
    from schemas.subjects import TENANT

    for tenant in named:
        if not TENANT.fullmatch(tenant):
            raise CliError(f"--tenant {tenant!r}: not a tenant id; 1 to 64 letters, digits, _ or -", USAGE)
    return list(dict.fromkeys(named))


async def _known_tenants(client: "Client | None") -> list[str]:
    """From the static directory and from the subjects of the command and event streams."""
    found = set(_directory_tenants())
    if client is not None:
        found |= await _stream_tenants(client)
    if not found:
        raise CliError(
            "no tenant to verify: none in TENANT_DIRECTORY_FILE, none in the streams of NATS_URL; name one with --tenant",
            USAGE,
        )
    return sorted(found)


def _directory_tenants() -> list[str]:
    import json
    import os
    from pathlib import Path

    path = os.environ.get("TENANT_DIRECTORY_FILE")
    if not path:
        return []
    try:
        return [each["tenant_id"] for each in json.loads(Path(path).read_text())["tenants"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(f"TENANT_DIRECTORY_FILE: {type(error).__name__}: {error}", USAGE) from None


async def _stream_tenants(client: "Client") -> set[str]:
    from nats.errors import Error as NatsError
    from nats.js.errors import Error as JetStreamError

    from adapters.nats.topology import COMMANDS_STREAM, EVENTS_STREAM
    from schemas.subjects import parse

    tenants: set[str] = set()
    for stream in (COMMANDS_STREAM, EVENTS_STREAM):
        try:
            info = await client.jetstream().stream_info(stream, subjects_filter=">")
        except (NatsError, JetStreamError, TimeoutError) as error:
            raise CliError(
                f"{stream}: {str(error) or type(error).__name__}; name tenants with --tenant", UNAVAILABLE
            ) from None
        addresses = (parse(subject) for subject in info.state.subjects or {})
        tenants |= {address.tenant_id for address in addresses if address is not None}
    return tenants


def _print(results: list[dict[str, Any]]) -> None:
    from adapters.postgres.verify_checks import CHECKS

    rows = [
        (row["tenant"], f"{row['transfers']:,}", row["head_hash"][:16], _events_word(row), _verdict(row))
        for row in results
    ]
    # +3: the chain's links, its sequence and its head are recomputed in Python.
    print_table(("tenant", "transfers#", "chain head", "events", f"{len(CHECKS) + 3} checks"), rows)
    broken = [
        (row["tenant"], found["check"], found["subject"], found["expected"], found["found"])
        for row in results
        for found in row["mismatches"]
    ]
    if broken:
        print_table(("tenant", "check", "row", "expected", "found"), broken, title="Mismatches")


def _events_word(row: dict[str, Any]) -> str:
    if not row["events_checked"]:
        return "not checked"
    return "MISSING" if any(found["check"] in _STREAM_CHECKS for found in row["mismatches"]) else "all there"


def _verdict(row: dict[str, Any]) -> str:
    return "hold" if row["ok"] else f"{len(row['mismatches'])} MISMATCHES"
