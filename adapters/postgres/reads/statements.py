"""Queries about statements."""

from typing import Any

from sqlalchemy import Row, bindparam, select

from adapters.postgres.reads.asking import Asking, owned
from adapters.postgres.reads.paging import Keyset, page
from adapters.postgres.tables import statement as statement_table
from domain.job_entities import Statement
from schemas.codes import Code
from schemas.outcome import Problem, problem
from schemas.statement import GetStatement, ListStatements, StatementPage, StatementSummary, StatementView

_STATEMENTS = select(statement_table).where(owned(statement_table))
_STATEMENT = _STATEMENTS.where(statement_table.c.id == bindparam("statement_id"))
_NEWEST_FIRST = Keyset.by_time(statement_table.c.recorded_at, statement_table.c.id)


async def get(asking: Asking, query: GetStatement) -> StatementView | Problem:
    """With links to both files where the asking process has an object store and the statement was issued."""
    parameters = {**asking.parameters, "statement_id": query.statement_id}
    row = (await asking.connection.execute(_STATEMENT, parameters)).one_or_none()
    if row is None:
        return problem(Code.STATEMENT_NOT_FOUND)
    return StatementView(
        **_summary(row), json_url=await _link(asking, row.json_key), pdf_url=await _link(asking, row.pdf_key)
    )


async def listed(asking: Asking, query: ListStatements) -> StatementPage | Problem:
    statement, parameters = _STATEMENTS, dict[str, Any](asking.parameters)
    if query.account_id is not None:
        statement = statement.where(statement_table.c.account_id == bindparam("account_id"))
        parameters["account_id"] = query.account_id
    if query.job_id is not None:
        statement = statement.where(statement_table.c.job_id == bindparam("job_id"))
        parameters["job_id"] = query.job_id
    found = await page(asking.connection, statement, _NEWEST_FIRST, query, **parameters)
    if isinstance(found, Problem):
        return found
    items = tuple(StatementSummary(**_summary(row)) for row in found.rows)
    return StatementPage(items=items, next_cursor=found.next_cursor)


async def _link(asking: Asking, key: str | None) -> str | None:
    return await asking.presign(key) if asking.presign is not None and key is not None else None


def _summary(row: Row[Any]) -> dict[str, Any]:
    found = Statement._make(row[1:])
    return {
        "statement_id": found.id,
        "job_id": found.job_id,
        "account_id": found.account_id,
        "party_id": found.party_id,
        "period": found.period,
        "status": found.status,
        "locale": found.locale,
        "currency": found.currency,
        "opening_minor": found.opening_minor,
        "closing_minor": found.closing_minor,
        "due_minor": found.due_minor,
        "json_sha256": found.json_sha256,
        "pdf_sha256": found.pdf_sha256,
        "error_code": found.error_code,
        "recorded_at": found.recorded_at,
    }
