"""What every migration that makes a table owes: row-level security and grants. Roles are made here when they are missing.

Frozen in meaning: a migration that ran yesterday must do the same tomorrow. A new rule is a new function.
"""

from alembic import op

# A migration that queues for a lock blocks everyone behind it: better to fail soon and be run again. One that needs
# longer for a statement (a concurrent index build) sets its own.
TIMEOUTS = ("SET lock_timeout = '3s'", "SET statement_timeout = '60s'")

APP, RELAY, READ = "billing_app", "billing_relay", "billing_read"

# The sub-select makes the tenant an InitPlan, computed once and usable in an index condition; the bare function would
# be evaluated for every row. A session without a tenant has NULL or '' here and sees nothing.
_TENANT = "tenant_id = (SELECT current_setting('billing.tenant', true))"


def ensure_roles() -> None:
    """Makes missing roles, without LOGIN, where the owner may; otherwise fails and says what an administrator has to run."""
    for role in (APP, RELAY, READ):
        op.execute(f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
        CREATE ROLE {role} NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION USING
        MESSAGE = 'role {role} does not exist and ' || current_user || ' may not create roles',
        HINT = 'As an administrator: CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS;',
        ERRCODE = 'undefined_object';
END
$$""")
        op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")


def protect(table: str, *, app_updates: tuple[str, ...] = ()) -> None:
    """Rows of one tenant at a time, for everybody; the app role reads, adds, and changes only `app_updates`.

    Nobody is granted DELETE or TRUNCATE, and the owner is bound by the policy as well (FORCE).
    """
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {table} USING ({_TENANT}) WITH CHECK ({_TENANT})")
    expect_large_tenants(table)
    op.execute(f"GRANT SELECT, INSERT ON {table} TO {APP}")
    if app_updates:
        op.execute(f"GRANT UPDATE ({', '.join(app_updates)}) ON {table} TO {APP}")
    op.execute(f"GRANT SELECT ON {table} TO {READ}")


def expect_large_tenants(table: str) -> None:
    """Statistics then say that one tenant may own every row, so that no plan reads "the few rows" of a tenant.

    Tenants differ in size by orders of magnitude, and plans are made once for all of them. The planner still caps its
    guess at the share of the largest tenant.
    """
    op.execute(f"ALTER TABLE {table} ALTER COLUMN tenant_id SET (n_distinct = 1)")


def let_relay_drain(table: str) -> None:
    """The relay reads and deletes this table's rows of all tenants; it can neither add nor change one."""
    op.execute(f"CREATE POLICY relay_select ON {table} FOR SELECT TO {RELAY} USING (true)")
    op.execute(f"CREATE POLICY relay_delete ON {table} FOR DELETE TO {RELAY} USING (true)")
    op.execute(f"GRANT SELECT, DELETE ON {table} TO {RELAY}")
