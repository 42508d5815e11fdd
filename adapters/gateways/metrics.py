"""What the gateways report to Prometheus. Tenants are labels of the circuit only: it is theirs alone."""

from prometheus_client import Counter, Gauge, Histogram

CLOSED, HALF_OPEN, OPEN = 0, 1, 2

CIRCUIT_STATE = Gauge(
    "billing_gateway_circuit_state",
    "A tenant's way to its gateway: 0 closed (asked), 1 half-open (one request tries), 2 open (not asked)",
    ("tenant", "adapter"),
)
REQUESTS = Counter(
    "billing_gateway_requests",
    "Calls: ok, declined, refused (certainly not done), unknown (money may have moved), unreachable (never sent), credentials, "
    "busy, not_configured or circuit_open (not asked)",
    ("adapter", "outcome"),
)
DURATION = Histogram(
    "billing_gateway_request_duration_seconds",
    "One call, all its requests together; those that were not asked are not timed",
    ("adapter",),
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30),
)
IN_FLIGHT = Gauge("billing_gateway_requests_in_flight", "Calls under way", ("adapter",))
