"""Writes docs/api, docs/metrics.md and the dashboards, or says which of the files are stale."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from gateway_shim import openapi
from tools.docs import asyncapi, dashboards, json_schemas, metrics, rejection_codes

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = "charts/billing/dashboards"


class Difference(NamedTuple):
    """Paths relative to the repository. `stale`: missing or with other content; `extra`: nothing generates them any more."""

    stale: tuple[str, ...]
    extra: tuple[str, ...]


def documents() -> dict[str, str]:
    """Every generated file's text by its path below the repository; the same input gives the same bytes."""
    schemas = {f"docs/api/schemas/{name}.json": _json(schema) for name, schema in json_schemas.documents().items()}
    return {
        "docs/api/openapi.json": _json(openapi.document()),
        "docs/api/asyncapi.json": _json(asyncapi.document()),
        "docs/api/rejection-codes.md": rejection_codes.document(),
        "docs/metrics.md": metrics.document(),
        **{f"{DASHBOARDS}/{name}": text for name, text in dashboards.documents().items()},
        **schemas,
    }


def difference(directory: Path = ROOT) -> Difference:
    """What `write` would change."""
    return _difference(directory, documents())


def write(directory: Path = ROOT) -> Difference:
    """Bring the directory to what is generated; returns what had to change."""
    wanted = documents()
    found = _difference(directory, wanted)
    for path in found.stale:
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(wanted[path], encoding="utf-8")
    for path in found.extra:
        (directory / path).unlink()
    return found


def _difference(directory: Path, wanted: dict[str, str]) -> Difference:
    stale = tuple(path for path, text in sorted(wanted.items()) if _text(directory / path) != text)
    return Difference(stale, tuple(sorted(_present(directory) - wanted.keys())))


def _present(directory: Path) -> set[str]:
    generated = (
        "docs/api/*.json",
        "docs/api/schemas/*.json",
        "docs/api/*.md",
        "docs/metrics.md",
        f"{DASHBOARDS}/*.json",
    )
    files = [path for pattern in generated for path in directory.glob(pattern)]
    return {str(path.relative_to(directory)) for path in files}


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
