"""Queries of the mesh, and what its ledger says about an import's bills and payments."""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from schemas.base import MAX_PAGE
from schemas.outcome import Answer
from schemas.subjects import query_subject
from tools.cli.errors import UNAVAILABLE, CliError
from tools.fhir_import.plan import Lane

_TIMEOUT_SECONDS = 30.0
_AT_A_TIME = 8
_IN_THE_LEDGER = ("issued", "settled")


class LedgerSays(NamedTuple):
    """Of the import's own documents and payments, in minor units; `receivable_minor` is the account's, whatever it is from."""

    billed_minor: int
    paid_minor: int
    receivable_minor: int
    unapplied_credit_minor: int


async def ask(
    connection: Client, tenant_id: str, name: str, body: dict[str, Any], at_least: str | None
) -> dict[str, Any]:
    """A query's result. Raises CliError where nobody answers or the answer is a refusal."""
    subject = query_subject(tenant_id, name)
    request = orjson.dumps(body | ({"at_least": at_least} if at_least else {}))
    try:
        reply = await connection.request(subject, request, timeout=_TIMEOUT_SECONDS)
    except NoRespondersError:
        raise CliError(f"{subject}: nobody answers; `billing handlers` serves the queries", UNAVAILABLE) from None
    except (NatsError, TimeoutError):
        raise CliError(f"{subject}: no answer within {_TIMEOUT_SECONDS:g} s", UNAVAILABLE) from None
    answer = Answer.model_validate_json(reply.data)
    if answer.error is not None:
        raise CliError(f"{subject}: {answer.error.code}: {answer.error.message}")
    return answer.result or {}


async def ledger_says(
    connection: Client, tenant_id: str, lanes: Iterable[Lane], invoice_ids: set[str], at_least: str | None
) -> dict[str, LedgerSays | CliError]:
    """By account id. Asks for the accounts of `lanes`; one that cannot be asked about does not hide the others."""
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def one(lane: Lane) -> LedgerSays | CliError:
        async with turns:
            try:
                return await _of_account(connection, tenant_id, lane, invoice_ids, at_least)
            except CliError as error:
                return error

    asked = list(lanes)
    answers = await asyncio.gather(*(one(lane) for lane in asked))
    return {str(lane.account_id): answer for lane, answer in zip(asked, answers, strict=True)}


async def _of_account(
    connection: Client, tenant_id: str, lane: Lane, invoice_ids: set[str], at_least: str | None
) -> LedgerSays:
    account = {"account_id": str(lane.account_id)}
    balance = await ask(connection, tenant_id, "account.balance", account, at_least)
    invoices = await _all(connection, tenant_id, "invoice.list", account, at_least)
    payments = await _all(connection, tenant_id, "payment.list", account, at_least)
    payment_ids = {step.body["payment_id"] for step in lane.stage("payment.record")}
    billed = (row for row in invoices if row["invoice_id"] in invoice_ids and row["status"] in _IN_THE_LEDGER)
    paid = (row for row in payments if row["payment_id"] in payment_ids and row["status"] == "recorded")
    return LedgerSays(
        sum(row["total_minor"] for row in billed),
        sum(row["amount_minor"] for row in paid),
        balance["receivable_minor"],
        balance["unapplied_credit_minor"],
    )


async def _all(
    connection: Client, tenant_id: str, name: str, body: dict[str, Any], at_least: str | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = body | {"limit": MAX_PAGE} | ({"cursor": cursor} if cursor else {})
        answer = await ask(connection, tenant_id, name, page, at_least)
        rows += answer["items"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return rows
