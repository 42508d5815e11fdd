"""A replay that is killed with -9 in the middle: run again under its id, every message has been sent once."""

import asyncio
import subprocess
from collections.abc import Iterator

import pytest
from nats.aio.client import Client

from adapters.nats.topology import REPLAY_STREAM
from tests.fixtures.servers import TEMPLATE
from tests.integration.replay_support import (
    act,
    arguments_of,
    billing,
    books,
    environment,
    handled,
    on_nats,
    originals,
    paid,
    replayed,
)
from tools.stack import Stack
from tools.stack.mesh import Mesh

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

COUNT = 5_000
TENANT = "kill-hospital"
RUN = "killed-in-the-middle"


@pytest.fixture(scope="module")
def mesh(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE, tenants=(TENANT,), roles=("handlers", "worker")) as running:
        on_nats(running, lambda client: paid(client, TENANT, COUNT))
        yield running


def _killed(mesh: Mesh, at_least: int) -> None:
    """Starts the run, or goes on with it, and kills it when `at_least` messages have been sent in all."""
    arguments = ("replay", "redeliver", "--tenant", TENANT, "--group", "payments", "--replay-id", RUN)
    process = subprocess.Popen(
        arguments_of(*arguments, "--execute", "--yes", "--allow-money", "--reason", "a test", "--json"),
        env=environment(mesh),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        on_nats(mesh, lambda client: _stored(client, at_least))
    finally:
        process.kill()
        process.wait()


async def _stored(client: Client, at_least: int) -> None:
    """Awaits the replay stream's own messages: polling would come too late for a run of a second."""
    arrived = asyncio.Event()
    seen = 0

    async def count(_: object) -> None:
        nonlocal seen
        seen += 1
        if seen >= at_least:
            arrived.set()

    await client.jetstream().subscribe(
        "billing.v1.replay.payments.>", stream=REPLAY_STREAM, cb=count, ordered_consumer=True
    )
    async with asyncio.timeout(60):
        await arrived.wait()


def test_each_message_is_sent_once_over_two_kills(mesh: Mesh) -> None:
    before = books(mesh, TENANT)
    _killed(mesh, at_least=COUNT // 5)
    on_nats(mesh, lambda client: handled(client, REPLAY_STREAM))
    first = len(replayed(mesh, RUN))
    assert COUNT // 5 <= first < COUNT, "it must have been killed on its way"
    _killed(mesh, at_least=first + COUNT // 5)
    finished = billing(mesh, "replay", "resume", RUN, "--json")
    assert (finished.code, finished.data["state"], finished.data["published"]) == (0, "done", COUNT), finished.err
    on_nats(mesh, lambda client: handled(client, REPLAY_STREAM))
    found = originals(replayed(mesh, RUN))
    assert found == sorted(found)
    assert len(found) == len(set(found)) == COUNT
    assert books(mesh, TENANT) == before
    again = act(mesh, "replay", "redeliver", "--replay-id", RUN)
    assert (again.code, len(replayed(mesh, RUN))) == (0, COUNT)
