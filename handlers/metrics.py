"""What the command handlers report to Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

# 3 s is the payment latency at which a canary is rolled back (the topology document, §9): it has an edge of its own.
DURATION_EDGES_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 60)
BATCH_EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)

COMMANDS = Counter("billing_commands", "Commands answered", ("command", "outcome", "code"))
DURATION = Histogram(
    "billing_command_duration_seconds",
    "From the moment the stream stored a command to its answer",
    ("group",),
    buckets=DURATION_EDGES_SECONDS,
)
BATCH_SIZE = Histogram("billing_command_batch_size", "Messages of one fetch", ("group",), buckets=BATCH_EDGES)
TRANSACTION_SIZE = Histogram(
    "billing_command_transaction_size", "Commands of one tenant's transaction", ("group",), buckets=BATCH_EDGES
)
TRANSACTION_DURATION = Histogram(
    "billing_command_transaction_duration_seconds",
    "One tenant's transaction, its wait for the tenant's lock included",
    ("group",),
    buckets=DURATION_EDGES_SECONDS,
)
IN_FLIGHT = Gauge("billing_commands_in_flight", "Messages handed over and not yet answered", ("group",))
RETRIES = Counter("billing_command_retries", "Messages given back to be delivered again", ("group", "reason"))
BISECTIONS = Counter("billing_command_bisections", "Transactions split to find a message that fails", ("group",))
DEAD_LETTERS = Counter("billing_dead_letters", "Messages moved to the dead letter stream", ("group", "code"))
AUDITED = Counter(
    "billing_audit_kept",
    "Audit events kept outside a command's transaction: in the outbox, in the stream while PostgreSQL is away, or nowhere",
    ("where",),
)
CONSUMER_PENDING = Gauge("billing_consumer_pending", "Messages not yet delivered to the consumer group", ("group",))
CONSUMER_ACK_PENDING = Gauge("billing_consumer_ack_pending", "Messages delivered and not yet acknowledged", ("group",))
CONSUMER_REDELIVERED = Gauge("billing_consumer_redelivered", "Unacknowledged messages delivered before", ("group",))
CONSUMER_OLDEST_AGE = Gauge(
    "billing_consumer_oldest_age_seconds",
    "Age of the oldest message the consumer group has not acknowledged",
    ("group",),
)
