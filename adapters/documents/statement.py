"""A statement of account as PDF and as JSON."""

from collections.abc import Iterator
from datetime import date, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

import orjson

from adapters.documents import typesetting
from adapters.documents.formatting import (
    SCRIPTS,
    amount,
    breakable,
    count,
    currency_name,
    day,
    digits,
    ltr,
    money,
    plain,
    prose,
)
from adapters.documents.texts import STATEMENT, StatementTexts
from domain.statement import ActivityRow, AgingBuckets, OpenInvoice, StatementContent
from schemas.tenant import FiscalCalendar, Locale

JSON_VERSION = 1
_FIGURE_POINTS = 9.5
_FIGURE_CHARACTERS = 13  # "12,345,678.90" fills a column at that size; longer amounts are set smaller, never cut
_CODE_CHARACTERS = 16  # of a document number on one line
_BUCKET_DAYS = ((0, 0), (1, 30), (31, 60), (61, 90), (91, 120), (121, 120))  # first and last, as the labels name them


class Rendered(NamedTuple):
    """A finished document; `sha256` is the digest of its bytes."""

    pdf: bytes
    sha256: bytes


def render(
    content: StatementContent,
    *,
    locale: Locale,
    calendar: FiscalCalendar,
    logo: bytes | None = None,
    timestamp: datetime,
) -> Rendered:
    """The statement as a tagged PDF; the same arguments give the same bytes. CPU-bound: tens of milliseconds.

    `timestamp` (aware) becomes the document's creation date. `logo`: a PNG or JPEG.
    Raises GlyphMissing, which names the character and its field, LogoUnusable, or DocumentError.
    """
    data = template_data(content, locale, calendar)
    document = typesetting.pdf(_template(), data, content, logo, timestamp)
    return Rendered(document, sha256(document).digest())


def render_images(
    content: StatementContent,
    *,
    locale: Locale,
    calendar: FiscalCalendar,
    logo: bytes | None = None,
    timestamp: datetime,
    ppi: int = 72,
) -> list[bytes]:
    """The same pages as PNG, one each."""
    return typesetting.images(_template(), template_data(content, locale, calendar), logo, timestamp, ppi)


def to_json(content: StatementContent) -> bytes:
    """The statement for machines: fields as in `StatementContent`, amounts in minor units, dates ISO 8601 Gregorian."""
    return orjson.dumps({"version": JSON_VERSION, "statement": content}, option=orjson.OPT_SORT_KEYS)


def template_data(content: StatementContent, locale: Locale, calendar: FiscalCalendar) -> dict[str, Any]:
    """What statement.typ shows: every string translated, formatted and isolated."""
    show = _Show(content, locale, calendar)
    texts, script = show.texts, SCRIPTS[locale]
    language, _, region = script.babel.partition("_")
    return {
        "lang": language,
        "region": region or None,
        "dir": script.direction,
        "digits": digits(locale, "0123456789") if script.digits else None,
        "title": f"{texts.title} {plain(content.reference)}",
        "labels": _labels(texts, locale, content.currency),
        "issuer": {
            "name": show.prose(content.issuer.name),
            "plain-name": plain(content.issuer.name),
            "legal_lines": [show.prose(line) for line in content.issuer.legal_lines],
        },
        "logo_alt": texts.logo.format(name=plain(content.issuer.name)),
        "reference": ltr(plain(content.reference)),
        "period": texts.period_range.format(start=show.day(content.starts_on), end=show.day(content.ends_on)),
        "starts_on": show.day(content.starts_on),
        "ends_on": show.day(content.ends_on),
        "figure_size": show.figure_size(),
        "meta": [[label, value] for label, value in show.meta()],
        "due": show.due(),
        "opening": show.amount(content.opening_minor),
        "debits": show.amount(content.debits_minor),
        "credits": show.amount(content.credits_minor),
        "closing": show.amount(content.closing_minor),
        "activity": [show.activity(row) for row in content.activity],
        "invoices": [show.invoice(invoice) for invoice in content.open_invoices],
        "open_total": show.amount(content.aging.total_minor),
        "unapplied": show.amount(-content.unapplied_credit_minor) if content.unapplied_credit_minor else None,
        "aging": show.aging(content.aging),
        "how_to_pay": [show.prose(line) for line in content.issuer.payment_instructions] if show.owes else [],
        "quote_reference": texts.quote_reference.format(reference=ltr(plain(content.reference))) if show.owes else None,
    }


class _Show:
    """One statement for one reader."""

    def __init__(self, content: StatementContent, locale: Locale, calendar: FiscalCalendar) -> None:
        self.content, self.locale, self.calendar = content, locale, calendar
        self.texts = STATEMENT[locale]
        self.owes = content.due.amount_minor > 0

    def day(self, when: date) -> str:
        return day(self.locale, self.calendar, when)

    def amount(self, minor: int) -> str:
        return amount(self.locale, minor, self.content.currency)

    def money(self, minor: int) -> str:
        return money(self.locale, minor, self.content.currency)

    def prose(self, text: str) -> str:
        return prose(self.locale, text)

    def figure_size(self) -> float:
        """Points at which the longest amount of the statement fits its column."""
        content = self.content
        largest = [content.opening_minor, content.debits_minor, content.credits_minor, content.aging.total_minor]
        largest += [each.balance_minor for each in content.activity] + [
            each.total_minor for each in content.open_invoices
        ]
        longest = max(len(plain(self.amount(minor))) for minor in largest)
        return round(_FIGURE_POINTS * min(1, _FIGURE_CHARACTERS / longest), 2)

    def meta(self) -> Iterator[tuple[str, str]]:
        """Label and value of what identifies the statement."""
        texts, content = self.texts, self.content
        yield texts.billed_to, self.prose(content.addressee.name or content.addressee.party_id)
        if content.addressee.policy_number is not None:
            yield texts.policy, ltr(content.addressee.policy_number)
        yield texts.patient, ltr(content.patient.removeprefix("Patient/"))
        yield texts.account, ltr(str(content.account_id))
        yield texts.reference, ltr(plain(content.reference))

    def due(self) -> dict[str, Any]:
        """The box at the top: what to pay, or what the party has in its favour."""
        texts, due = self.texts, self.content.due
        if due.credit_minor:
            return self._box(texts.in_your_favour, due.credit_minor, [], texts.nothing_to_pay)
        if not self.owes:
            return self._box(texts.amount_due, 0, [], texts.nothing_to_pay)
        lines = []
        if due.overdue_minor:
            label = f"{texts.overdue} – {texts.pay_now}"
            lines.append({"label": label, "amount": self.amount(due.overdue_minor), "alarm": True})
        if due.next_due_on is not None:
            label = texts.next_due.format(date=self.day(due.next_due_on))
            lines.append({"label": label, "amount": self.amount(due.next_due_minor), "alarm": False})
        return self._box(texts.amount_due, due.amount_minor, lines, None)

    def _box(self, label: str, minor: int, lines: list[dict[str, Any]], note: str | None) -> dict[str, Any]:
        return {"label": label, "amount": self.money(minor), "lines": lines, "note": note}

    def activity(self, row: ActivityRow) -> dict[str, str | None]:
        return {
            "date": self.day(row.effective_on),
            "document": _code(row.document_number) if row.document_number else "",
            "kind": self.texts.kinds.get(row.kind, self.texts.other),
            "description": self.prose(row.description) if row.description else None,
            "debit": self.amount(row.debit_minor) if row.debit_minor else "",
            "credit": self.amount(row.credit_minor) if row.credit_minor else "",
            "balance": self.amount(row.balance_minor),
        }

    def invoice(self, invoice: OpenInvoice) -> dict[str, Any]:
        return {
            "number": _code(invoice.number),
            "date": self.day(invoice.invoice_date),
            "due_on": self.day(invoice.due_on),
            "total": self.amount(invoice.total_minor),
            "open": self.amount(invoice.open_minor),
            "overdue": invoice.due_on < self.content.ends_on,
        }

    def aging(self, buckets: AgingBuckets) -> list[dict[str, str]]:
        amounts = (
            buckets.current_minor,
            buckets.days_1_30_minor,
            buckets.days_31_60_minor,
            buckets.days_61_90_minor,
            buckets.days_91_120_minor,
            buckets.over_120_minor,
        )
        labels = [
            label.format(first=count(self.locale, first), last=count(self.locale, last))
            for label, (first, last) in zip(self.texts.buckets, _BUCKET_DAYS, strict=True)
        ]
        cells = [(label, self.amount(minor)) for label, minor in zip(labels, amounts, strict=True)]
        cells.append((self.texts.total, self.amount(buckets.total_minor)))
        return [{"label": label, "amount": text} for label, text in cells]


def _code(text: str) -> str:
    """A document number that may break where it is too long for its column."""
    return ltr(breakable(plain(text), _CODE_CHARACTERS))


def _labels(texts: StatementTexts, locale: Locale, currency: str) -> dict[str, str]:
    """The labels that the template uses as they are."""
    labels = {name: text for name, text in texts._asdict().items() if isinstance(text, str)}
    return {**labels, "currency_note": texts.currency_note.format(currency=currency_name(locale, currency))}


@cache
def _template() -> bytes:
    return files("adapters.documents").joinpath("statement.typ").read_bytes()
