"""How many statements a process renders a second, and whether its memory stays flat.

python -m tools.bench.statements [--documents 500] [--threads 1]
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import chain, islice
from typing import NamedTuple
from uuid import UUID

import psutil

from adapters.documents.statement import render
from domain.statement import Addressee, Issuer, OpenInvoice, PartyPosting, StatementContent, Subject, build
from schemas.tenant import FiscalCalendar, Locale

_LOCALES: tuple[Locale, ...] = ("en", "ar", "fa-AF", "ps")
_NAMES: dict[Locale, str] = {"en": "Maryam Wardak", "ar": "مريم الأحمد", "fa-AF": "مریم وردک", "ps": "مریم وردګه"}
_STARTS_ON = date(2026, 10, 23)
_TIMESTAMP = datetime(2026, 11, 21, tzinfo=UTC)
_WARM_UP = 40  # documents after which the fonts and typst's caches are in memory
_MIB = 1024 * 1024


class Measured(NamedTuple):
    """Resident memory in MiB after warm-up, at its highest of the samples taken each 50 documents, and at the end."""

    documents: int
    threads: int
    rows: int
    documents_per_second: float
    median_kib: int
    rss_start_mib: int
    rss_peak_mib: int
    rss_end_mib: int


def measure(documents: int = 500, *, threads: int = 1, rows: int = 25) -> Measured:
    """Renders `documents` different statements of `rows` lines in four languages by turns."""
    process = psutil.Process()
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(_size_of, range(_WARM_UP), [rows] * _WARM_UP))
        resident = [process.memory_info().rss]
        started, sizes = time.perf_counter(), list[int]()
        numbers: Iterator[int] = iter(range(_WARM_UP, _WARM_UP + documents))
        while batch := list(islice(numbers, 50)):
            sizes.extend(executor.map(_size_of, batch, [rows] * len(batch)))
            resident.append(process.memory_info().rss)
        seconds = time.perf_counter() - started
    return Measured(
        documents=documents,
        threads=threads,
        rows=rows,
        documents_per_second=round(documents / seconds, 1),
        median_kib=sorted(sizes)[len(sizes) // 2] // 1024,
        rss_start_mib=resident[0] // _MIB,
        rss_peak_mib=max(resident) // _MIB,
        rss_end_mib=resident[-1] // _MIB,
    )


def _size_of(number: int, rows: int) -> int:
    locale = _LOCALES[number % len(_LOCALES)]
    calendar: FiscalCalendar = "solar_hijri" if locale in ("fa-AF", "ps") else "gregorian"
    return len(render(_content(number, locale, rows), locale=locale, calendar=calendar, timestamp=_TIMESTAMP).pdf)


def _content(number: int, locale: Locale, rows: int) -> StatementContent:
    """A statement like no other: the amounts and numbers depend on `number`."""
    invoices, postings = list[OpenInvoice](), list[PartyPosting]()
    for row in range(rows):
        day, amount = _STARTS_ON + timedelta(days=row % 30), 10_000 + number * 37 + row * 911
        name = f"INV-1405-{number * rows + row:06}"
        postings.append(
            PartyPosting(
                row, day, "invoice", UUID(int=row), name, "Amoxicillin 500 mg × 21", debit_minor=amount, credit_minor=0
            )
        )
        invoices.append(OpenInvoice(name, day, day + timedelta(days=30), amount, amount))
    paid = sum(invoice.total_minor for invoice in invoices[10:])
    payment = PartyPosting(rows, _STARTS_ON + timedelta(days=29), "payment", UUID(int=rows), "PM-1", None, 0, paid)
    subject = Subject(
        reference=f"ST-{number:06}",
        issuer=Issuer("Kabul Central Hospital", ("Shahr-e Naw, Kabul",), ("Bank transfer",)),
        account_id=UUID(int=number),
        patient=f"Patient/{number}",
        addressee=Addressee("patient", "patient", _NAMES[locale]),
        currency="AFN",
        starts_on=_STARTS_ON,
        ends_on=_STARTS_ON + timedelta(days=29),
    )
    return build(subject, opening_minor=0, postings=chain(postings, [payment]), open_invoices=invoices[:10])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=25)
    arguments = parser.parse_args()
    measured = measure(arguments.documents, threads=arguments.threads, rows=arguments.rows)
    for name, value in measured._asdict().items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
