"""Schema migrations: expand → migrate → contract, run by the owner role from `billing migrate`, never by a service.

A release first *expands* (additions that the previous release does not notice), then *migrates* data while both releases
run, and *contracts* once the previous one is gone. History is one line, so a phase may have to wait for an earlier one.
"""

import asyncio
import io
import time
from typing import Any, Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from adapters.postgres.dsn import sqlalchemy_url, tls_arguments
from adapters.postgres.release import MIGRATIONS, PRESENCE_SECONDS, Program, older_sessions, stamped

Phase = Literal["expand", "migrate", "contract"]
PHASES: tuple[Phase, ...] = ("expand", "migrate", "contract")
# Two migrate jobs at once take turns: "billmigr" in ASCII, the single-key space of advisory locks.
_LOCK_KEY = 0x62696C6C6D696772


class MigrationBlocked(Exception):
    """The phase that was asked for has revisions behind one of a later phase, which has to run first."""


class OlderCodeRuns(MigrationBlocked):
    """The database is to be contracted while sessions of older code are open; `programs` says whose, and how many."""

    def __init__(self, revision: str, programs: dict[Program, int]) -> None:
        self.programs = programs
        found = ", ".join(f"{count} of {program}" for program, count in programs.items())
        super().__init__(
            f"revision {revision} (contract) takes away what older code still uses, and there are sessions of it: {found}. "
            "Nothing was contracted; run it again when they are gone"
        )


def upgrade(owner_dsn: str, *, phase: Phase | None = None) -> list[str]:
    """Run the pending revisions up to and including `phase` (all of them without one); returns what was run, in order.

    Contracting is refused, with `OlderCodeRuns`, while older code has sessions; what comes before it has then run. Before it
    contracts, it looks for as long as it takes a process that lost its connection to come back.

    Call it outside an event loop. Raises `MigrationBlocked`, or what SQLAlchemy raises on a failed statement; revisions
    before the failed one stay, as each has its own transaction. Running it again carries on.
    """
    return asyncio.run(_on_connection(owner_dsn, lambda connection: _upgrade(connection, phase)))


def pending(owner_dsn: str) -> list[tuple[str, Phase]]:
    """The revisions that have not run, with their phases, in order. Call it outside an event loop."""
    return asyncio.run(_on_connection(owner_dsn, lambda connection: _pending(connection, _config())))


def upgrade_sql() -> str:
    """The SQL of the whole history, for review and for squawk; touches no database."""
    buffer = io.StringIO()
    command.upgrade(_config(output_buffer=buffer), "head", sql=True)
    return buffer.getvalue()


def squawk_input() -> str:
    """The history as squawk should see it: without Alembic's own table, which is as it is, and without the BEGIN and COMMIT
    round each revision, which squawk mistakes for those of a DO block."""
    timeouts, _, revisions = upgrade_sql().partition("-- Running upgrade")
    kept = [line for line in timeouts.splitlines() if line.startswith("SET ")]
    statements = [line for line in revisions.splitlines()[1:] if line not in ("BEGIN;", "COMMIT;")]
    return "\n".join([*kept, *statements])


def _upgrade(connection: Connection, phase: Phase | None) -> list[str]:
    config = _config(connection=connection)
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
    connection.commit()
    revisions = runnable(_pending(connection, config), phase)
    phases = dict(_pending(connection, config))
    fresh = _current(connection) is None  # no older code ever ran here
    looked = False
    for revision in revisions:
        if phases[revision] == "contract" and not fresh and not looked:
            _refuse_beside_older_code(connection, revision)
            looked = True
        command.upgrade(config, revision)
    return revisions


def _refuse_beside_older_code(connection: Connection, revision: str) -> None:
    """Two looks, so that a process that just lost its connection is seen in one of them."""
    for pause_seconds in (PRESENCE_SECONDS, 0.0):
        if programs := older_sessions(connection):
            raise OlderCodeRuns(revision, programs)
        time.sleep(pause_seconds)


def runnable(waiting: list[tuple[str, Phase]], phase: Phase | None) -> list[str]:
    """Of the waiting revisions those that `phase` may run: no later phase's, and nothing that lies behind one."""
    last = len(PHASES) - 1 if phase is None else PHASES.index(phase)
    allowed = [PHASES.index(of) <= last for _, of in waiting]
    count = allowed.index(False) if False in allowed else len(waiting)
    if any(allowed[count:]):
        name, of = waiting[count]
        raise MigrationBlocked(f"revision {name} ({of}) has to run before later {phase} revisions can: run phase {of}")
    return [name for name, _ in waiting[:count]]


def _pending(connection: Connection, config: Config) -> list[tuple[str, Phase]]:
    current = _current(connection)
    scripts = ScriptDirectory.from_config(config).iterate_revisions("head", current or "base")
    return [(script.revision, _phase(script)) for script in reversed(list(scripts))]


def _current(connection: Connection) -> str | None:
    current = MigrationContext.configure(connection).get_current_revision()
    connection.commit()
    return current


def _phase(script: Script) -> Phase:
    declared = getattr(script.module, "phase", None)
    for phase in PHASES:
        if phase == declared:
            return phase
    raise ValueError(f"migration {script.revision} declares no phase: one of {', '.join(PHASES)}")


def _config(output_buffer: io.StringIO | None = None, **attributes: Any) -> Config:
    config = Config(output_buffer=output_buffer, attributes=attributes)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


async def _on_connection(owner_dsn: str, function: Any) -> Any:
    # asyncpg is the only driver here: Alembic, which is synchronous, runs inside SQLAlchemy's greenlet.
    arguments = {**tls_arguments(owner_dsn), "server_settings": {"application_name": stamped("billing-migrate")}}
    engine = create_async_engine(sqlalchemy_url(owner_dsn), poolclass=NullPool, connect_args=arguments)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(function)
    finally:
        await engine.dispose()
