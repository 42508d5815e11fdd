"""Rendering beyond its looks: identical bytes, the standards, what cannot be shown, and how values are written."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any

import pytest
from pypdf import PdfReader

from adapters.documents import formatting
from adapters.documents.errors import GlyphMissing, LogoUnusable, Missing
from adapters.documents.statement import Rendered, render, to_json
from adapters.documents.texts import STATEMENT
from adapters.documents.typesetting import MAX_LOGO_BYTES
from schemas.tenant import FiscalCalendar, Locale
from tests.golden.statements import CASES, TIMESTAMP, Case, logo

LOCALES: tuple[Locale, ...] = ("en", "ar", "fa-AF", "ps")


def rendered(case: Case, timestamp: datetime = TIMESTAMP) -> Rendered:
    return render(case.content, locale=case.locale, calendar=case.calendar, logo=case.logo, timestamp=timestamp)


def with_name(name: str) -> Case:
    case = CASES["en-quiet"]
    return replace(case, content=replace(case.content, addressee=replace(case.content.addressee, name=name)))


def test_the_same_statement_is_the_same_bytes_from_any_thread() -> None:
    cases = [CASES["ps"], CASES["ar-credit"]] * 4
    with ThreadPoolExecutor(4) as executor:
        made = list(executor.map(rendered, cases))
    assert made[0::2] == [made[0]] * 4
    assert made[1::2] == [made[1]] * 4
    assert made[0].sha256 == sha256(made[0].pdf).digest()
    later = rendered(CASES["ps"], datetime(2026, 11, 21, tzinfo=UTC))
    assert later.pdf != made[0].pdf


@pytest.mark.parametrize("name", LOCALES)
def test_a_statement_is_a_tagged_archive_document(name: str) -> None:
    reader = PdfReader(io.BytesIO(rendered(CASES[name]).pdf))
    root: Any = reader.trailer["/Root"]
    described = root["/Metadata"].get_data().decode()
    assert "<pdfaid:part>2</pdfaid:part>" in described
    assert "<pdfaid:conformance>A</pdfaid:conformance>" in described
    assert "<pdfuaid:part>1</pdfuaid:part>" in described
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == {"en": "en", "ar": "ar", "fa-AF": "fa-AF", "ps": "ps-AF"}[name]
    assert "ST-1405-08-000417" in str(reader.metadata and reader.metadata.title)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("Li 中", "中"),
        ("Afghani \u20c3", "\u20c3"),
        ("emoji \U0001f600", "\U0001f600"),
        ("private \ue000 use", "\ue000"),
    ],
)
def test_a_character_without_a_glyph_is_named_with_its_field_and_nothing_else(name: str, missing: str) -> None:
    with pytest.raises(GlyphMissing) as raised:
        rendered(with_name(name))
    assert raised.value.missing == (Missing(missing, ("addressee.name",)),)
    assert str(raised.value) == f"no font has U+{ord(missing):04X} in addressee.name"
    assert (raised.value.code, raised.value.retryable) == ("glyph_missing", False)


def test_every_field_with_the_character_is_named() -> None:
    case = CASES["fa-AF-credit"]
    row = replace(case.content.activity[0], description="中")
    content = replace(case.content, activity=(*case.content.activity, row, row))
    with pytest.raises(GlyphMissing, match=r"U\+4E2D in activity\[2\].description, activity\[3\].description"):
        rendered(replace(case, content=content))


@pytest.mark.parametrize(
    "name",
    [
        "ﷲ ﷺ",  # ligatures of their own
        "محمّدٌ",  # vowel signs
        "ټ ځ څ ډ ړ ږ ژ ښ ګ ڼ ۀ ي ې ۍ ئ ی پ چ گ ک",  # Pashto and Dari letters
        "Žižek Đorđe Ёлкин Ἀθηνᾶ",
        "e\u0301 composed",
        "\u202eright to left override",
        "unbalanced \u2069\u2069 isolates",
        "byte order \ufeff mark",
        "two\nlines\tand tabs",
        "#typst[*markup*] $x$ \\ @ref <label>",
    ],
)
def test_names_of_any_script_and_any_trick_are_shown(name: str) -> None:
    assert rendered(with_name(name)).pdf.startswith(b"%PDF-1.7")


def test_a_sender_cannot_turn_our_text_round() -> None:
    assert formatting.prose("en", "a\u202e\u2069\u2066b\ufeff") == "\u2068ab\u2069"


@pytest.mark.parametrize(
    "picture",
    [b"GIF89a", b"", logo()[:80], b"\x89PNG\r\n\x1a\n" + bytes(100), logo() + bytes(MAX_LOGO_BYTES)],
    ids=["other format", "empty", "cut off", "no picture", "too large"],
)
def test_a_logo_that_is_none_says_so(picture: bytes) -> None:
    with pytest.raises(LogoUnusable) as raised:
        rendered(replace(CASES["en-quiet"], logo=picture))
    assert raised.value.code == "logo_unusable"
    assert rendered(replace(CASES["en-quiet"], logo=logo())).pdf  # and the next document is not affected


@pytest.mark.parametrize(
    ("locale", "minor", "currency", "shown"),
    [
        ("en", -123_456, "AED", "−1,234.56"),
        ("en", 1_000, "JPY", "1,000"),
        ("en", 1_000, "JOD", "1.000"),
        ("en", -5, "JOD", "−0.005"),
        ("en", 0, "AFN", "0.00"),
        ("ar", 1_234_567, "AED", "١٢٬٣٤٥٫٦٧"),
        ("fa-AF", 1_234_567, "AFN", "۱۲٬۳۴۵٫۶۷"),
        ("ps", -1_234_567, "KWD", "−۱٬۲۳۴٫۵۶۷"),
    ],
)
def test_amounts_have_the_currencys_decimals_and_the_languages_digits(
    locale: Locale, minor: int, currency: str, shown: str
) -> None:
    assert formatting.amount(locale, minor, currency) == f"\u2066{shown}\u2069"


@pytest.mark.parametrize(
    ("locale", "calendar", "when", "shown"),
    [
        ("en", "gregorian", date(2026, 3, 1), "\u20661 Mar 2026\u2069"),
        ("ar", "gregorian", date(2026, 3, 1), "\u2067١ مارس ٢٠٢٦\u2069"),
        ("fa-AF", "gregorian", date(2026, 3, 1), "\u2067۱ مارچ ۲۰۲۶\u2069"),
        ("ps", "gregorian", date(2026, 9, 1), "\u2067۱ سېپتمبر ۲۰۲۶\u2069"),
        ("en", "solar_hijri", date(2026, 3, 21), "\u20661 Hamal 1405\u2069"),
        ("fa-AF", "solar_hijri", date(2026, 3, 20), "\u2067۲۹ حوت ۱۴۰۴\u2069"),
        ("ps", "solar_hijri", date(2026, 11, 21), "\u2067۳۰ لړم ۱۴۰۵\u2069"),
        ("ar", "solar_hijri", date(2025, 3, 20), "\u2067٣٠ الحوت ١٤٠٣\u2069"),  # a leap year
    ],
)
def test_dates_are_of_the_tenants_calendar_with_afghan_month_names(
    locale: Locale, calendar: FiscalCalendar, when: date, shown: str
) -> None:
    assert formatting.day(locale, calendar, when) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("قرص 500 mg × 21 دانه", "قرص \u2066500\u00a0mg\u00a0×\u00a021\u2069 دانه"),
        ("تیلفون +93 (0)20 230 1350", "تیلفون \u2066+93 (0)20 230 1350\u2069"),
        ("نام (Ahmad Shah)", "نام \u2066(Ahmad\u00a0Shah)\u2069"),
        ("سند (Ref 7", "سند (\u2066Ref\u00a07\u2069"),
        ("INV-2026/7-A", "INV-2026/7-A"),
    ],
)
def test_latin_runs_in_right_to_left_text_are_isolated(text: str, shown: str) -> None:
    assert formatting.prose("fa-AF", text) == f"\u2068{shown}\u2069"


@pytest.mark.parametrize("locale", LOCALES)
def test_every_label_is_there_in_every_language(locale: Locale) -> None:
    english, texts = STATEMENT["en"], STATEMENT[locale]
    assert texts.kinds.keys() == english.kinds.keys()
    for name, text in texts._asdict().items():
        assert text, name
        if isinstance(text, str):
            assert text.count("{") == getattr(english, name).count("{"), name
            assert locale == "en" or text != getattr(english, name), name


def test_the_json_form_is_complete_and_stable() -> None:
    content = CASES["fa-AF-credit"].content
    document = json.loads(to_json(content))
    assert to_json(content) == to_json(replace(content))
    assert document["version"] == 1
    statement = document["statement"]
    assert statement["closing_minor"] == -570_050
    assert statement["due"] == {
        "amount_minor": 0,
        "overdue_minor": 0,
        "next_due_on": None,
        "next_due_minor": 0,
        "credit_minor": 570_050,
    }
    assert statement["starts_on"] == "2026-10-23"
    assert statement["activity"][0]["description"] == content.activity[0].description
    assert statement.keys() == set(content.__dataclass_fields__)
