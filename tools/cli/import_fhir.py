"""`billing import fhir`: FHIR R4 bundles → commands. What is mapped how: docs/fhir-import.md."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.cli.errors import USAGE, CliError
from tools.cli.output import Json, console, print_json

if TYPE_CHECKING:
    from tools.fhir_import.plan import Plan
    from tools.fhir_import.report import Report

app = typer.Typer(help="History from other systems.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `fhir` a command of its own while it is the only one."""


@app.command()
def fhir(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Bundles, or folders of them (*.json).")],
    tenant: Annotated[str, typer.Option(help="The tenant whose books they go into.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if anything could not be mapped.")] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the whole report there, as JSON.")
    ] = None,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for one command's outcome.")
    ] = 60.0,
    inbox_prefix: Annotated[str | None, typer.Option(help="For a user that may only listen below it.")] = None,
    as_json: Json = False,
) -> None:
    """Import FHIR R4 bundles: patients, claims, explanations of benefit, charge items, invoices, payment notices.

    Importing again changes nothing: every command has an id derived from the tenant and the resource. What could not be
    mapped is reported with its reason.

    Examples:

    billing import fhir bundles/ --tenant kabul-central --dry-run

    billing import fhir patient.json --tenant kabul-central --strict --report report.json

    Exit codes: 0 done, 1 a command was refused, no file was a bundle, or (with --strict) something could not be mapped,
    2 wrong arguments, 3 a server is away or a command had no answer.
    """
    from tools.cli.servers import quiet
    from tools.fhir_import.report import Report

    quiet()
    plan = _plan(paths, tenant)
    if dry_run:
        report = Report(plan, [], {}, 0.0, dry_run=True)
    else:
        report = asyncio.run(_run(plan, timeout_seconds, inbox_prefix, as_json=as_json))
    if report_file is not None:
        _write(report, report_file)
    if as_json:
        print_json(report.as_data())
    else:
        report.print()
    raise typer.Exit(report.exit_code(strict=strict))


def _plan(paths: list[Path], tenant: str) -> "Plan":
    from schemas.subjects import TENANT
    from tools.fhir_import.bundles import find_files, load_files
    from tools.fhir_import.mapping import plan_import

    if not TENANT.fullmatch(tenant):
        raise CliError(f"--tenant {tenant!r}: 1 to 64 letters, digits, _ or -", USAGE)
    try:
        files = find_files(paths)
    except FileNotFoundError as error:
        raise CliError(f"{error}: no such file or folder", USAGE) from None
    if not files:
        raise CliError("no *.json file in the folders named", USAGE)
    return plan_import(load_files(files), tenant)


async def _run(plan: "Plan", timeout_seconds: float, inbox_prefix: str | None, *, as_json: bool) -> "Report":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tools.cli.servers import nats_client
    from tools.fhir_import.importing import run_plan

    columns = (
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
    )
    async with nats_client(inbox_prefix=inbox_prefix) as connection:
        with Progress(*columns, console=console(stderr=True), disable=as_json, transient=True) as progress:
            task, began = progress.add_task("", total=len(plan.steps), rate="0"), time.perf_counter()

            def done(_: object) -> None:
                rate = (progress.tasks[0].completed + 1) / max(time.perf_counter() - began, 0.001)
                progress.update(task, advance=1, rate=f"{rate:,.0f}")

            return await run_plan(connection, plan, timeout_seconds, done)


def _write(report: "Report", path: Path) -> None:
    import orjson

    try:
        path.write_bytes(orjson.dumps(report.as_data(), option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise CliError(f"--report {path}: {error.strerror}", USAGE) from None
