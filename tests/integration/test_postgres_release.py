"""What `billing migrate` knows of the code that is connected, and what it refuses because of it."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from adapters.postgres import migrate, release
from adapters.postgres.database import Database
from tests.faults.releases import CONTRACTION, add_contraction
from tests.fixtures.servers import Database as ModuleDatabase


@pytest.fixture
async def handlers(database: ModuleDatabase) -> AsyncIterator[Database]:
    """A session of this release, open in a pool and without work."""
    pool = Database(database.dsn("billing_app"), application_name="billing-handlers", pool_size=1)
    await pool.ping()
    yield pool
    await pool.close()


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The next release, which contracts: from here on, `migrate` is its. Its one more revision."""
    migrations = tmp_path / "migrations"
    for file in release.MIGRATIONS.rglob("*.py"):
        copy = migrations / file.relative_to(release.MIGRATIONS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    add_contraction(migrations)
    monkeypatch.setattr(release, "MIGRATIONS", migrations)
    monkeypatch.setattr(migrate, "MIGRATIONS", migrations)
    monkeypatch.setattr(migrate, "PRESENCE_SECONDS", 0.1)
    release.revisions.cache_clear()
    yield CONTRACTION
    release.revisions.cache_clear()


async def _upgrade(database: ModuleDatabase, phase: migrate.Phase | None) -> list[str]:
    return await asyncio.to_thread(migrate.upgrade, database.dsn("billing_owner"), phase=phase)


def test_the_files_are_the_history() -> None:
    scripts = ScriptDirectory(str(release.MIGRATIONS))
    assert release.revisions() == tuple(each.revision for each in reversed(list(scripts.walk_revisions())))
    assert release.stamped("billing-handlers") == f"billing-handlers@{scripts.get_current_head()}"
    assert len(release.stamped("billing-schedules")) <= 63, "PostgreSQL would cut it"
    assert release.stamped("psql") == "psql", "people are not releases"


async def test_contracting_waits_until_older_code_is_gone(
    database: ModuleDatabase, handlers: Database, following: str
) -> None:
    older = rf"1 of billing-handlers \({re.escape(await _stated(database))}\) as billing_app"
    assert await _upgrade(database, "migrate") == []
    phases: tuple[migrate.Phase | None, ...] = ("contract", None)
    for phase in phases:
        with pytest.raises(migrate.OlderCodeRuns, match=older):
            await _upgrade(database, phase)
    await handlers.close()
    own = Database(database.dsn("billing_app"), application_name="billing-handlers", pool_size=1)
    await own.ping()
    try:
        assert await _upgrade(database, "contract") == [following], "its own release is in nobody's way"
        assert await _upgrade(database, "contract") == []
    finally:
        await own.close()


async def _stated(database: ModuleDatabase) -> str:
    """The revision that the session of this release states."""
    found = database.stack.postgres.execute(
        "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'billing-handlers@%' "
        f"AND datname = '{database.name}'"
    )
    return found.partition("@")[2]
