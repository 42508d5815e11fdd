"""Messages that may be what kills the process, and how that is found out (docs/decisions/0020).

A delivery count cannot tell: naks of an outage use deliveries up as well. What can tell is a try that began and did not end.
A suspect is tried alone, with nothing else in hand in the whole process, between two markers in BILLING_ATTEMPTS: one says that
the try begins, the other that the process lived to see its end. A first marker without a second is a death, and this message is
the only one that can have caused it.
"""

import asyncio
from base64 import b64decode
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from adapters.nats.topology import ATTEMPTS_STREAM
from handlers.inbound import Delivery, Malformed, delivery, unread
from schemas.codes import Code
from schemas.outcome import problem
from schemas.subjects import attempt_subject

# Three tries among its neighbours, as after two crashes or a short outage; from the fourth on alone.
SUSPECT_DELIVERIES = 4
# One death may be a pod evicted at that very moment; two in a row, while nothing else was in hand, are the message's doing.
POISON_DEATHS = 2
MARKER_TIMEOUT_SECONDS = 2.0
# A marker that says nothing is not ours: a tenant can aim the PubAck of one of its commands here (docs/decisions/0002).
# Counted as one death it neither frees a poison message nor condemns a harmless one, which its next try clears.
FORGED_MARKER_DEATHS = 1
# What can be delivered and unacknowledged of one group (MAX_ACK_PENDING): about 3 MB when full.
MAX_REMEMBERED = 20_000

_NO_MESSAGE = 10037  # JetStream's error code: the stream is there, the message is not


class MarkerUnknown(Exception):
    """The server did not say whether there is a marker: the suspect must wait."""


class Quarantine:
    """Of a process: any number of batches, or one suspect. Shared by all consumer groups."""

    def __init__(self) -> None:
        self._batches = 0
        self._suspects_waiting = 0
        self._suspect = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._suspect and not self._suspects_waiting)
            self._batches += 1
        try:
            yield
        finally:
            async with self._changed:
                self._batches -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._suspects_waiting += 1
            try:
                await self._changed.wait_for(lambda: not self._suspect and not self._batches)
                self._suspect = True
            finally:
                self._suspects_waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._suspect = False
                self._changed.notify_all()


class Suspect(NamedTuple):
    """`deaths`: how often a process began to try it and did not come back."""

    message: Msg
    delivery: Delivery
    deaths: int

    @property
    def is_poison(self) -> bool:
        return self.deaths >= POISON_DEATHS


class Suspects:
    """Of one consumer group."""

    def __init__(self, connection: Client, jetstream: JetStreamContext, group: str, quarantine: Quarantine) -> None:
        self._connection, self._jetstream, self._group = connection, jetstream, group
        self.quarantine = quarantine
        self._came_back: OrderedDict[tuple[str, int], None] = OrderedDict()

    def split(self, messages: Sequence[Msg]) -> tuple[list[Msg], list[Msg]]:
        """(trusted, suspects), each in the order given: a suspect was delivered often, and not handled by this process."""
        trusted: list[Msg] = []
        suspects: list[Msg] = []
        for message in messages:
            found = delivery(message.reply)
            is_suspect = found.delivered >= SUSPECT_DELIVERIES and _key(found) not in self._came_back
            (suspects if is_suspect else trusted).append(message)
        return trusted, suspects

    def came_back(self, messages: Sequence[Msg]) -> None:
        """This process has handled them and lives. Only those that could be suspects next time are remembered."""
        for message in messages:
            found = delivery(message.reply)
            if found.delivered >= SUSPECT_DELIVERIES - 1:
                self._came_back[_key(found)] = None
                self._came_back.move_to_end(_key(found))
        while len(self._came_back) > MAX_REMEMBERED:
            self._came_back.popitem(last=False)

    async def in_order(self, messages: Sequence[Msg]) -> list[Suspect]:
        """Those that have killed come last, so that a killer's neighbours are done when it is tried again.

        Raises MarkerUnknown, or a nats error.
        """
        found = [delivery(message.reply) for message in messages]
        deaths = await asyncio.gather(*(self._deaths(each) for each in found))
        suspects = [Suspect(*each) for each in zip(messages, found, deaths, strict=True)]
        return sorted(suspects, key=lambda suspect: (suspect.deaths, suspect.delivery.stream_sequence))

    @asynccontextmanager
    async def trying(self, suspect: Suspect) -> AsyncIterator[None]:
        """Alone in the process, between the two markers. Raises a nats error, before the block, where no marker can be set."""
        async with self.quarantine.alone():
            await self._mark(suspect.delivery, suspect.deaths + 1)
            try:
                yield
            finally:
                await self._mark(suspect.delivery, 0)
                self.came_back([suspect.message])

    async def _deaths(self, of: Delivery) -> int:
        """Asked of the stream's leader: a replica that lags would not have the last marker yet."""
        request = orjson.dumps({"last_by_subj": attempt_subject(self._group, of.stream, of.stream_sequence)})
        answer = await self._connection.request(
            f"$JS.API.STREAM.MSG.GET.{ATTEMPTS_STREAM}", request, timeout=MARKER_TIMEOUT_SECONDS
        )
        found = orjson.loads(answer.data)
        if error := found.get("error"):
            if error.get("err_code") == _NO_MESSAGE:
                return 0
            raise MarkerUnknown(str(error.get("description")))
        return _marker_deaths(found["message"])

    async def _mark(self, of: Delivery, deaths: int) -> None:
        await self._jetstream.publish(
            attempt_subject(self._group, of.stream, of.stream_sequence),
            orjson.dumps({"deaths": deaths, "delivered": of.delivered}),
            timeout=MARKER_TIMEOUT_SECONDS,
            stream=ATTEMPTS_STREAM,
        )


def _marker_deaths(stored: dict[str, str]) -> int:
    try:
        return int(orjson.loads(b64decode(stored.get("data", "")))["deaths"])
    except (ValueError, KeyError, TypeError):
        return FORGED_MARKER_DEATHS


def poison(suspect: Suspect) -> Malformed:
    """The dead letter of a message that kills: its body is not looked at again."""
    failure = f"the process ended during each of {suspect.deaths} tries of this message alone"
    return unread(suspect.message, problem(Code.COMMAND_FAILED, None, failure=failure))


def _key(of: Delivery) -> tuple[str, int]:
    return of.stream, of.stream_sequence
