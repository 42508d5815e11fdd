"""What the jobs report to Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

JOBS = Counter("billing_jobs", "Job messages handled", ("kind", "outcome"))
ITEMS = Counter("billing_job_items", "Items of jobs", ("kind", "outcome"))
DURATION = Histogram(
    "billing_job_duration_seconds",
    "One job message from delivery to its end",
    ("kind",),
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200),
)
RENDER_DURATION = Histogram(
    "billing_statement_render_seconds",
    "One statement's PDF, in its thread",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
IN_FLIGHT = Gauge("billing_jobs_in_flight", "Job messages in hand", ("kind",))
DEPTH = Gauge("billing_job_queue_depth", "Job messages waiting or in hand, of all workers", ("queue",))
OLDEST_AGE = Gauge("billing_job_queue_oldest_age_seconds", "Age of the oldest unfinished job message", ("queue",))
