"""`billing replay rebuild`: the proof that the stream is the history, and the disaster-recovery drill."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.cli.errors import FAILED, OK
from tools.cli.output import console, note, print_json, print_table

if TYPE_CHECKING:
    from nats.aio.client import Client

    from adapters.postgres.database import Database
    from tools.replay.rebuild import Fetch, Rebuilder


async def rebuild(tenants: list[str], archive: Path | None, reason: str | None, *, as_json: bool) -> int:
    from adapters.postgres import contact
    from adapters.settings import DatabaseSettings, NatsSettings, RuntimeSettings, check, load
    from handlers.event_check import tenants as tenants_of_stream
    from handlers.neighbours import neighbours
    from handlers.prepare import Preparation
    from tools.cli.replay_session import checked_reason, connected
    from tools.cli.servers import database_errors
    from tools.replay import audit
    from tools.replay.rebuild import Rebuilder, known
    from tools.replay.settings import RebuildSettings

    check(RuntimeSettings, DatabaseSettings, NatsSettings, RebuildSettings)
    why, runtime = checked_reason(reason), load(RuntimeSettings)
    directory, terminology, _ = neighbours(runtime)
    async with connected() as client, AsyncExitStack() as resources:
        settings = load(DatabaseSettings)
        contact.use_file(settings.contact_keys)  # the same bytes as the live rows come of the same keys
        live = await _database(resources, settings.database_url.get_secret_value())
        target = await _database(resources, load(RebuildSettings).rebuild_database_url.get_secret_value())
        chosen = tenants or await tenants_of_stream(client)
        for tenant_id in chosen:
            await known(directory, tenant_id)
        rebuilder = Rebuilder(
            client,
            live,
            target,
            Preparation(directory, terminology, runtime.region, runtime.country_profile),
            _fetch(client, archive),
        )
        told = {"tenants": chosen, "reason": why, "by": audit.operator(), "environment": runtime.environment}
        await audit.record(client, "replay.rebuilt", None, told)
        with database_errors():
            await _refuse_full(target, chosen)
            results = [await _one(rebuilder, live, target, tenant_id, hidden=as_json) for tenant_id in chosen]
    _report(results, rebuilder.outside, as_json=as_json)
    return OK if all(result["identical"] for result in results) else FAILED


async def _one(
    rebuilder: "Rebuilder", live: "Database", target: "Database", tenant_id: str, *, hidden: bool
) -> dict[str, Any]:
    """The live picture first: what is executed after it is taken is not applied."""
    from rich.progress import Progress

    from tools.replay.pictures import compare, differing_rows, picture

    before = await picture(live, tenant_id)
    with Progress(console=console(stderr=True), disable=hidden, transient=True) as bar:
        task = bar.add_task(f"rebuilding {tenant_id}", total=before.commands)
        await rebuilder.tenant(tenant_id, before.commands, lambda done: bar.update(task, completed=done))
    after = await picture(target, tenant_id)
    differences = compare(before, after)
    different = [each.table for each in differences if not each.same]
    rows = {table: await differing_rows(live, target, tenant_id, table) for table in different}
    return {
        "tenant": tenant_id,
        "identical": not different and before == after,
        "commands": before.commands,
        "live_head": before.head_hash,
        "rebuilt_head": after.head_hash,
        "live_mismatches": before.mismatches,
        "rebuilt_mismatches": after.mismatches,
        "tables": [each._asdict() for each in differences],
        "first_different_rows": rows,
    }


async def _database(resources: AsyncExitStack, url: str) -> "Database":
    from adapters.postgres.database import Database

    # Rows are compared as text: both sessions must spell a time the same way.
    database = Database(url, application_name="billing-rebuild", pool_size=2, settings={"TimeZone": "UTC"})
    resources.push_async_callback(database.close)
    return database


async def _refuse_full(target: "Database", tenants: Sequence[str]) -> None:
    from tools.replay.errors import ReplayError
    from tools.replay.pictures import is_empty

    for tenant_id in tenants:
        if not await is_empty(target, tenant_id):
            raise ReplayError(
                f"REBUILD_DATABASE_URL is not empty: it has rows of {tenant_id}; make a new database with `billing migrate`. "
                "Nothing was written"
            )


def _fetch(client: "Client", file: Path | None) -> "Fetch":
    from tools.replay import archive
    from tools.replay.rebuild import from_live, from_messages

    if file is None:
        return from_live(client)
    found = archive.inspect(file)
    return from_messages({each.sequence: each for each in archive.messages(found)})


def _report(results: list[dict[str, Any]], outside: int, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {"identical": all(each["identical"] for each in results), "tenants": results, "outside_refusals": outside}
        )
        return
    rows = [
        (
            each["tenant"],
            f"{each['commands']:,}",
            sum(1 for table in each["tables"] if table["same"]),
            len(each["tables"]),
            each["live_head"][:16],
            each["rebuilt_head"][:16],
            "identical" if each["identical"] else "DIFFERENT",
        )
        for each in results
    ]
    columns = ("tenant", "commands#", "tables same#", "of#", "live chain head", "rebuilt chain head", "verdict")
    print_table(columns, rows)
    different = [
        (each["tenant"], table["table"], table["live_rows"], table["rebuilt_rows"], rows_of)
        for each in results
        for table in each["tables"]
        if not table["same"]
        for rows_of in [", ".join(each["first_different_rows"][table["table"]])]
    ]
    if different:
        print_table(("tenant", "table", "live#", "rebuilt#", "first different rows"), different)
    if outside:
        note(f"{outside:,} refusals by outside services (entitlement, charge codes) were taken from the live inbox")
