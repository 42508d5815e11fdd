"""Statements as people see them. Every picture in this directory has been looked at.

After a wanted change: `GOLDEN_WRITE=1 .venv/bin/pytest tests/golden`, then look at every picture that `git diff` names.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.documents.statement import render, render_images
from tests.golden.extraction import lines
from tests.golden.pictures import distance
from tests.golden.statements import CASES, DESCRIPTIONS, ISSUERS, NAMES, TIMESTAMP, Case

HERE = Path(__file__).parent
PIXELS_PER_INCH = 72
# A 2 that became a 3 is 9 (test_one_changed_digit_is_seen); equal builds give equal bytes, so this is room for another processor.
TOLERANCE = 4.0


def pictures(case: Case) -> list[bytes]:
    return render_images(
        case.content,
        locale=case.locale,
        calendar=case.calendar,
        logo=case.logo,
        timestamp=TIMESTAMP,
        ppi=PIXELS_PER_INCH,
    )


def text(name: str) -> str:
    case = CASES[name]
    made = render(case.content, locale=case.locale, calendar=case.calendar, logo=case.logo, timestamp=TIMESTAMP)
    return "\n".join(lines(made.pdf, rtl=case.locale != "en")).replace("\u200b", "").replace("\u00a0", " ")


@pytest.mark.parametrize("name", CASES)
def test_a_statement_looks_as_it_did(name: str) -> None:
    pages = pictures(CASES[name])
    paths = [HERE / f"{name}-{number}.png" for number in range(1, len(pages) + 1)]
    if os.environ.get("GOLDEN_WRITE"):
        for path in HERE.glob(f"{name}-[0-9].png"):
            path.unlink()
        for path, page in zip(paths, pages, strict=True):
            path.write_bytes(page)
    assert sorted(HERE.glob(f"{name}-[0-9].png")) == paths
    assert max(distance(page, path.read_bytes()) for path, page in zip(paths, pages, strict=True)) <= TOLERANCE


def test_one_changed_digit_is_seen() -> None:
    case = CASES["ps-credit"]
    changed = replace(case.content.activity[1], document_number="PM-000003")
    content = replace(case.content, activity=(case.content.activity[0], changed))
    found = distance(pictures(replace(case, content=content))[0], (HERE / "ps-credit-1.png").read_bytes())
    assert TOLERANCE < found < 255


@pytest.mark.parametrize("name", ["en", "ar", "fa-AF", "ps"])
def test_the_text_comes_back_in_logical_order(name: str) -> None:
    case, found = CASES[name], text(name)
    locale = case.locale
    wanted = [ISSUERS[locale].name, NAMES[locale], *ISSUERS[locale].legal_lines, *ISSUERS[locale].payment_instructions]
    wanted += [*DESCRIPTIONS[locale][1:], "ST-1405-08-000417", str(case.content.account_id), "INV-1405-000027"]
    missing = [each for each in wanted if each.replace("\u0647\u0654", "\u06c0") not in found]
    assert not missing


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "en",
            [
                "Statement of account",
                "22,430.57",
                "Overdue – please pay now",
                "Page 1 of 2",
                "23 Oct 2026 – 21 Nov 2026",
            ],
        ),
        ("ar", ["كشف حساب", "٢٢٬٤٣٠٫٥٧", "من ٢٣ أكتوبر ٢٠٢٦ إلى ٢١ نوفمبر ٢٠٢٦", "صفحة ٢ من ٢", "درهم إماراتي (AED)"]),
        ("fa-AF", ["صورت‌حساب", "۲۲٬۴۳۰٫۵۷", "از ۱ عقرب ۱۴۰۵ تا ۳۰ عقرب ۱۴۰۵", "صفحۀ ۲ از ۲", "بل‌های پرداخت‌ناشده"]),
        ("ps", ["صورت حساب", "۲۲٬۴۳۰٫۵۷", "له ۱ لړم ۱۴۰۵ څخه تر ۳۰ لړم ۱۴۰۵ پورې", "نا ورکړل شوي بېلونه"]),
        ("ar-credit", ["−٥٧٠٫٠٥٠", "رصيد دائن لصالحكم", "أموكسيسيلين 500 mg × 21", "JOD ٥٧٠٫٠٥٠"]),
        ("fa-AF-credit", ["−۵٬۷۰۰٫۵۰", "طلب شما از شفاخانه", "آموکسی‌سیلین 500 mg × 21", "POL-2026/77-A"]),
        ("ps-credit", ["−۵٬۷۰۰٫۵۰", "له روغتون څخه ستاسو طلب", "اموکسیسیلین 500 mg × 21"]),
        ("en-quiet", ["There was no activity in this period.", "JPY 0", "1 Aqrab 1405 – 30 Aqrab 1405"]),
        ("fa-AF-enormous", ["۱۰٬۰۰۰٬۰۰۰٬۰۰۰٬۰۰۰٫۰۰", "۹٬۹۹۹٬۹۹۹٬۹۹۹٬۹۹۹٫۹۹"]),
    ],
)
def test_amounts_dates_and_labels_read_as_they_are_written_there(name: str, wanted: list[str]) -> None:
    found = text(name)
    assert not [each for each in wanted if each not in found]
