"""A relay as a process of its own, to be killed: `python -m tests.integration.relay_process` with its URLs in the environment."""

import asyncio
import os

from adapters.nats.connection import connect
from handlers.relay import run_relay


async def main() -> None:
    connection = await connect(os.environ["NATS_URL"], name="relay-process")
    await run_relay(dsn=os.environ["RELAY_DSN"], nats_connection=connection, stop=asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
