"""What the schedules report to Prometheus. Only their owner has figures: read gauges with `max`."""

from prometheus_client import Counter, Gauge

RUNS = Counter("billing_schedule_runs", "Runs of scheduled work", ("schedule", "outcome"))
LAST_RUN = Gauge("billing_schedule_last_run_timestamp_seconds", "When a schedule last ran to its end", ("schedule",))
OWNED = Gauge("billing_schedules_owned", "Whether this process runs the schedules; over all processes, 1")
OVERDUE_MARKED = Counter("billing_invoices_marked_overdue", "Invoices marked as overdue")
INBOX_REMOVED = Counter("billing_inbox_rows_removed", "Outcomes let go of after their retention")
# Without a tenant label: alerts and the canary's rollback need one number, and a series for each of thousands of tenants that
# are all well would say nothing. Which tenant it is, the next gauge says, and only for those that are not well.
MISMATCHES = Gauge("billing_ledger_integrity_mismatches", "Mismatches in the books of all tenants, as last verified")
TENANT_MISMATCHES = Gauge(
    "billing_ledger_integrity_tenant_mismatches", "Mismatches of a tenant that has any", ("tenant", "check")
)
LAST_VERIFIED = Gauge(
    "billing_ledger_integrity_last_run_timestamp_seconds", "When the ledgers of all tenants were last verified"
)


def disown() -> None:
    """Forgets what only the owner knows: a stale copy would look like a mismatch that nobody mends."""
    OWNED.set(0)
    MISMATCHES.set(0)
    TENANT_MISMATCHES.clear()
    LAST_VERIFIED.set(0)
    LAST_RUN.clear()
