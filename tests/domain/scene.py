"""One hospital with a little of everything in it: what the conformance table's refusals are refused against."""

from typing import NamedTuple
from uuid import UUID

from domain.entities import Invoice
from tests.domain.bodies import BODIES
from tests.domain.hospital import (
    capture,
    charge_card,
    draft,
    invoiced,
    line,
    open_account,
    party,
    pay,
    settle,
    through_gateway,
)
from tests.domain.world import World, uid

STATEMENT = uid(0x57)


class Scene(NamedTuple):
    """Ids of things in a known state. `busy` is open and owes 100 on `issued`; period 2026-10 is closed."""

    world: World
    busy: UUID
    other: UUID
    owing: UUID
    closed: UUID
    in_afn: UUID
    charge: UUID
    void_charge: UUID
    charge_of_other: UUID
    draft: UUID
    issued: UUID
    part_paid: UUID
    settled: UUID
    written_off: UUID
    void: UUID
    issued_of_other: UUID
    invoice_of_closed: UUID
    in_october: UUID
    group: UUID
    credit: UUID
    allocated: UUID
    reversed: UUID
    refunded: UUID
    refund: UUID
    payment_of_closed: UUID
    note: UUID
    run: UUID
    unsplit: UUID
    cancelled: UUID
    statement: UUID
    exported: UUID
    holding: UUID
    pending: UUID
    held: UUID
    capturing: UUID
    refund_at_gateway: UUID
    captured: UUID
    refunding: UUID
    undone: UUID


def build_scene() -> Scene:
    world = World()
    busy = open_account(world, [party("me", 6_000), party("wife", 4_000, "relative")], account_id=UUID(int=1 << 64))
    other, closed = open_account(world), open_account(world)
    in_afn = open_account(world, currency="AFN")
    charge, void_charge = capture(world, busy, 100), capture(world, busy, 100)
    world.do("charge.void", {"charge_id": void_charge, "reason": "wrong"})
    charge_of_other = capture(world, other, 100)
    in_october = draft(world, other, [line(100)])[0]
    drafted = draft(world, other, [line(100)])[0]
    void = draft(world, other, [line(100)])[0]
    world.do("invoice.void", {"invoice_id": void, "reason": "wrong"})
    issued, _ = _issued_pair(world, busy)
    part_paid, _ = _issued_pair(world, busy)
    allocated = pay(world, busy, 40, (part_paid, 30))
    settled, _ = _issued_pair(world, busy)
    pay(world, busy, 60, (settled, 60))
    issued_of_other = invoiced(world, other, 100)
    owing = open_account(world)
    invoiced(world, owing, 100)
    written_off = invoiced(world, other, 100)
    world.do("invoice.write_off", {"invoice_id": written_off, "reason": "poor"})
    invoice_of_closed = invoiced(world, closed, 100)
    payment_of_closed = pay(world, closed, 100, (invoice_of_closed, 100))
    world.do("account.close", {"account_id": closed})
    credit = pay(world, busy, 50)
    bounced = pay(world, busy, 50, method="cheque")
    world.do("payment.reverse", {"payment_id": bounced, "reason": "bounced"})
    refunded = pay(world, busy, 50)
    refund = world.do("payment.refund", {"payment_id": refunded, "amount_minor": 20, "reason": "asked"})["refund_id"]
    noted = invoiced(world, other, 100)
    note = world.do("credit_note.issue", {"invoice_id": noted, "reason": "wrong"})["credit_note_id"]
    world.do("pricelist.publish", _PRICES)
    world.do("ledger.define_account", {"code": "4600", "name": "Revenue: dental", "kind": "revenue"})
    world.do("period.close", {"period": "2026-10"})
    # No command leads to a draft in a closed month; a change of the tenant's fiscal calendar could.
    world.tables[Invoice][in_october] = world.one(Invoice, in_october)._replace(period="2026-10")
    world.do("period.open", {"period": "2026-12"})
    run, unsplit, cancelled = (UUID(world.do("statement.run", {"period": "2026-10"})["job_id"]) for _ in range(3))
    world.do("job.cancel", {"job_id": cancelled, "reason": "asked"})
    world.do("job.report", {"job_id": run, "status": "running", "total": 3})
    statement = world.do(
        "statement.record", BODIES["statement.record"] | {"job_id": run, "statement_id": STATEMENT, "account_id": busy}
    )["statement_id"]
    holding = open_account(world)
    pending, held = charge_card(world, holding, 100), charge_card(world, busy, 100)
    capturing = charge_card(world, busy, 100)
    for one in (held, capturing):
        settle(world, one, "authorised", 100)
    world.do("payment.capture", {"payment_id": capturing})
    captured, refunding, undone = (through_gateway(world, other, 100) for _ in range(3))
    asked = world.do("payment.refund", {"payment_id": refunding, "amount_minor": 10, "reason": "asked"})
    world.do("payment.reverse", {"payment_id": undone, "reason": "wrong card"})
    world.do("payment.settle_payout", BODIES["payment.settle_payout"] | {"payout_id": "po_0"})
    world.do("payment.report_circuit", {"adapter": "stripe", "state": "open", "open_until": "2030-01-01T00:00:00Z"})
    for month in ("2025-01", "2025-02", "2025-03", "2025-04"):
        world.do("period.close", {"period": month})
    world.do("gl.map", BODIES["gl.map"])
    world.do("gl.export", {"first_sequence": 1, "last_sequence": 2})
    exported = world.do("gl.export", {"period": "2026-10"})["job_id"]
    world.do("gl.record", BODIES["gl.record"] | {"job_id": exported})
    return Scene(
        world=world,
        busy=busy,
        other=other,
        owing=owing,
        closed=closed,
        in_afn=in_afn,
        charge=charge,
        void_charge=void_charge,
        charge_of_other=charge_of_other,
        draft=drafted,
        issued=issued,
        part_paid=part_paid,
        settled=settled,
        written_off=written_off,
        void=void,
        issued_of_other=issued_of_other,
        invoice_of_closed=invoice_of_closed,
        in_october=in_october,
        group=world.one(Invoice, drafted).invoice_group_id,
        credit=credit,
        allocated=allocated,
        reversed=bounced,
        refunded=refunded,
        refund=UUID(refund),
        payment_of_closed=payment_of_closed,
        note=UUID(note),
        run=run,
        unsplit=unsplit,
        cancelled=cancelled,
        statement=UUID(statement),
        exported=UUID(exported),
        holding=holding,
        pending=pending,
        held=held,
        capturing=capturing,
        refund_at_gateway=UUID(asked["refund_id"]),
        captured=captured,
        refunding=refunding,
        undone=undone,
    )


_PRICES = {
    "price_list": "main",
    "currency": "AED",
    "effective_from": "2026-06-01",
    "prices": [{"code": "A00", "unit_price_minor": 100}],
}


def _issued_pair(world: World, account_id: UUID) -> list[UUID]:
    """Two issued documents of one group, of 60 and 40 minor units."""
    documents = draft(world, account_id, [line(100)])
    for invoice_id in documents:
        world.do("invoice.issue", {"invoice_id": invoice_id})
    return documents
