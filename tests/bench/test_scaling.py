"""The scaling simulation reads what KEDA reads, on a real server; the HPA's own rules are arithmetic."""

import asyncio
import xml.etree.ElementTree as ElementTree
from itertools import islice

import nats

from adapters.nats.batch_publish import Publisher, Row
from adapters.nats.scaling import WORKLOADS
from schemas.wire_headers import encode_headers
from tools.bench import scaling
from tools.bench.workload import Workload, payments
from tools.stack import NatsServer

RULE = WORKLOADS["handlers"]


async def test_depths_come_from_the_monitoring_endpoint(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url("admin"))
    rows = [
        Row(each.subject, encode_headers(each.headers), each.body) for each in islice(payments(Workload(1, 1)), 4_400)
    ]
    async with Publisher(client) as publisher:
        for start in range(0, len(rows), 500):
            await publisher.publish_batch(rows[start : start + 500])
    taken = await client.jetstream().pull_subscribe_bind("payments", stream="BILLING_COMMANDS")
    await taken.fetch(100)  # in hand is depth, too
    found = await asyncio.to_thread(scaling.look, nats_server, RULE)
    assert {queue.durable for queue in found} == {queue.durable for queue in RULE.lag_per_replica}
    assert {queue.durable: depth for queue, depth in found.items() if depth} == {"payments": 4_400}
    assert RULE.wanted(found) == 5, "one replica per thousand begun"
    await client.close()


def test_the_most_that_a_queue_asks_for_counts_within_the_bounds() -> None:
    first, second, *_ = RULE.lag_per_replica
    assert [RULE.wanted({first: depth, second: 0}) for depth in (0, 3_000, 3_001, 10_001)] == [3, 3, 4, 10]
    assert RULE.wanted({first: 4_000, second: 7_500}) == 8
    assert RULE.wanted({}) == 3


def test_an_hpa_rises_in_steps_and_waits_before_it_falls() -> None:
    burst = [(float(at), 10 if at < 60 else 3) for at in range(0, 500, 5)]
    steps = dict(scaling.followed(burst, 3))
    assert (steps[0.0], steps[15.0]) == (7, 10), "at most four more, or twice as many, at a look"
    assert steps[330.0] == 10 and steps[345.0] == 3, "what was wanted in the last five minutes is kept"
    assert scaling.followed([(0.0, 21), (15.0, 21)], 20) == [(0.0, 20), (0.0, 20), (15.0, 20)], "a tenth is nothing"


def test_the_picture_is_a_picture() -> None:
    samples = [scaling.Sample(at / 5, {"payments": max(0, 30_000 - 200 * at)}, RULE.wanted({})) for at in range(200)]
    drawn = ElementTree.fromstring(scaling.picture(samples))  # noqa: S314  our own
    assert len(drawn.findall("{http://www.w3.org/2000/svg}path")) > 5
    assert scaling.summary(samples)["deepest"] == 30_000
