"""What the queries report to Prometheus."""

from prometheus_client import Counter, Histogram

UNKNOWN = "unknown"  # the name label of queries that do not exist: a label must not be the caller's to choose

QUERIES = Counter(
    "billing_queries", "Queries answered; outcome is `ok` or the code of the refusal", ("name", "outcome")
)
DURATION = Histogram(
    "billing_query_duration_seconds",
    "From receipt to answer",
    ("name",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 60),
)
REPLICA_FALLBACKS = Counter(
    "billing_query_replica_fallbacks",
    "Queries that went to the primary although there is a replica: `down`, `lagging`, or `skipped` while it is known down",
    ("reason",),
)
