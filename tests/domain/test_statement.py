"""A statement adds up: opening + activity = closing = open invoices − unapplied credit, and aging sums to what is open."""

import json
from dataclasses import replace
from datetime import date, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.statement import (
    Addressee,
    AgingBuckets,
    Due,
    Issuer,
    OpenInvoice,
    PartyPosting,
    StatementMismatch,
    Subject,
    aging,
    build,
    calendar,
    due,
    issuer,
)
from schemas.base import MAX_AMOUNT_MINOR
from schemas.tenant import TenantProfile

STARTS_ON, ENDS_ON = date(2026, 11, 1), date(2026, 11, 30)
DOCUMENT = UUID(int=7)
SUBJECT = Subject(
    reference="ST-1",
    issuer=Issuer(name="Kabul Central"),
    account_id=UUID(int=1),
    patient="Patient/1",
    addressee=Addressee(party_id="patient", kind="patient"),
    currency="AFN",
    starts_on=STARTS_ON,
    ends_on=ENDS_ON,
)
AMOUNTS = st.integers(1, MAX_AMOUNT_MINOR)
DAYS = st.integers(0, 29).map(lambda days: STARTS_ON + timedelta(days=days))


def posting(sequence: int, day: date = STARTS_ON, *, debit: int = 0, credit: int = 0, **other: object) -> PartyPosting:
    plain = PartyPosting(sequence, day, "payment", DOCUMENT, "P-1", None, debit, credit)
    return plain._replace(**other)  # type: ignore[arg-type]


def invoice(
    open_minor: int, days_past_due: int = 0, number: str = "INV-1", total_minor: int | None = None
) -> OpenInvoice:
    due_on = ENDS_ON - timedelta(days=days_past_due)
    return OpenInvoice(number, due_on - timedelta(days=30), due_on, total_minor or open_minor, open_minor)


POSTINGS = st.lists(
    st.builds(
        lambda day, kind, document, amount, is_debit: (day, kind, document, amount, is_debit),
        DAYS,
        st.sampled_from(["invoice", "payment", "refund"]),
        st.integers(1, 4).map(lambda number: UUID(int=number)),
        AMOUNTS,
        st.booleans(),
    ),
    max_size=40,
).map(
    lambda rows: [
        PartyPosting(sequence, day, kind, document, None, None, amount if is_debit else 0, 0 if is_debit else amount)
        for sequence, (day, kind, document, amount, is_debit) in enumerate(rows, 1)
    ]
)
INVOICES = st.lists(st.builds(invoice, AMOUNTS, st.integers(-400, 400)), max_size=20)


@given(postings=POSTINGS, invoices=INVOICES, credit=st.integers(0, 5 * MAX_AMOUNT_MINOR))
def test_a_statement_adds_up_whatever_happened(
    postings: list[PartyPosting], invoices: list[OpenInvoice], credit: int
) -> None:
    closing = sum(each.open_minor for each in invoices) - credit
    opening = closing - sum(each.debit_minor - each.credit_minor for each in postings)
    content = build(
        SUBJECT,
        opening_minor=opening,
        postings=reversed(postings),
        open_invoices=invoices,
        unapplied_credit_minor=credit,
    )
    assert content.closing_minor == closing
    assert content.opening_minor + content.debits_minor - content.credits_minor == closing
    balance = opening
    for row in content.activity:
        balance += row.debit_minor - row.credit_minor
        assert row.balance_minor == balance
        assert (row.debit_minor > 0) != (row.credit_minor > 0)
    assert balance == closing
    days = [row.effective_on for row in content.activity]
    assert days == sorted(days)


@given(invoices=INVOICES, credit=st.integers(0, 5 * MAX_AMOUNT_MINOR))
def test_aging_sums_to_what_is_open_and_what_is_due_to_the_balance(invoices: list[OpenInvoice], credit: int) -> None:
    buckets, to_pay = aging(invoices, ENDS_ON), due(invoices, ENDS_ON, credit)
    open_minor = sum(each.open_minor for each in invoices)
    parts = [buckets.current_minor, buckets.days_1_30_minor, buckets.days_31_60_minor, buckets.days_61_90_minor]
    assert sum(parts) + buckets.days_91_120_minor + buckets.over_120_minor == buckets.total_minor == open_minor
    assert to_pay.amount_minor - to_pay.credit_minor == open_minor - credit
    assert min(to_pay.amount_minor, to_pay.credit_minor) == 0
    assert 0 <= to_pay.overdue_minor + to_pay.next_due_minor <= to_pay.amount_minor
    assert (to_pay.next_due_on is None) == (to_pay.next_due_minor == 0)


@pytest.mark.parametrize(
    ("days_past_due", "bucket"),
    [
        (-1, "current_minor"),
        (0, "current_minor"),
        (1, "days_1_30_minor"),
        (30, "days_1_30_minor"),
        (31, "days_31_60_minor"),
        (60, "days_31_60_minor"),
        (61, "days_61_90_minor"),
        (90, "days_61_90_minor"),
        (91, "days_91_120_minor"),
        (120, "days_91_120_minor"),
        (121, "over_120_minor"),
    ],
)
def test_a_bucket_holds_its_first_and_last_day(days_past_due: int, bucket: str) -> None:
    none = AgingBuckets(0, 0, 0, 0, 0, 0, 0)
    assert aging([invoice(500, days_past_due)], ENDS_ON) == replace(none, total_minor=500, **{bucket: 500})


def test_credit_counts_against_the_oldest_due_date_first() -> None:
    invoices = [invoice(100, -10, "C"), invoice(100, 40, "A"), invoice(100, 5, "B"), invoice(50, -20, "D")]
    assert due(invoices, ENDS_ON, 0) == Due(350, 200, ENDS_ON + timedelta(days=10), 100, 0)
    assert due(invoices, ENDS_ON, 120) == Due(230, 80, ENDS_ON + timedelta(days=10), 100, 0)
    assert due(invoices, ENDS_ON, 300) == Due(50, 0, ENDS_ON + timedelta(days=20), 50, 0)
    assert due(invoices, ENDS_ON, 360) == Due(0, 0, None, 0, 10)


def test_what_falls_due_on_the_last_day_is_not_overdue() -> None:
    assert due([invoice(100, 0)], ENDS_ON, 0) == Due(100, 0, ENDS_ON, 100, 0)


def test_the_transfers_of_one_payment_are_one_row_and_moving_credit_is_none() -> None:
    postings = [
        posting(3, credit=70),  # the part that settled an invoice
        posting(4, credit=30),  # the rest, unapplied
        posting(5, debit=30, kind="allocation"),  # from unapplied credit …
        posting(6, credit=30, kind="allocation"),  # … to the receivable
    ]
    content = build(SUBJECT, opening_minor=100, postings=postings, open_invoices=[])
    assert [(row.kind, row.debit_minor, row.credit_minor, row.balance_minor) for row in content.activity] == [
        ("payment", 0, 100, 0)
    ]


def test_no_activity_and_a_balance_in_the_partys_favour() -> None:
    content = build(SUBJECT, opening_minor=-40, postings=[], open_invoices=[], unapplied_credit_minor=40)
    assert (content.activity, content.closing_minor) == ((), -40)
    assert content.due == Due(0, 0, None, 0, 40)


@pytest.mark.parametrize(
    ("postings", "invoices", "credit", "says"),
    [
        ([posting(9, STARTS_ON - timedelta(days=1), debit=5)], [invoice(5)], 0, "transfer 9 is not effective"),
        ([posting(9, ENDS_ON + timedelta(days=1), debit=5)], [invoice(5)], 0, "transfer 9 is not effective"),
        ([posting(9, debit=5, credit=5)], [], 0, "transfer 9 is neither"),
        ([posting(9)], [], 0, "transfer 9 is neither"),
        ([posting(9, debit=-5)], [], 5, "transfer 9 is neither"),
        ([posting(9, debit=5)], [invoice(4)], 0, "closing balance"),
        ([posting(9, debit=5)], [invoice(5)], 1, "closing balance"),
        ([], [invoice(0, total_minor=5)], 0, "invoice INV-1 is not open"),
        ([posting(9, debit=6)], [invoice(6, total_minor=5)], 0, "invoice INV-1 is not open"),
        ([posting(9, debit=5)], [], -5, "never negative"),
    ],
)
def test_rows_that_contradict_each_other_make_no_statement(
    postings: list[PartyPosting], invoices: list[OpenInvoice], credit: int, says: str
) -> None:
    with pytest.raises(StatementMismatch, match=says):
        build(SUBJECT, opening_minor=0, postings=postings, open_invoices=invoices, unapplied_credit_minor=credit)


def tenant(**other: object) -> TenantProfile:
    plain = {"tenant_id": "t-1", "name": "Hospital", "region": "local-1", "country_profile": "AFG"}
    return TenantProfile.model_validate_json(json.dumps({**plain, **other}))


def test_a_tenant_that_says_nothing_about_statements_still_has_a_name_and_a_calendar() -> None:
    assert issuer(tenant(), "ps") == Issuer("Hospital")
    assert calendar(tenant()) == "gregorian"
    assert calendar(tenant(fiscal_calendar="solar_hijri")) == "solar_hijri"


def test_a_reader_gets_its_own_language_then_english_then_any() -> None:
    known = tenant(
        statement={
            "names": {"fa-AF": "شفاخانه"},
            "legal_lines": {"ps": ["پښتو"], "en": ["English"]},
            "payment_instructions": {"ar": ["عربي"], "ps": []},
            "calendar": "solar_hijri",
        }
    )
    assert issuer(known, "ps") == Issuer("شفاخانه", ("پښتو",), ("عربي",))
    assert issuer(known, "ar") == Issuer("شفاخانه", ("English",), ("عربي",))
    assert calendar(known) == "solar_hijri"


@pytest.mark.parametrize(
    "statement",
    [
        {"names": {"fr": "Hôpital"}},
        {"legal_lines": {"en": ["line"] * 9}},
        {"legal_lines": {"en": ["two\nlines"]}},
        {"logo_object_key": "../other/logo.png"},
        {"calendar": "lunar"},
    ],
)
def test_what_no_statement_can_carry_is_refused(statement: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        tenant(statement=statement)
