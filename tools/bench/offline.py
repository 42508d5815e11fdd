"""The measurements that `make bench` adds to the page after the throughput run: statements, GL export, replay.

python -m tools.bench.offline --output docs [--entries 1000000] [--payments 50000] [--documents 500]
"""

import argparse
from pathlib import Path
from typing import Any

import orjson

from tools.bench import gl_export, replay, statements

MARK = "## Workers and replay"


def measure(entries: int, payments: int, documents: int) -> dict[str, Any]:
    """Figures by name, as the JSON document takes them. Raises StackError."""
    return {
        "statements": statements.measure(documents, threads=1, rows=25)._asdict(),
        "gl_export": gl_export.measure(entries, "detail", ("csv", "parquet"))._asdict(),
        "replay": replay.measure(payments, 20)._asdict(),
    }


def write(figures: dict[str, Any], directory: Path) -> None:
    """Adds the figures to `benchmarks.json` and a section to `benchmarks.md`, replacing those of an earlier run."""
    path, page = directory / "benchmarks.json", directory / "benchmarks.md"
    document = orjson.loads(path.read_bytes()) if path.exists() else {}
    path.write_bytes(orjson.dumps(document | figures, option=orjson.OPT_INDENT_2) + b"\n")
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n\n"
    page.write_text(text.partition(MARK)[0] + section(figures), encoding="utf-8")


def section(figures: dict[str, Any]) -> str:
    lines = [MARK, "", "| measured | figure | value |", "|---|---|---|"]
    for name, values in figures.items():
        for figure, value in values.items():
            shown = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
            lines.append(f"| {name} | {figure} | {shown} |")
    return "\n".join(lines) + "\n"


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
