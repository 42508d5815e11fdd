"""The promises of the demo, each looked up where the truth is: PostgreSQL, the streams, and what a stranger is told."""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
import nats
from nats.aio.client import Client

from adapters.nats.topology import DLQ_STREAM, EVENTS_STREAM
from adapters.postgres.database import Database
from adapters.postgres.reads import READS, Asking
from adapters.postgres.verify import verify_tenant
from handlers.event_check import check_events
from schemas import headers
from schemas.ledger import TrialBalance, TrialBalanceView
from schemas.subjects import EVENT_PREFIX, command_subject
from tools.demo.hospital import Hospital
from tools.stack.mesh import Mesh

REFUSAL_SECONDS = 10.0  # the server's error travels behind the publish; loaded machines take a moment


class Check(NamedTuple):
    promise: str
    holds: bool
    evidence: str


class Books(NamedTuple):
    """What a tenant's day left behind."""

    tenant_id: str
    trial_balance: TrialBalanceView
    transfers: int
    events: dict[str, int]
    mismatches: tuple[str, ...]
    payments: int


async def books(mesh: Mesh, hospital: Hospital, database: Database, operator: Client) -> Books:
    """Reads a tenant's trial balance and verifies its ledger and its event stream."""
    from datetime import UTC, datetime

    async with database.reading(hospital.tenant_id) as connection:
        asking = Asking(connection, hospital.tenant_id, datetime.now(UTC).date())
        balance: Any = await READS["ledger.trial_balance"](asking, TrialBalance())
        verification = await verify_tenant(connection, hospital.tenant_id)
        payments = (await connection.exec_driver_sql("SELECT count(*) FROM payment")).scalar_one()
    stream = await check_events(operator, database, hospital.tenant_id, scan=True)
    wrong = tuple(f"{mismatch.check}: {mismatch.subject}" for mismatch in (*verification.mismatches, *stream))
    info = await operator.jetstream().stream_info(
        EVENTS_STREAM, subjects_filter=f"{EVENT_PREFIX}.{hospital.tenant_id}.>"
    )
    prefix = f"{EVENT_PREFIX}.{hospital.tenant_id}."
    events = {subject.removeprefix(prefix): count for subject, count in sorted((info.state.subjects or {}).items())}
    return Books(hospital.tenant_id, balance, verification.transfers, events, wrong, payments)


async def checks(
    mesh: Mesh, hospitals: Sequence[Hospital], all_books: Sequence[Books], operator: Client, malformed: int
) -> list[Check]:
    entries = [entry for hospital in hospitals for entry in hospital.diary]
    surprises = [entry for entry in entries if not entry.as_expected]
    unbalanced = [book.tenant_id for book in all_books if not _balances(book.trial_balance)]
    wrong = [f"{book.tenant_id} {text}" for book in all_books for text in book.mismatches]
    recorded = [entry for entry in entries if entry.command == "payment.record" and entry.outcome == "applied"]
    stored = sum(book.payments for book in all_books)
    dead = (await operator.jetstream().stream_info(DLQ_STREAM)).state.messages
    return [
        Check(
            "every command ends in the answer the story expects",
            not surprises,
            f"{len(entries)} commands"
            if not surprises
            else "; ".join(f"{entry.command}: {entry.outcome}, not {entry.expected}" for entry in surprises[:3]),
        ),
        Check("debits equal credits in every currency", not unbalanced, ", ".join(unbalanced) or "all tenants"),
        Check(
            "ledger, hash chain, sub-ledgers, allocations, numbers and events verify",
            not wrong,
            "; ".join(wrong[:3]) or f"{sum(book.transfers for book in all_books)} ledger entries",
        ),
        Check("a payment sent twice is recorded once", stored == len(recorded), f"{stored} payments"),
        Check("malformed commands are kept with their bodies", dead == malformed, f"{dead} dead letters"),
        await _other_tenant_over_http(mesh, hospitals),
        await _other_tenant_over_nats(mesh, hospitals),
    ]


def _balances(view: TrialBalanceView) -> bool:
    totals: dict[str, int] = {}
    for line in view.lines:
        totals[line.currency] = totals.get(line.currency, 0) + line.debits_minor - line.credits_minor
    return not any(totals.values())


async def _other_tenant_over_http(mesh: Mesh, hospitals: Sequence[Hospital]) -> Check:
    """A valid token of one hospital asks for an account of another."""
    stranger, other = hospitals[0], hospitals[1]
    account_id = other.id("omar-2001")
    response = await stranger.http.client.get(f"/v1/accounts/{account_id}")
    async with httpx.AsyncClient(base_url=mesh.http_url) as nobody:
        unsigned = await nobody.get(f"/v1/accounts/{account_id}")
    holds = response.status_code == httpx.codes.NOT_FOUND and unsigned.status_code == httpx.codes.UNAUTHORIZED
    evidence = f"{response.status_code} with another tenant's token, {unsigned.status_code} without one"
    return Check("no tenant reads another's accounts", holds, evidence)


async def _other_tenant_over_nats(mesh: Mesh, hospitals: Sequence[Hospital]) -> Check:
    """One hospital's NATS user publishes on another's subject: the server refuses, and no PubAck comes."""
    refusal: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def refused(error: Exception) -> None:
        if not refusal.done():
            refusal.set_result(str(error))

    connection = await nats.connect(mesh.tenant_nats_url(hospitals[0].tenant_id), error_cb=refused)
    try:
        await connection.publish(
            command_subject(hospitals[1].tenant_id, "payment.record"), b"{}", headers={headers.MESSAGE_ID: "x"}
        )
        async with asyncio.timeout(REFUSAL_SECONDS):
            text = await refusal
    except TimeoutError:
        text = "not refused"
    finally:
        await connection.close()
    holds = "permissions violation" in text.lower()
    return Check("no tenant sends commands for another", holds, "permissions violation" if holds else text)
