"""What the gateway queue and its schedules report to Prometheus; the gateways' own calls are in adapters/gateways/metrics.py."""

from prometheus_client import Counter, Gauge

HOLDS = Gauge(
    "billing_holds",
    "Charges through gateways that are not over, or have a fault, of all tenants: `unknown` and `mismatch` are for people",
    ("status", "fault"),
)
LEFT = Counter("billing_gateway_jobs_left", "Requests left to the recovery, by reason", ("code",))
LOOKED = Counter("billing_gateway_recovery_looks", "Holds and refunds the recovery asked a gateway about", ("outcome",))
EXPIRED = Counter("billing_holds_expired", "Holds released because their time was over")
CIRCUIT_REPORTS = Counter(
    "billing_gateway_circuit_reports", "Circuits told to the command groups", ("state", "outcome")
)
