"""`billing migrate`: the database, then the streams and durables. What deployments run before any role starts."""

import asyncio
from typing import Annotated, Any, Literal

import typer

from tools.cli.output import Json, print_json, print_table

Phase = Literal["expand", "migrate", "contract"]

_NATS_TIMEOUT_SECONDS = 30.0


def migrate(
    phase: Annotated[
        Phase | None, typer.Option(help="Run the revisions up to this phase only; all of them without.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring the database, the streams and the durables to what this release declares; running it again changes nothing.

    DATABASE_URL is the tables' owner, NATS_URL a user that may change streams. Contracting is refused while programs of an older
    release have database sessions; it says which.

    Example: billing migrate --phase expand

    Exit codes: 0 done, 1 a change is refused, 2 unusable settings, 3 a server is away.
    """
    from adapters.settings import DatabaseSettings, NatsSettings, RuntimeSettings, check, load
    from tools.cli.servers import quiet

    quiet()
    check(RuntimeSettings, DatabaseSettings, NatsSettings)
    development = load(RuntimeSettings).environment == "development"
    revisions = _upgrade(load(DatabaseSettings).database_url.get_secret_value(), phase)
    streams = asyncio.run(_reconcile(load(NatsSettings), development=development))
    _report(revisions, streams, as_json=as_json)


def _upgrade(owner_dsn: str, phase: Phase | None) -> list[str]:
    from adapters.postgres import migrate as migrations
    from tools.cli.errors import CliError
    from tools.cli.servers import database_errors

    try:
        with database_errors():
            return migrations.upgrade(owner_dsn, phase=phase)
    except migrations.MigrationBlocked as error:
        raise CliError(f"migrations: {error}") from None


async def _reconcile(settings: Any, *, development: bool) -> list[Any]:
    from adapters.nats.topology import TopologyError, reconcile
    from tools.cli.errors import CliError
    from tools.cli.servers import nats_client

    async with nats_client(settings, timeout_seconds=_NATS_TIMEOUT_SECONDS) as client:
        try:
            return list(await reconcile(client, replicas=settings.nats_replicas, dev=development))
        except TopologyError as error:
            raise CliError(f"streams and durables: {error}") from None


def _report(revisions: list[str], streams: list[Any], *, as_json: bool) -> None:
    changes = [{"action": "ran", "kind": "revision", "name": revision, "fields": {}} for revision in revisions]
    changes += [
        {"action": each.action, "kind": each.kind, "name": each.name, "fields": each.fields} for each in streams
    ]
    if as_json:
        print_json({"changes": changes})
    elif changes:
        rows = [(change["action"], change["kind"], change["name"], _drift(change["fields"])) for change in changes]
        print_table(("action", "kind", "name", "drift"), rows)
    else:
        print("nothing to do: database, streams and durables are as declared")


def _drift(fields: Any) -> str:
    return ", ".join(f"{field}: {before!r} → {after!r}" for field, (before, after) in fields.items())
