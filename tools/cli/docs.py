"""`billing docs`: OpenAPI, AsyncAPI, JSON Schemas, the rejection codes, the metrics and the dashboards, generated."""

from typing import Annotated

import typer

from tools.cli.errors import FAILED, CliError
from tools.cli.output import Json, print_json


def docs(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail where a file is stale.")] = False,
    as_json: Json = False,
) -> None:
    """Write docs/api (openapi.json, asyncapi.json, schemas/, rejection-codes.md), docs/metrics.md and charts/billing/dashboards.

    Example: billing docs --check

    Exit codes: 0 written or fresh, 1 stale (with --check).
    """
    from tools.docs.generate import difference, write

    found = difference() if check else write()
    if as_json:
        print_json({"stale": found.stale, "extra": found.extra})
    elif not check:
        for path in found.stale:
            print(f"wrote {path}")
        for path in found.extra:
            print(f"deleted {path}")
    if check and (found.stale or found.extra):
        stale = ", ".join((*found.stale, *found.extra))
        raise CliError(f"stale: {stale}; run `billing docs` and commit what it writes", FAILED)
