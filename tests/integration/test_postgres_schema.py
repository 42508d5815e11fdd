"""The migrated schema: what tables.py says, protected on every table, granted no wider than needed."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.postgres import migrate
from adapters.postgres.dsn import sqlalchemy_url
from adapters.postgres.tables import TABLES, metadata, mutable_columns
from domain import entities, gateway_entities, job_entities
from tests.fixtures.servers import Database

NOT_OF_A_TENANT = {"alembic_version"}
POLICY = "(tenant_id = ( SELECT current_setting('billing.tenant'::text, true) AS current_setting))"

# Everything the two ways of making the schema must agree on; compare_metadata looks at neither checks nor options.
CATALOGUE = """
SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || a.attidentity::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'storage', relname, '', array_to_string(reloptions, ',')
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


def fetch(dsn: str, sql: str, *arguments: object) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def tenant_tables(database: Database) -> list[str]:
    rows = fetch(
        database.dsn("billing_owner"),
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace",
    )
    names = {row["relname"] for row in rows} - NOT_OF_A_TENANT
    assert len(names) >= len(TABLES)
    return sorted(names)


@pytest.fixture
def declared(database: Database) -> Iterator[str]:
    """A database made from the metadata alone, without a migration."""
    name = f"{database.name}_declared"
    database.stack.postgres.create_database(name)

    async def create(dsn: str) -> None:
        engine = create_async_engine(sqlalchemy_url(dsn))
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    dsn = database.stack.postgres.dsn("billing_owner", name)
    asyncio.run(create(dsn))
    yield dsn
    database.stack.postgres.drop_database(name)


def catalogue(dsn: str) -> set[tuple[Any, ...]]:
    return {tuple(row) for row in fetch(dsn, CATALOGUE) if row[1] not in NOT_OF_A_TENANT}


def test_migrations_and_metadata_make_the_same_schema(database: Database, declared: str) -> None:
    migrated, expected = catalogue(database.dsn("billing_owner")), catalogue(declared)
    assert len(expected) > 300
    assert migrated - expected == set()
    assert expected - migrated == set()


def test_alembic_finds_nothing_to_generate(database: Database) -> None:
    async def differences() -> list[Any]:
        engine = create_async_engine(sqlalchemy_url(database.dsn("billing_owner")))
        async with engine.connect() as connection:
            found = await connection.run_sync(lambda sync: compare_metadata(MigrationContext.configure(sync), metadata))
        await engine.dispose()
        return list(found)

    assert asyncio.run(differences()) == []


def test_every_entity_has_a_table_with_its_fields_in_order() -> None:
    declared_entities = {
        value
        for module in (entities, gateway_entities, job_entities)
        for value in vars(module).values()
        if isinstance(value, type) and hasattr(value, "_fields")
    }
    assert set(TABLES) == declared_entities
    for entity, table in TABLES.items():
        leading = ["tenant_id", "id"] if table.name == "outbox" else ["tenant_id"]
        assert [column.name for column in table.columns] == [*leading, *entity._fields]


def test_every_table_forces_row_level_security_with_the_same_policy(
    database: Database, tenant_tables: list[str]
) -> None:
    owner = database.dsn("billing_owner")
    secured = fetch(owner, "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")
    assert sorted(row["relname"] for row in secured) == tenant_tables
    policies = fetch(
        owner,
        "SELECT tablename, permissive, roles::text, cmd, qual, with_check FROM pg_policies WHERE policyname = 'tenant'",
    )
    assert sorted(row["tablename"] for row in policies) == tenant_tables
    assert {tuple(row)[1:] for row in policies} == {("PERMISSIVE", "{public}", "ALL", POLICY, POLICY)}


def test_the_only_other_policies_are_the_relays_on_the_outbox_and_on_who_the_tenants_are(database: Database) -> None:
    rows = fetch(
        database.dsn("billing_owner"),
        "SELECT tablename, roles::text[] AS roles, cmd FROM pg_policies WHERE policyname <> 'tenant'",
    )
    assert sorted((row["tablename"], tuple(row["roles"]), row["cmd"]) for row in rows) == [
        ("outbox", ("billing_relay",), "DELETE"),
        ("outbox", ("billing_relay",), "SELECT"),
        ("tenant_book", ("billing_relay",), "SELECT"),
    ]


def test_every_primary_key_leads_with_the_tenant_and_every_foreign_key_includes_it(
    database: Database, tenant_tables: list[str]
) -> None:
    rows = fetch(
        database.dsn("billing_owner"),
        """
        SELECT conrelid::regclass::text AS table, contype::text AS type, conname AS name,
               (SELECT array_agg(attname::text ORDER BY position) FROM unnest(conkey) WITH ORDINALITY AS k(number, position)
                JOIN pg_attribute ON attrelid = conrelid AND attnum = number) AS columns
        FROM pg_constraint WHERE contype IN ('p', 'u', 'f') AND connamespace = 'public'::regnamespace
        """,
    )
    rows = [row for row in rows if row["table"] not in NOT_OF_A_TENANT]
    assert sorted(row["table"] for row in rows if row["type"] == "p") == tenant_tables
    assert [row["name"] for row in rows if row["columns"][0] != "tenant_id"] == []


def test_unique_indexes_lead_with_the_tenant(database: Database) -> None:
    """A unique index over all tenants would tell one tenant what another has."""
    rows = fetch(
        database.dsn("billing_owner"), "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    )
    unique = {row["indexname"]: row["indexdef"] for row in rows if row["indexdef"].startswith("CREATE UNIQUE")}
    assert len(unique) > len(TABLES)
    assert [name for name, text in unique.items() if "(tenant_id" not in text] == ["alembic_version_pkc"]


def test_statistics_take_any_tenant_for_large(database: Database, tenant_tables: list[str]) -> None:
    rows = fetch(
        database.dsn("billing_owner"),
        "SELECT attrelid::regclass::text AS table FROM pg_attribute "
        "WHERE attname = 'tenant_id' AND attoptions = '{n_distinct=1}'",
    )
    assert sorted(row["table"] for row in rows) == tenant_tables


def test_grants_are_exactly_these(database: Database, tenant_tables: list[str]) -> None:
    rows = fetch(
        database.dsn("billing_owner"),
        """
        SELECT grantee, table_name AS table, privilege_type AS privilege FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND grantee <> 'billing_owner'
        """,
    )
    expected = {("billing_relay", "outbox", "SELECT"), ("billing_relay", "outbox", "DELETE")}
    for table in tenant_tables:
        expected |= {
            ("billing_app", table, "SELECT"),
            ("billing_app", table, "INSERT"),
            ("billing_read", table, "SELECT"),
        }
    assert {(row["grantee"], row["table"], row["privilege"]) for row in rows} == expected


def test_the_app_may_update_the_mutable_columns_only(database: Database) -> None:
    rows = fetch(
        database.dsn("billing_owner"),
        """
        SELECT c.relname AS table, a.attname AS column
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        CROSS JOIN LATERAL aclexplode(a.attacl) AS acl
        WHERE acl.privilege_type = 'UPDATE' AND acl.grantee <> c.relowner
          AND pg_get_userbyid(acl.grantee) = 'billing_app'
        """,
    )
    expected = {(table.name, column) for table in TABLES.values() for column in mutable_columns(table)}
    assert {(row["table"], row["column"]) for row in rows} == expected
    immutable = {"ledger_transfer", "allocation", "credit_note", "credit_note_line", "refund", "inbox", "outbox"}
    immutable |= {"hold_allocation", "gateway_payout"}
    assert not immutable & {table for table, _ in expected}


def test_no_role_escapes_row_level_security(database: Database) -> None:
    rows = fetch(
        database.dsn("billing_owner"),
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'billing\\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole)",
    )
    assert rows == []


def test_the_outbox_sequence_keeps_no_cache(database: Database) -> None:
    rows = fetch(
        database.dsn("billing_owner"), "SELECT cache_size FROM pg_sequences WHERE sequencename = 'outbox_id_seq'"
    )
    assert [row["cache_size"] for row in rows] == [1]


def test_upgrading_again_does_nothing_and_leaves_nothing_pending(database: Database) -> None:
    assert migrate.upgrade(database.dsn("billing_owner")) == []
    assert migrate.pending(database.dsn("billing_owner")) == []


def test_the_first_release_is_expansion_only(database: Database) -> None:
    """A fresh database needs nothing but `--phase expand` before the first release starts."""
    name = f"{database.name}_fresh"
    database.stack.postgres.create_database(name)
    try:
        dsn = database.stack.postgres.dsn("billing_owner", name)
        waiting = migrate.pending(dsn)
        assert migrate.upgrade(dsn, phase="expand") == [revision for revision, _ in waiting]
        assert catalogue(dsn) == catalogue(database.dsn("billing_owner"))
    finally:
        database.stack.postgres.drop_database(name)


@pytest.mark.parametrize(
    ("phase", "runs"),
    [("expand", ["a"]), ("migrate", ["a", "b"]), ("contract", ["a", "b", "c"]), (None, ["a", "b", "c"])],
)
def test_a_phase_runs_what_is_due_up_to_it(phase: migrate.Phase | None, runs: list[str]) -> None:
    assert migrate.runnable([("a", "expand"), ("b", "migrate"), ("c", "contract")], phase) == runs


def test_an_expansion_behind_an_unfinished_contraction_is_refused() -> None:
    waiting: list[tuple[str, migrate.Phase]] = [("a", "expand"), ("c", "contract"), ("d", "expand")]
    with pytest.raises(migrate.MigrationBlocked, match=r"c \(contract\)"):
        migrate.runnable(waiting, "expand")
    assert migrate.runnable(waiting, "contract") == ["a", "c", "d"]


def test_migrations_are_clean_for_squawk() -> None:
    program = Path(__file__).parents[2] / "tools" / "lint_migrations"
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "lock_timeout" in migrate.squawk_input() and "CREATE TABLE ledger_transfer" in migrate.squawk_input()
