"""A plan onto NATS: patients in parallel, one patient's commands stage by stage, outcomes awaited.

A step whose predecessor had no effect is not sent, and says so. Commands already known answer `duplicate`; what was refused for
good before is tried again under a further id of the same chain, so that importing again after a fix picks it up.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple
from uuid import UUID

import orjson
from nats.aio.client import Client

from schemas.codes import Code
from schemas.outcome import Outcome
from schemas.subjects import command_subject
from tools.cli.command_client import CommandClient
from tools.cli.errors import CliError
from tools.fhir_import.asking import ask
from tools.fhir_import.plan import STAGES, Lane, Plan, Step

IN_FLIGHT = 256  # commands: as many as NATS acknowledges with one fsync; a consumer group takes up to 500 at once
_LANES = 64  # patients at a time: stages of a few commands each, so the 256 are the bound that is felt
_RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0)
_CHAIN = 32  # refusals of one command to walk past
_ACTOR = "billing-import-fhir"
# The account is there, opened by an earlier import of other bundles of the patient.
_THERE = (Code.ALREADY_EXISTS, Code.IDEMPOTENCY_KEY_REUSED)

Status = Literal["applied", "duplicate", "rejected", "not_sent", "unanswered"]


class Sent(NamedTuple):
    """What became of one command. `text` says why for the last three statuses."""

    step: Step
    command: str
    command_id: UUID
    status: Status
    code: str | None = None
    text: str | None = None
    result: dict[str, Any] | None = None

    @property
    def has_effect(self) -> bool:
        return self.status in ("applied", "duplicate")


class Document(NamedTuple):
    """An invoice that `invoice.create` drafted, as its stored result has it."""

    invoice_id: str
    party_id: str
    total_minor: int


class Runner:
    """One import. `done` is called once per step that has ended."""

    def __init__(self, connection: Client, plan: Plan, wait_seconds: float, done: Callable[[Step], None]) -> None:
        self._connection, self._plan, self._wait_seconds, self._done = connection, plan, wait_seconds, done
        self._client: CommandClient
        self._in_flight, self._lanes = asyncio.Semaphore(IN_FLIGHT), asyncio.Semaphore(_LANES)
        self._effective: set[str] = set()
        self._left_minor: dict[str, int] = {}
        self.documents: dict[str, list[Document]] = {}
        self.sent: list[Sent] = []
        self.position: str | None = None

    async def run(self) -> None:
        """Sends everything that can be sent. Refusals and missing answers are in `sent`; raises nothing for them."""
        async with CommandClient.on(self._connection) as self._client, asyncio.TaskGroup() as group:
            for lane in self._plan.lanes:
                group.create_task(self._run_lane(lane))

    async def _run_lane(self, lane: Lane) -> None:
        async with self._lanes:
            for command in STAGES:
                # Bodies first and in order: what one payment settles, the next finds settled, however the answers come.
                orders = [(step, self._orders(step)) for step in lane.stage(command)]
                await asyncio.gather(*(self._run_step(lane, step, bodies) for step, bodies in orders))

    async def _run_step(self, lane: Lane, step: Step, orders: list[tuple[UUID, dict[str, Any]]] | str) -> None:
        if isinstance(orders, str):
            text = f"not sent: {orders} has no effect"
            self.sent.append(Sent(step, step.command, step.command_id, "not_sent", None, text))
        else:
            sent = [await self._send(step, step.command, command_id, body) for command_id, body in orders]
            if step.command == "account.open":
                sent = [await self._existing_account(lane, each) for each in sent]
            self.sent += sent
            if all(each.has_effect for each in sent):
                self._effective.add(step.key)
                self._remember_documents(step, sent)
        self._done(step)

    def _orders(self, step: Step) -> list[tuple[UUID, dict[str, Any]]] | str:
        """(command id, body) of each command of a step; or the key of the step it waits for in vain."""
        for needed in step.needs:
            if needed not in self._effective:
                return needed
        if step.command == "invoice.issue":
            return [
                (uuid.uuid5(step.command_id, document.party_id), {"invoice_id": document.invoice_id})
                for document in self.documents[step.needs[0]]
            ]
        if step.shares:
            return [(step.command_id, step.body | {"allocations": self._allocations(step)})]
        return [(step.command_id, step.body)]

    def _allocations(self, step: Step) -> list[dict[str, Any]]:
        """A payment's shares over the documents of their invoices, its own party's first."""
        items = []
        for share in step.shares:
            left = share.amount_minor
            own = step.body.get("party_id")
            for document in sorted(self.documents[share.invoice], key=lambda each: each.party_id != own):
                amount = min(left, self._left_minor[document.invoice_id])
                if amount > 0:
                    items.append({"invoice_id": document.invoice_id, "amount_minor": amount})
                    self._left_minor[document.invoice_id] -= amount
                    left -= amount
        return items

    def _remember_documents(self, step: Step, sent: Iterable[Sent]) -> None:
        if step.command != "invoice.create":
            return
        documents = [
            Document(each["invoice_id"], each["party_id"], each["total_minor"])
            for one in sent
            for each in (one.result or {}).get("documents", ())
        ]
        self.documents[step.key] = documents
        self._left_minor |= {document.invoice_id: document.total_minor for document in documents}

    # --- one command --------------------------------------------------------------------------------------------------

    async def _send(self, step: Step, command: str, command_id: UUID, body: dict[str, Any]) -> Sent:
        """Until it has an effect or a refusal that is news."""
        try:
            outcome = await self._answer(command, command_id, body)
            for _ in range(_CHAIN):
                if outcome.status != "duplicate" or outcome.error is None:
                    break
                command_id = uuid.uuid5(command_id, "again")
                outcome = await self._answer(command, command_id, body)
        except CliError as error:
            return Sent(step, command, command_id, "unanswered", None, str(error))
        self._note_position(outcome.position)
        if outcome.error is not None:
            return Sent(step, command, command_id, "rejected", outcome.error.code, outcome.error.message)
        return Sent(step, command, command_id, outcome.status, result=outcome.result)

    async def _answer(self, command: str, command_id: UUID, body: dict[str, Any]) -> Outcome:
        """The outcome; a retryable refusal is asked about a few times more. Raises CliError without an answer."""
        outcome = await self._publish(command, command_id, body)
        for delay in _RETRY_DELAYS_SECONDS:
            if outcome.error is None or not outcome.error.retryable:
                break
            await asyncio.sleep(delay)
            outcome = await self._publish(command, command_id, body)
        return outcome

    async def _publish(self, command: str, command_id: UUID, body: dict[str, Any]) -> Outcome:
        subject = command_subject(self._plan.tenant_id, command)
        async with self._in_flight:
            published = await self._client.send(
                subject, orjson.dumps(body), str(command_id), actor=_ACTOR, wait_seconds=self._wait_seconds
            )
        assert published.outcome is not None  # noqa: S101  asked for with wait_seconds
        return published.outcome

    def _note_position(self, position: str | None) -> None:
        if position is not None and _lsn(position) > _lsn(self.position or "0/0"):
            self.position = position

    async def _existing_account(self, lane: Lane, sent: Sent) -> Sent:
        """An account that was there keeps its shares; payers it does not know yet are added with a share of nothing."""
        if sent.status == "applied" or (sent.status == "rejected" and sent.code not in _THERE):
            return sent
        if sent.status in ("not_sent", "unanswered"):
            return sent
        try:
            account = await ask(
                self._connection,
                self._plan.tenant_id,
                "account.get",
                {"account_id": str(lane.account_id)},
                self.position,
            )
        except CliError as error:
            return sent._replace(status="unanswered", text=str(error))
        known = {party["party_id"] for party in account["parties"]}
        missing = [party for party in sent.step.body["parties"] if party["party_id"] not in known]
        if missing:
            payers = [party | {"share_basis_points": 0} for party in missing]
            parties = [*({k: v for k, v in party.items() if v is not None} for party in account["parties"]), *payers]
            command_id = uuid.uuid5(sent.step.command_id, json.dumps(parties, sort_keys=True))
            body = {"account_id": str(lane.account_id), "parties": parties}
            updated = await self._send(sent.step, "account.update", command_id, body)
            self.sent.append(updated)
            if not updated.has_effect:
                return sent
        return sent._replace(status="duplicate", code=None, text="the account was there")


def _lsn(position: str) -> tuple[int, int]:
    high, _, low = position.partition("/")
    return int(high, 16), int(low, 16)
