"""The measurements that `make bench` adds to the page after the throughput run: statements, GL export, replay.

python -m tools.bench.offline --output docs [--entries 1000000] [--payments 50000] [--documents 500]
"""

import argparse
from pathlib import Path
from typing import Any

import orjson

from tools.bench import gl_export, replay, report, statements


def measure(entries: int, payments: int, documents: int) -> dict[str, Any]:
    """Figures by name, as the JSON document takes them. Raises StackError."""
    return {
        "statements": statements.measure(documents, threads=1, rows=25)._asdict(),
        "gl_export": gl_export.measure(entries, "detail", ("csv", "parquet"))._asdict(),
        "replay": replay.measure(payments, 20)._asdict(),
    }


def write(figures: dict[str, Any], directory: Path) -> None:
    """Adds the figures to `benchmarks.json` and writes the page anew. FileNotFoundError before `billing bench`."""
    document = orjson.loads((directory / "benchmarks.json").read_bytes())
    report.write_report(document | figures, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--payments", type=int, default=50_000)
    parser.add_argument("--documents", type=int, default=500)
    given = parser.parse_args()
    write(measure(given.entries, given.payments, given.documents), given.output)


if __name__ == "__main__":
    main()
