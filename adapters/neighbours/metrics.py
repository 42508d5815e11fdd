"""What the clients of the outside services report to Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "billing_neighbour_requests",
    "Requests to an outside service, every try by itself; outcome is ok, timeout, unreachable, failed (a status we did not "
    "expect), invalid (an answer we do not believe), too_large or busy (our own limit of concurrent requests)",
    ("neighbour", "outcome"),
)
DURATION = Histogram(
    "billing_neighbour_request_duration_seconds",
    "One try, from the first byte sent to the whole answer read",
    ("neighbour",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_FLIGHT = Gauge("billing_neighbour_requests_in_flight", "Requests not yet answered", ("neighbour",))
AWAY = Gauge(
    "billing_neighbour_away", "1 while nobody waits for the service because it lately did not answer", ("neighbour",)
)
CACHE = Counter(
    "billing_neighbour_cache",
    "Look-ups: hit, miss (asked, or shared with who asked), stale (kept beyond its time because the service is away) or "
    "none (the service is away and nothing is kept)",
    ("neighbour", "result"),
)
CACHE_ENTRIES = Gauge("billing_neighbour_cache_entries", "Answers kept", ("neighbour",))
