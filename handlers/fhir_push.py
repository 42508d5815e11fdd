"""One event's documents onto the FHIR gateway: what they are now in the books, each only over an older state of itself.

An event says which documents changed, not what they are: their state is read when the event is handled. So events may come in
any order, twice, or not at all for a while; whichever is handled last pushes the state that is true. Each resource carries
the tenant's event sequence that its state shows, and is written only where the gateway's is lower, by a conditional PUT.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

from adapters.fhir import resources
from adapters.fhir.ids import resource_id
from adapters.neighbours.client import Unavailable
from adapters.neighbours.fhir_gateway import Conflict, FhirGateway, Refused
from adapters.postgres.database import Database
from adapters.postgres.fhir_rows import Reading
from handlers import fhir_metrics as metrics

# Another worker wrote the same resource in between: it is done or will be soon.
CONFLICTS_MAX = 5
# Resources whose sequence on the gateway is known here, about 200 bytes each.
REMEMBERED = 50_000
# Facts of an invoice that change what its charges are: billable or billed.
_CHANGING_CHARGES = frozenset({"invoice.created", "invoice.voided"})


Json = dict[str, Any]


class Behind(Exception):
    """The database that was read does not show the event yet: a replica that lags. Try again soon."""


class Changed(NamedTuple):
    """What an event is about. `name` is the event's, `key` the document's id, `sequence` the tenant's event sequence."""

    tenant_id: str
    name: str
    key: UUID
    sequence: int


class Pusher:
    """Raises, from `push`: Behind, Unavailable, Refused, resources.NotFhir, and what PostgreSQL raises."""

    def __init__(self, database: Database, gateway: FhirGateway) -> None:
        self._database, self._gateway = database, gateway
        self._known: OrderedDict[tuple[str, str], int] = OrderedDict()

    def covers(self, changed: Changed) -> bool:
        """Whether a state as late as the event was pushed by this process already."""
        kind = _KINDS.get(changed.name.partition(".")[0])
        if kind is None or changed.name in _CHANGING_CHARGES:
            return False
        found = resource_id(changed.tenant_id, kind, changed.key)
        return self._known.get((kind, found), 0) >= changed.sequence

    async def push(self, changed: Changed) -> None:
        """Returns once the gateway has each document's state as of this event, or a later one."""
        for resource in await self._resources(changed):
            await self._put(changed, resource)

    async def _resources(self, changed: Changed) -> list[Json]:
        """In an order in which each refers to what is there: a gateway may insist on that."""
        async with self._database.reading(changed.tenant_id) as connection:
            reading = Reading(connection, changed.tenant_id)
            sequence = await reading.sequence()
            if sequence < changed.sequence:
                raise Behind
            found = [each async for each in _of(reading, changed, sequence)]
        # What an event's own document refers to is pushed along only where this process has not seen it there.
        return [each for each in found[:-1] if self._missing(each, changed)] + found[-1:]

    def _missing(self, resource: Json, changed: Changed) -> bool:
        known = self._known.get((resource["resourceType"], resource["id"]), 0)
        if changed.name in _CHANGING_CHARGES and resource["resourceType"] == "ChargeItem":
            return known < changed.sequence
        return not known

    async def _put(self, changed: Changed, resource: Json) -> None:
        kind = resource["resourceType"]
        try:
            outcome = await self._over_older(changed, resource)
        except (Unavailable, Refused):
            metrics.PUSHES.labels(kind, "failed").inc()
            raise
        metrics.PUSHES.labels(kind, outcome).inc()

    async def _over_older(self, changed: Changed, resource: Json) -> str:
        kind, key = resource["resourceType"], resource["id"]
        # A document's first event is most often its resource's first push: one request instead of two.
        kept_first = changed.name in _FIRST and kind == _KINDS[changed.name.partition(".")[0]]
        for _ in range(CONFLICTS_MAX):
            over = None
            if not kept_first:
                kept = await self._gateway.get(kind, key)
                if kept is not None and resources.sequence_of(kept.resource) >= resources.sequence_of(resource):
                    self._remember(kept.resource)
                    return "current"
                over = kept.version if kept is not None else None
            kept_first = False
            try:
                await self._gateway.put(resource, over)
            except Conflict:
                resource = await self._again(changed, resource)
                continue
            self._remember(resource)
            return "created" if over is None else "updated"
        raise Unavailable("conflict", "somebody else writes the same resource again and again")

    async def _again(self, changed: Changed, resource: Json) -> Json:
        """The same document as it is now."""
        async with self._database.reading(changed.tenant_id) as connection:
            reading = Reading(connection, changed.tenant_id)
            sequence = await reading.sequence()
            if sequence < changed.sequence:
                raise Behind
            now = {each["id"]: each async for each in _of(reading, changed, sequence)}
        return now.get(resource["id"], resource)

    def _remember(self, resource: Json) -> None:
        key = (resource["resourceType"], resource["id"])
        self._known[key] = max(self._known.get(key, 0), resources.sequence_of(resource))
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


_KINDS = {"account": "Account", "charge": "ChargeItem", "invoice": "Invoice", "payment": "PaymentNotice"}
_FIRST = frozenset({"account.opened", "charge.captured", "invoice.created", "payment.recorded"})


async def _of(reading: Reading, changed: Changed, sequence: int) -> AsyncIterator[Json]:
    """The resources of an event, the document's own last; nothing for one that is not there."""
    tenant_id, aggregate = changed.tenant_id, changed.name.partition(".")[0]
    if aggregate == "account":
        if (account := await reading.account(changed.key)) is not None:
            yield resources.account(tenant_id, sequence, account)
    elif aggregate == "charge":
        if (charge := await reading.charge(changed.key)) is not None and (
            of := await reading.account(charge.account_id)
        ):
            yield resources.account(tenant_id, sequence, of)
            yield resources.charge_item(tenant_id, sequence, charge, of)
    elif aggregate == "payment":
        async for each in _payment(reading, changed, sequence):
            yield each
    else:
        async for each in _invoice(reading, tenant_id, sequence, changed.key):
            yield each


async def _invoice(reading: Reading, tenant_id: str, sequence: int, key: UUID) -> AsyncIterator[Json]:
    found = await reading.invoice(key)
    of = await reading.account(found.invoice.account_id) if found else None
    if found is None or of is None:
        return
    yield resources.account(tenant_id, sequence, of)
    for charge in found.charges:
        yield resources.charge_item(tenant_id, sequence, charge, of)
    yield resources.invoice(tenant_id, sequence, found.invoice, found.lines, of)


async def _payment(reading: Reading, changed: Changed, sequence: int) -> AsyncIterator[Json]:
    found = await reading.payment(changed.key)
    of = await reading.account(found.payment.account_id) if found else None
    if found is None or of is None:
        return
    yield resources.account(changed.tenant_id, sequence, of)
    if len(found.invoices) == 1:
        async for each in _invoice(reading, changed.tenant_id, sequence, found.invoices[0]):
            if each["resourceType"] != "Account":
                yield each
    yield resources.payment_notice(changed.tenant_id, sequence, found.payment, found.invoices)
