"""What `billing queues` may be given beside NATS_URL."""

from adapters.settings import PostgresUrl, Settings


class QueueSettings(Settings):
    """The relay's own database role, the only one that sees the outbox of all tenants."""

    database_relay_url: PostgresUrl | None = None
