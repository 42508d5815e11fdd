"""What the FHIR push reports to Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

PUSHES = Counter(
    "billing_fhir_pushes",
    "Resources: created, updated, current (the gateway had this state or a newer one), refused or failed",
    ("resource", "outcome"),
)
EVENTS = Counter(
    "billing_fhir_events",
    "Events in hand that ended as pushed, covered (by the push of a later one), not_pushed (the tenant's data belongs "
    "elsewhere), ignored (nothing FHIR has), retried, given_back (too many of one tenant) or dead_lettered",
    ("outcome",),
)
LAG = Histogram(
    "billing_fhir_lag_seconds",
    "From an event's moment to its state on the FHIR gateway",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200),
)
DEPTH = Gauge("billing_fhir_queue_depth", "Events waiting to be pushed or in hand, of all workers")
OLDEST_AGE = Gauge("billing_fhir_queue_oldest_age_seconds", "Age of the oldest event that was not pushed yet")
