"""What the schedules may do across tenants: know which there are, and let go of old inbox rows."""

from alembic import op

from adapters.postgres.migrations.protection import RELAY

revision = "0005_schedules"
down_revision = "0004_jobs"
phase = "expand"


def upgrade() -> None:
    # The ids alone: nothing of a book can be read through it.
    op.execute(f"CREATE POLICY relay_tenants ON tenant_book FOR SELECT TO {RELAY} USING (true)")
    op.execute(f"GRANT SELECT (tenant_id) ON tenant_book TO {RELAY}")
    # Nobody has DELETE on the inbox; this takes from the front of one tenant's, whose newest outcome always stays, and
    # nothing younger than 91 days: dead letters are kept for 90, and one that is retried must still meet its outcome.
    # The front is judged by sequence, so that what is left is numbered without a gap.
    op.execute("""
CREATE FUNCTION clean_inbox(tenant TEXT, older_than TIMESTAMP WITH TIME ZONE, at_most BIGINT) RETURNS BIGINT
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    cutoff TIMESTAMP WITH TIME ZONE := least(older_than, now() - INTERVAL '91 days');
    kept BIGINT;
    removed BIGINT;
BEGIN
    PERFORM set_config('billing.tenant', tenant, true);
    SELECT coalesce(min(sequence) FILTER (WHERE recorded_at >= cutoff), max(sequence)) INTO kept
    FROM public.inbox WHERE tenant_id = tenant;
    WITH oldest AS (
        SELECT command_id FROM public.inbox WHERE tenant_id = tenant AND sequence < kept ORDER BY sequence LIMIT at_most)
    DELETE FROM public.inbox USING oldest WHERE inbox.tenant_id = tenant AND inbox.command_id = oldest.command_id;
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM set_config('billing.tenant', '', true);
    RETURN removed;
END
$$""")
    op.execute("REVOKE ALL ON FUNCTION clean_inbox(TEXT, TIMESTAMP WITH TIME ZONE, BIGINT) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION clean_inbox(TEXT, TIMESTAMP WITH TIME ZONE, BIGINT) TO {RELAY}")
