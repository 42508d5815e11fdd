"""What the relay reports to Prometheus."""

from prometheus_client import Counter, Gauge

_GROUP = "shard_group"

BACKLOG = Gauge(
    "billing_outbox_backlog",
    "Unsent outbox rows of the shard groups this process owns (counting stops at 10,000 a shard)",
    ("stream", _GROUP),
)
OLDEST_AGE = Gauge(
    "billing_outbox_oldest_age_seconds",
    "Age of the oldest unsent outbox row of the shard groups this process owns",
    ("stream", _GROUP),
)
PUBLISHED = Counter(
    "billing_outbox_published",
    "Outbox rows stored in JetStream, as part of an atomic batch or singly",
    ("stream", "mode"),
)
OWNED = Gauge("billing_outbox_owned_shard_groups", "Shard groups this process owns; over all processes, all of them")
ERRORS = Counter(
    "billing_outbox_errors",
    "Failures: `session` dropped its connection, `batch` fell back to singles, `unavailable` stream, `refused` message",
    ("stream", "kind"),
)
PARKED = Gauge(
    "billing_outbox_parked_tenants",
    "Tenants whose next message the server refuses; everything behind it waits",
    ("stream", _GROUP),
)

STREAMS = ("events", "audit", "jobs")


def disown(group: int) -> None:
    """Forget a lost group's gauges: its new owner reports them, and a stale copy would look like a stuck outbox."""
    OWNED.dec()
    for gauge in (BACKLOG, OLDEST_AGE, PARKED):
        for stream in STREAMS:
            gauge.remove(stream, str(group))


def own(group: int) -> None:
    OWNED.inc()
    for gauge in (BACKLOG, OLDEST_AGE, PARKED):
        for stream in STREAMS:
            gauge.labels(stream, str(group)).set(0)
