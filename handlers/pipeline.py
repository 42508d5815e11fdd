"""The walk of a batch: decode, prepare, then per tenant load → execute → save in one transaction, then answer.

The only pipeline there is. Every consumer group has one; they share the database pool and the turns of the tenants. A batch is
what was waiting: one command when idle, hundreds under load, and each tenant's share of it is one transaction.
"""

import asyncio
from collections.abc import Sequence
from time import time

import structlog
from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError

from adapters.postgres import errors
from adapters.postgres.database import Database
from adapters.postgres.load import load
from adapters.postgres.save import save
from adapters.telemetry import tracing
from domain import engine
from domain.decision import Command
from domain.engine import Verdict
from handlers import hops, metrics
from handlers.answers import RETRY_MAX_SECONDS, Answered, Answers, failure_problem, quietly
from handlers.inbound import Inbound, Malformed, decode
from handlers.prepare import Preparation
from handlers.suspects import MarkerUnknown, Suspect, Suspects, poison
from handlers.turns import Turns
from handlers.waits import Waits
from schemas.base import CommandBody

log = structlog.get_logger()


# A fetch is large for the sake of many tenants (2,000 messages are 20 for each of a hundred); what one of them holds its lock for
# is bounded here, at some 100 ms of payments. Past 500 a transaction gains next to nothing (docs/decisions/0041).
TRANSACTION_COMMANDS = 500


class Pipeline:
    """Handles the batches of one consumer group. `handle` raises nothing but cancellation."""

    def __init__(
        self,
        group: str,
        *,
        database: Database,
        preparation: Preparation,
        answers: Answers,
        turns: Turns,
        suspects: Suspects,
    ) -> None:
        self._group = group
        self._database = database
        self._preparation = preparation
        self._answers = answers
        self._turns = turns
        self._suspects = suspects
        self._waits = Waits()

    async def handle(self, messages: Sequence[Msg]) -> None:
        metrics.BATCH_SIZE.labels(self._group).observe(len(messages))
        in_flight = metrics.IN_FLIGHT.labels(self._group)
        in_flight.inc(len(messages))
        try:
            trusted, suspects = self._suspects.split(messages)
            if trusted:
                async with self._suspects.quarantine.together():
                    await self._batch(trusted)
                self._suspects.came_back(trusted)
            if suspects:
                await self._try_alone(suspects)
        finally:
            in_flight.dec(len(messages))

    async def _batch(self, messages: Sequence[Msg]) -> None:
        decoded = [decode(message) for message in messages]
        if tracing.exports():
            decoded = [hops.begun(letter) for letter in decoded]
        malformed = [letter for letter in decoded if isinstance(letter, Malformed)]
        shares = _shares([inbound for inbound in decoded if isinstance(inbound, Inbound)])
        async with asyncio.TaskGroup() as tasks:
            if malformed:
                letters = [(letter, letter.problem) for letter in malformed]
                tasks.create_task(quietly(self._answers.bury(letters), {"group": self._group}))
            for tenant_id, share in shares.items():
                tasks.create_task(self._tenant(tenant_id, share))

    async def _try_alone(self, messages: Sequence[Msg]) -> None:
        """One by one, after their neighbours: if one of them is what kills the process, it no longer takes others along."""
        waiting = list(messages)
        try:
            for suspect in await self._suspects.in_order(messages):
                await self._try(suspect)
                waiting.remove(suspect.message)
        except (MarkerUnknown, nats_errors.Error, JetStreamError, TimeoutError) as error:
            log.error("suspects_postponed", group=self._group, count=len(waiting), error=type(error).__name__)
            for message in waiting:
                if not message.is_acked:
                    await quietly(message.nak(delay=RETRY_MAX_SECONDS), {"group": self._group})

    async def _try(self, suspect: Suspect) -> None:
        if suspect.is_poison:
            letter = poison(suspect)
            await quietly(self._answers.bury([(letter, letter.problem)]), hops.ids(letter))
            return
        log.warning(
            "suspect_tried_alone",
            group=self._group,
            stream_sequence=suspect.delivery.stream_sequence,
            delivered=suspect.delivery.delivered,
            deaths=suspect.deaths,
        )
        async with self._suspects.trying(suspect):
            await self._batch([suspect.message])

    async def _tenant(self, tenant_id: str, share: Sequence[Inbound]) -> None:
        """One tenant's share. Whatever happens to it stays with it."""
        try:
            commands = await self._preparation.commands(tenant_id, share, self._waits)
            pairs = list(zip(share, commands, strict=True))
            for start in range(0, len(pairs), TRANSACTION_COMMANDS):
                await self._apply(tenant_id, pairs[start : start + TRANSACTION_COMMANDS])
        except Exception as error:
            log.exception("share_failed", **_of(share), group=self._group, error=type(error).__name__)
            await quietly(self._answers.retry(share, "unexpected"), _of(share))

    async def _apply(self, tenant_id: str, pairs: Sequence[tuple[Inbound, Command[CommandBody]]]) -> None:
        """Applies and answers. A transient failure gives the share back; a failure that one message causes is bisected
        until that message is alone, and it is dead-lettered."""
        try:
            verdicts, position = await self._transact(tenant_id, pairs)
        except Exception as error:
            share = [inbound for inbound, _ in pairs]
            if errors.transient(error):
                log.warning("share_postponed", **_of(share), group=self._group, error=type(error).__name__)
                self._waits.outage()
                await quietly(self._answers.retry(share, "transient"), _of(share))
            elif len(pairs) == 1:
                log.exception("command_failed", **hops.ids(pairs[0][0]), error=type(error).__name__)
                await quietly(self._answers.bury([(pairs[0][0], failure_problem(error))]), hops.ids(pairs[0][0]))
            else:
                metrics.BISECTIONS.labels(self._group).inc()
                middle = len(pairs) // 2
                await self._apply(tenant_id, pairs[:middle])
                await self._apply(tenant_id, pairs[middle:])
            return
        answered = [self._answered(inbound, verdict) for (inbound, _), verdict in zip(pairs, verdicts, strict=True)]
        for inbound, verdict, _ in answered:
            if verdict.failure is not None:
                log.error("command_failed", **hops.ids(inbound), exc_info=verdict.failure)
        await quietly(self._answers.settle(answered, position), _of([inbound for inbound, _ in pairs]))
        self._observe(answered)

    def _answered(self, inbound: Inbound, verdict: Verdict) -> Answered:
        if verdict.status == "deferred":
            return Answered(inbound, verdict, self._waits.add(inbound.delivery))
        self._waits.forget(inbound.delivery)
        return Answered(inbound, verdict)

    async def _transact(
        self, tenant_id: str, pairs: Sequence[tuple[Inbound, Command[CommandBody]]]
    ) -> tuple[list[Verdict], str | None]:
        """One transaction: nothing outside it has happened when this raises."""
        commands = [command for _, command in pairs]
        needs = engine.needs(commands)
        async with self._turns.turn(tenant_id):
            timer = metrics.TRANSACTION_DURATION.labels(self._group).time()
            with timer, hops.together([inbound for inbound, _ in pairs], self._group):
                async with self._database.transaction(tenant_id) as transaction:
                    snapshot = await load(transaction.connection, tenant_id, needs)
                    verdicts = engine.execute(snapshot, commands)
                    await save(transaction.connection, tenant_id, snapshot.changes())
                    transaction.wants_position = any(inbound.reply_to for inbound, _ in pairs)
        metrics.TRANSACTION_SIZE.labels(self._group).observe(len(pairs))
        return verdicts, transaction.position

    def _observe(self, answered: Sequence[Answered]) -> None:
        duration, now = metrics.DURATION.labels(self._group), time()
        for inbound, verdict, _ in answered:
            if verdict.status not in ("deferred", "failed"):
                duration.observe(max(0.0, now - inbound.delivery.recorded_at.timestamp()))


def _shares(inbounds: Sequence[Inbound]) -> dict[str, list[Inbound]]:
    """By tenant, in stream order: redelivered messages arrive behind newer ones."""
    shares: dict[str, list[Inbound]] = {}
    for inbound in sorted(inbounds, key=lambda inbound: inbound.delivery.stream_sequence):
        shares.setdefault(inbound.tenant_id, []).append(inbound)
    return shares


def _of(share: Sequence[Inbound]) -> dict[str, str | int | None]:
    """What a log line says of several commands of one tenant: their number, and the first of them to begin looking at."""
    return {**hops.ids(share[0]), "commands": len(share)}
