"""Statements to look at: one case per language and per thing that goes wrong easily. Every name is invented."""

import struct
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from domain.statement import (
    Addressee,
    Issuer,
    OpenInvoice,
    PartyPosting,
    StatementContent,
    Subject,
    build,
)
from schemas.base import MAX_AMOUNT_MINOR
from schemas.tenant import FiscalCalendar, Locale

TIMESTAMP = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
STARTS_ON, ENDS_ON = date(2026, 10, 23), date(2026, 11, 21)  # 1 to 30 Aqrab 1405
ACCOUNT = UUID("0198a4c2-7b1e-7c3a-9f20-5d1e6b7a8c90")


@dataclass(frozen=True)
class Case:
    content: StatementContent
    locale: Locale
    calendar: FiscalCalendar
    logo: bytes | None = None


ISSUERS: dict[Locale, Issuer] = {
    "en": Issuer(
        "Kabul Central Hospital",
        (
            "Shahr-e Naw, District 10, Kabul, Afghanistan",
            "Tax no. 9001234567 · +93 (0)20 230 1350",
            "billing@kch.example",
        ),
        (
            "Bank transfer: Afghan National Bank, IBAN AF12 0034 0000 1234 5678 90",
            "Cash: counter 3, every day 08:00–16:00",
        ),
    ),
    "ar": Issuer(
        "مستشفى الواحة التخصصي",
        ("شارع الشيخ زايد، دبي، الإمارات العربية المتحدة", "الرقم الضريبي 100234567800003 · هاتف +971 4 555 0134"),
        ("تحويل مصرفي: بنك الخليج، IBAN AE07 0331 2345 6789 0123 456", "نقدا: الشباك رقم 3 من 08:00 إلى 16:00"),
    ),
    "fa-AF": Issuer(
        "شفاخانهٔ مرکزی کابل",
        ("شهر نو، ناحیهٔ دهم، کابل، افغانستان", "نمبر تشخیصیه 9001234567 · تیلفون +93 (0)20 230 1350"),
        ("حوالهٔ بانکی: بانک ملی افغان، IBAN AF12 0034 0000 1234 5678 90", "پول نقد: غرفهٔ 3، هر روز از 08:00 تا 16:00"),
    ),
    "ps": Issuer(
        "د کندهار مرکزي روغتون",
        ("نوی ښار، کندهار، افغانستان", "د مالیې شمېره 9007654321 · ټیلیفون +93 (0)30 300 1177"),
        ("بانکي حواله: پښتنی بانک، IBAN AF34 0056 0000 9876 5432 10", "نغدې پیسې: ۳ کړکۍ، هره ورځ له 08:00 تر 16:00"),
    ),
}
NAMES: dict[Locale, str] = {
    "en": "Maryam Ahmadzai-Wardak",
    "ar": "عبدالرحمن بن محمد بن عبدالعزيز آل نهيان",
    "fa-AF": "گل‌مکی نورستانی بنت محمد‌یعقوب",
    "ps": "ښایسته ګل ځاځۍ د پټان خېل لور",
}
DESCRIPTIONS: dict[Locale, tuple[str, ...]] = {
    "en": (
        "Amoxicillin 500 mg × 21",
        "Chest X-ray, 2 views (71046)",
        "Room 12B, 3 nights",
        "Consultation — Dr. Wardak",
    ),
    "ar": ("أموكسيسيلين 500 mg × 21", "أشعة الصدر، وضعيتان (71046)", "غرفة 12B لمدة ٣ ليالٍ", "استشارة د. Wardak"),
    "fa-AF": ("آموکسی‌سیلین 500 mg × 21", "عکس سینه، دو نما (71046)", "اتاق 12B، ۳ شب", "معاینهٔ داکتر Wardak"),
    "ps": ("اموکسیسیلین 500 mg × 21", "د سینې عکس، دوه لوري (71046)", "12B خونه، ۳ شپې", "د ډاکټر Wardak معاینه"),
}


def subject(locale: Locale, currency: str) -> Subject:
    return Subject(
        reference="ST-1405-08-000417",
        issuer=ISSUERS[locale],
        account_id=ACCOUNT,
        patient="Patient/MRN-0042817",
        addressee=Addressee("patient", "patient", NAMES[locale]),
        currency=currency,
        starts_on=STARTS_ON,
        ends_on=ENDS_ON,
    )


def long(locale: Locale, currency: str, rows: int = 27) -> StatementContent:
    """27 rows, so two pages; overdue and not yet due invoices of every age; a refund, a write-off, a bounced cheque."""
    descriptions = DESCRIPTIONS[locale]
    postings, invoices = [], []
    for number in range(1, rows + 1):
        day = STARTS_ON + timedelta(days=number)
        if number % 4:
            amount = 125_000 + 7_919 * number
            name = f"INV-1405-{number:06}"
            postings.append(_posting(number, day, "invoice", name, descriptions[number % 4], debit=amount))
            invoices.append(OpenInvoice(name, day, day + timedelta(days=30), amount, amount))
        else:
            kind = ("payment", "refund", "write_off", "payment_reversal", "credit_note", "cash_rounding")[
                number // 4 % 6
            ]
            is_debit = kind in ("refund", "payment_reversal")
            paid = 5_000_000 if kind == "payment" else 43_210
            postings.append(
                _posting(
                    number, day, kind, f"{'CN' if kind == 'credit_note' else 'PM'}-{number:06}", None, paid, is_debit
                )
            )
    older = [
        OpenInvoice(
            f"INV-1405-{900 + age:06}",
            ENDS_ON - timedelta(days=age + 30),
            ENDS_ON - timedelta(days=age),
            1_000_000,
            250_000 + age,
        )
        for age in (5, 45, 75, 100, 150)
    ]
    invoices = [*older, *invoices[-3:]]
    open_minor = sum(invoice.open_minor for invoice in invoices)
    opening = open_minor - sum(posting.debit_minor - posting.credit_minor for posting in postings)
    return build(subject(locale, currency), opening_minor=opening, postings=postings, open_invoices=invoices)


def quiet(locale: Locale, currency: str) -> StatementContent:
    """Nothing happened, nothing is owed."""
    return build(subject(locale, currency), opening_minor=0, postings=[], open_invoices=[])


def in_credit(locale: Locale, currency: str) -> StatementContent:
    """Paid in advance: negative balances, credit in the party's favour, an insurer with a policy."""
    postings = [
        _posting(1, STARTS_ON, "invoice", "INV-1405-000001", DESCRIPTIONS[locale][0], debit=80_000),
        _posting(2, STARTS_ON + timedelta(days=9), "payment", "PM-000002", None, 530_050, is_debit=False),
    ]
    whose = subject(locale, currency)._replace(
        addressee=Addressee("insurer-1", "insurer", NAMES[locale], policy_number="POL-2026/77-A")
    )
    return build(whose, opening_minor=-120_000, postings=postings, open_invoices=[], unapplied_credit_minor=570_050)


def with_credit(locale: Locale, currency: str) -> StatementContent:
    """An open invoice and some unapplied credit; a name of mixed scripts, long enough to wrap."""
    postings = [
        _posting(1, STARTS_ON, "invoice", "INV-1405-000001", DESCRIPTIONS[locale][1], debit=1_234_567_890),
        _posting(2, STARTS_ON + timedelta(days=2), "payment", "PM-000002", None, 30_000, is_debit=False),
        _posting(3, STARTS_ON + timedelta(days=3), "something_new", None, None, 1, is_debit=True),
        _posting(4, STARTS_ON + timedelta(days=3), "adjustment", None, DESCRIPTIONS[locale][3], 1, is_debit=False),
    ]
    whose = subject(locale, currency)
    name = f"{NAMES[locale]} (Maryam Ahmadzai-Wardak, c/o {NAMES['fa-AF']} & Sons Trading Company Ltd.)"
    invoices = [
        OpenInvoice("INV-1405-000001", STARTS_ON, ENDS_ON + timedelta(days=9), 1_234_567_890, 1_234_567_890),
    ]
    return build(
        whose._replace(addressee=replace(whose.addressee, name=name)),
        opening_minor=0,
        postings=postings,
        open_invoices=invoices,
        unapplied_credit_minor=30_000,
    )


def enormous(locale: Locale, currency: str) -> StatementContent:
    """The largest amounts there are, and document numbers and descriptions as long as they may be."""
    postings = [
        _posting(
            1, STARTS_ON, "invoice", "INV-1405-000001", " ".join(DESCRIPTIONS[locale] * 4), debit=MAX_AMOUNT_MINOR
        ),
        _posting(2, STARTS_ON, "payment", "REF/2026-" + "0123456789" * 5, "X" * 60, 1, is_debit=False),
    ]
    open_minor = MAX_AMOUNT_MINOR - 1
    invoices = [OpenInvoice("INV-1405-000001", STARTS_ON, STARTS_ON, MAX_AMOUNT_MINOR, open_minor)]
    return build(subject(locale, currency), opening_minor=0, postings=postings, open_invoices=invoices)


def _posting(
    sequence: int, day: date, kind: str, number: str | None, text: str | None, debit: int = 0, is_debit: bool = True
) -> PartyPosting:
    amounts = (debit, 0) if is_debit else (0, debit)
    return PartyPosting(sequence, day, kind, UUID(int=sequence), number, text, *amounts)


def logo() -> bytes:
    """A PNG of 96 × 48 pixels: a teal cross on a transparent ground."""
    width, height = 96, 48
    rows = bytearray()
    for y in range(height):
        rows.append(0)  # filter: none
        for x in range(width):
            inside = (
                (abs(x - 24) < 6 and abs(y - 24) < 18)
                or (abs(x - 24) < 18 and abs(y - 24) < 6)
                or (x > 52 and 18 <= y < 30)
            )
            rows += b"\x0d\x5c\x63\xff" if inside else b"\x00\x00\x00\x00"
    return png(width, height, bytes(rows))


def png(width: int, height: int, filtered: bytes) -> bytes:
    """A PNG file of 8-bit RGBA scanlines, each with its filter byte (PNG specification, §5 and §9)."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(filtered, 9)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


CASES: dict[str, Case] = {
    "en": Case(long("en", "AFN"), "en", "gregorian", logo()),
    "ar": Case(long("ar", "AED"), "ar", "gregorian", logo()),
    "fa-AF": Case(long("fa-AF", "AFN"), "fa-AF", "solar_hijri", logo()),
    "ps": Case(long("ps", "AFN"), "ps", "solar_hijri", logo()),
    "en-quiet": Case(quiet("en", "JPY"), "en", "solar_hijri"),
    "ar-quiet": Case(quiet("ar", "JOD"), "ar", "gregorian"),
    "fa-AF-credit": Case(in_credit("fa-AF", "AFN"), "fa-AF", "solar_hijri"),
    "ps-credit": Case(in_credit("ps", "USD"), "ps", "gregorian"),
    "ar-credit": Case(in_credit("ar", "JOD"), "ar", "solar_hijri"),
    "en-mixed": Case(with_credit("en", "AED"), "en", "gregorian"),
    "fa-AF-enormous": Case(enormous("fa-AF", "AFN"), "fa-AF", "solar_hijri"),
    "ps-mixed": Case(with_credit("ps", "AFN"), "ps", "solar_hijri"),
}
