"""Every query of schemas.registry.QUERIES as a function: an answer, or the refusal that is its answer.

Each takes an `Asking` (a read-only transaction of one tenant) and the query's validated model.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from adapters.postgres.reads import (
    accounts,
    charges,
    commands,
    gl,
    holds,
    invoices,
    jobs,
    ledger,
    payments,
    reports,
    statements,
)
from adapters.postgres.reads.asking import Asking, Presign
from adapters.postgres.verify import verify_tenant
from schemas.base import WireModel
from schemas.ledger import LedgerVerification, VerifyLedger
from schemas.outcome import Problem

# The query's model differs per name, which a mapping cannot say: the registry's spec validates it.
Read = Callable[[Asking, Any], Awaitable[WireModel | Problem]]


async def _verify(asking: Asking, _query: VerifyLedger) -> LedgerVerification:
    return await verify_tenant(asking.connection, asking.tenant_id)


READS: dict[str, Read] = {
    "account.get": accounts.get,
    "account.list": accounts.listed,
    "account.balance": accounts.balance,
    "account.activity": accounts.activity,
    "charge.get": charges.get,
    "charge.list": charges.listed,
    "invoice.get": invoices.get,
    "invoice.list": invoices.listed,
    "payment.get": payments.get,
    "payment.list": payments.listed,
    "payment.holds": holds.listed,
    "ledger.trial_balance": ledger.trial_balance,
    "ledger.transfers": ledger.transfers,
    "ledger.verify": _verify,
    "report.aging": reports.aging,
    "report.revenue": reports.revenue,
    "command.get": commands.get,
    "job.get": jobs.get,
    "job.list": jobs.listed,
    "statement.get": statements.get,
    "statement.list": statements.listed,
    "gl.get": gl.get,
    "gl.list": gl.listed,
}

__all__ = ["READS", "Asking", "Presign", "Read"]
