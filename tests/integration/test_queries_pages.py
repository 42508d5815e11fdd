"""Pages of every list: complete, without repeats, stable while rows are added; and cursors that are not ours."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date, timedelta
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event

from adapters.postgres.database import Database
from adapters.postgres.reads import READS, Asking
from handlers.queries import Queries
from schemas.registry import QUERIES
from tests.fixtures.servers import Database as ModuleDatabase
from tests.integration.query_hospital import Hospital, ask, cash, charge, profile

ROWS = 23
KEYS = {
    "account.list": "account_id",
    "account.activity": "sequence",
    "charge.list": "charge_id",
    "invoice.list": "invoice_id",
    "payment.list": "payment_id",
    "payment.holds": "payment_id",
    "ledger.transfers": "sequence",
}
Add = Callable[[int], Awaitable[None]]


class Lists:
    """One account with `ROWS` of everything, all recorded at the same instant: only the second key tells them apart."""

    def __init__(self, app: Database, read: Database, tenant_id: str) -> None:
        self.hospital = Hospital(app, tenant_id, step=timedelta(0))
        self.read = read
        self.queries = Queries(read, None, profile)
        self.account_id = ""

    async def open(self) -> None:
        (opened,) = await self.hospital.apply(("account.open", {"patient": "Patient/1", "currency": "AED"}))
        self.account_id = opened["account_id"]
        await self.add(ROWS - 1)

    async def add(self, count: int) -> None:
        amount = {"amount_minor": 900, "currency": "AED"}
        line = {"description": "Deposit", "quantity": "1", "unit_price_minor": 8_000}
        for command in (
            ("account.open", {"patient": "Patient/1", "currency": "AED"}),
            charge(self.account_id, 100),  # type: ignore[arg-type]
            ("invoice.create", {"account_id": self.account_id, "lines": [line]}),
            cash(self.account_id, 100),  # type: ignore[arg-type]
            ("payment.charge", {"account_id": self.account_id, "amount": amount, "source": "tok_ok"}),
        ):
            await self.hospital.apply(*[command] * count)

    async def page(self, name: str, cursor: str | None, limit: int) -> tuple[list[Any], str | None]:
        fields: dict[str, Any] = {"limit": limit, "cursor": cursor}
        if "account_id" in QUERIES[name].request.model_fields:
            fields["account_id"] = self.account_id
        answer = await ask(self.queries, self.hospital.tenant_id, name, **fields)
        assert answer["error"] is None
        return [item[KEYS[name]] for item in answer["result"]["items"]], answer["result"]["next_cursor"]

    async def pages(self, name: str, limit: int, between: Add | None = None) -> list[list[Any]]:
        pages: list[list[Any]] = []
        cursor = None
        while len(pages) < 4 * ROWS:
            items, cursor = await self.page(name, cursor, limit)
            pages.append(items)
            if cursor is None:
                return pages
            if between is not None:
                await between(1)
        raise AssertionError("there are more pages than rows")


@pytest_asyncio.fixture
async def lists(database: ModuleDatabase, tenant: str) -> AsyncIterator[Lists]:
    app = Database(database.dsn("billing_app"), application_name="test", pool_size=2)
    read = Database(database.dsn("billing_read"), application_name="test", pool_size=4)
    lists = Lists(app, read, tenant)
    await lists.open()
    yield lists
    await read.close()
    await app.close()


OF_JOBS = {"job.list", "statement.list", "gl.list"}  # paged in test_queries_jobs.py, beside what they list


def test_every_list_is_tested() -> None:
    assert {name for name, spec in QUERIES.items() if "cursor" in spec.request.model_fields} == KEYS.keys() | OF_JOBS


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("limit", [1, 7, 11, 22, 23, 200])
async def test_pages_are_complete_without_repeats(lists: Lists, name: str, limit: int) -> None:
    whole, cursor = await lists.page(name, None, 200)
    assert cursor is None
    assert len(set(whole)) == len(whole) >= ROWS - 1
    pages = await lists.pages(name, limit)
    assert [key for page in pages for key in page] == whole
    assert all(len(page) == limit for page in pages[:-1])
    assert pages[-1]


@pytest.mark.parametrize("name", KEYS)
async def test_pages_are_stable_while_rows_are_added(lists: Lists, name: str) -> None:
    before, _ = await lists.page(name, None, 200)
    paged = [key for page in await lists.pages(name, 4, between=lists.add) for key in page]
    assert len(set(paged)) == len(paged)
    # Those that were there at the start are all there, in their order; added ones may be.
    assert [key for key in paged if key in set(before)] == before


def cursor_of(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


UUID_TEXT = "019cad8f-afe8-8357-b03b-cd51c2b10fad"
FOREIGN: dict[str, str] = {
    "empty": "",
    "not base64": "!!!!",
    "a letter": "x",
    "not JSON": base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    "deep": cursor_of([[[[[]]]]]),
    "an object": cursor_of({"a": 1}),
    "numbers": cursor_of([1, 2]),
    "nulls": cursor_of([None, None]),
    "too few": cursor_of(["2026-03-02T08:00:00+00:00"]),
    "too many": cursor_of(["2026-03-02T08:00:00+00:00", UUID_TEXT, "x"]),
    "not a time": cursor_of(["yesterday", UUID_TEXT]),
    "a time without offset": cursor_of(["2026-03-02T08:00:00", UUID_TEXT]),
    "a time before the calendar": cursor_of(["0001-01-01T00:00:00+14:00", UUID_TEXT]),
    "not a UUID": cursor_of(["2026-03-02T08:00:00+00:00", "1; DROP TABLE account"]),
    "of another list": cursor_of(["17"]),
}


@pytest.mark.parametrize("case", FOREIGN)
async def test_a_foreign_cursor_is_refused(lists: Lists, case: str) -> None:
    answer = await ask(lists.queries, lists.hospital.tenant_id, "account.list", cursor=FOREIGN[case])
    assert answer["error"]["code"] == "malformed_command"
    assert answer["error"]["details"] == {"fields": ["cursor"]}


@pytest.mark.parametrize("sequence", ["-1", "1.5", "٣", "9223372036854775808", "1e3", ""])
async def test_a_foreign_sequence_is_refused(lists: Lists, sequence: str) -> None:
    answer = await ask(lists.queries, lists.hospital.tenant_id, "ledger.transfers", cursor=cursor_of([sequence]))
    assert answer["error"]["code"] == "malformed_command"


@pytest.mark.parametrize("limit", [0, -1, 201, "50", 1.5, True])
async def test_limits_are_bounded(lists: Lists, limit: Any) -> None:
    answer = await ask(lists.queries, lists.hospital.tenant_id, "invoice.list", limit=limit)
    assert answer["error"]["details"] == {"fields": ["limit"]}


@pytest.mark.parametrize("name", sorted(KEYS.keys() - {"account.activity"}))
async def test_a_page_reads_an_index_in_order(lists: Lists, name: str) -> None:
    """A page of a large list must not read and sort the list."""
    fields: dict[str, Any] = {"limit": 5, "cursor": (await lists.page(name, None, 5))[1]}
    if name not in ("account.list", "ledger.transfers"):
        fields["account_id"] = lists.account_id
    query = QUERIES[name].request.model_validate_json(json.dumps(fields))
    seen: list[tuple[str, Any]] = []
    async with lists.read.reading(lists.hospital.tenant_id) as connection:
        # A table of a few rows is cheapest to scan; what matters is what the planner can do with a large one.
        for method in ("seqscan", "bitmapscan", "sort"):
            await connection.exec_driver_sql(f"SET LOCAL enable_{method} = off")
        event.listen(connection.sync_connection, "before_cursor_execute", lambda *args: seen.append((args[2], args[3])))
        await READS[name](Asking(connection, lists.hospital.tenant_id, date.today()), query)  # noqa: DTZ011
        statement, parameters = next(call for call in seen if "LIMIT" in call[0])
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars())
    assert "Index Scan Backward using" in plan
    # An incremental sort orders the few rows of one instant among themselves; a sort would read the whole list.
    assert "->  Sort " not in plan
    # The cursor is where the scan starts, not a filter over what it reads.
    condition = next(line for line in plan.splitlines() if "Index Cond" in line)
    assert "tenant_id = " in condition
    assert "<" in condition
