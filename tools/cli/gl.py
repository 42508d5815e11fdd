"""`billing gl`: the ledger in the customer's own account codes, for the accountants' system."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.cli.errors import FAILED, OK, USAGE, CliError
from tools.cli.output import Json, console, note, print_json, print_table

if TYPE_CHECKING:
    from tools.cli.mesh_client import MeshClient

app = typer.Typer(help="GL export: account codes, exports, what was exported.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(help="The tenant's id.")]
_POLL_SECONDS = 0.5
_ENDED = ("succeeded", "failed", "cancelled")


@app.command()
def export(
    tenant: Tenant,
    period: Annotated[
        str | None, typer.Option(help="A month of the tenant's fiscal calendar: 2026-10, 1405-08.")
    ] = None,
    first: Annotated[int | None, typer.Option("--from", min=1, help="First ledger sequence.")] = None,
    last: Annotated[int | None, typer.Option("--to", min=1, help="Last ledger sequence.")] = None,
    form: Annotated[str, typer.Option(help="detail: each entry; summary: a sum per account.")] = "detail",
    formats: Annotated[list[str] | None, typer.Option("--format", help="csv, jsonl, parquet; may be repeated.")] = None,
    close_period: Annotated[bool, typer.Option("--close-period", help="Close the period with the request.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Repeat an export that was made before.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is written.")] = True,
    as_json: Json = False,
) -> None:
    """Export the ledger of a closed period, or of a range of ledger sequence numbers, to the object store.

    Examples:

    billing gl export kabul-central --period 1405-08 --close-period --format csv --format parquet

    billing gl export kabul-central --from 1 --to 5000 --form summary

    Exit codes: 0 written (with --no-wait: asked for), 1 refused or failed, 2 wrong arguments, 3 a server is away.
    """
    from pydantic import ValidationError

    from schemas.gl import ExportGl
    from tools.cli.servers import quiet

    quiet()
    given: dict[str, Any] = {
        "period": period,
        "first_sequence": first,
        "last_sequence": last,
        "form": form,
        "formats": tuple(formats or ("csv",)),
        "close_period": close_period,
        "again": again,
    }
    try:
        body = ExportGl.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'options'}: {each['msg']}" for each in error.errors()
        )
        raise CliError(problems, USAGE) from None
    raise typer.Exit(
        asyncio.run(_export(tenant, body.model_dump(mode="json", exclude_none=True), wait=wait, as_json=as_json))
    )


async def _export(tenant: str, body: dict[str, Any], *, wait: bool, as_json: bool) -> int:
    from tools.cli.mesh_client import MeshClient

    async with MeshClient.of(tenant) as mesh:
        job = await mesh.send("gl.export", body)
        if not wait:
            if as_json:
                print_json(job)
            else:
                note(f"job {job['job_id']} is {job['status']}; `billing gl show {tenant} {job['job_id']}`")
            return OK
        job = await _ended(mesh, str(job["job_id"]))
        if job["status"] != "succeeded":
            if as_json:
                print_json(job)
            else:
                note(
                    f"job {job['job_id']} {job['status']}: {job['error_code'] or ''} {job['error_detail'] or ''}".rstrip()
                )
            return FAILED
        written = await mesh.ask("gl.get", job_id=job["job_id"])
    if as_json:
        print_json(written)
    else:
        _print(written)
    return OK


async def _ended(mesh: "MeshClient", job_id: str) -> dict[str, Any]:
    """The job once it has ended. An interrupt leaves it running: it is the worker's."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"GL export {job_id}: queued", total=None)
        while True:
            job = await mesh.ask("job.get", job_id=job_id)
            progress.update(task, description=f"GL export {job_id}: {job['status']}")
            if job["status"] in _ENDED:
                return job
            await asyncio.sleep(_POLL_SECONDS)


@app.command("map")
def map_accounts(
    tenant: Tenant,
    mappings: Annotated[
        list[str] | None, typer.Argument(metavar="[LEDGER=GL[:NAME]]…", help='For example 1000=10-100:"Cash in hand".')
    ] = None,
    file: Annotated[typer.FileText | None, typer.Option(help="CSV without header: ledger code, GL code, name.")] = None,
    as_json: Json = False,
) -> None:
    """Set the customer's codes for ledger accounts; those not named stay as they are.

    Example: billing gl map kabul-central 1000=10-100:Cash 1100=12-000:Receivables

    Exit codes: 0 set, 1 refused, 2 wrong arguments, 3 a server is away.
    """
    import csv

    from tools.cli.servers import quiet

    quiet()
    rows = [_mapping(text) for text in mappings or ()]
    if file is not None:
        for number, row in enumerate(csv.reader(file), 1):
            if len(row) != 3:
                raise CliError(f"line {number}: expected ledger code, GL code, name", USAGE)
            rows.append(dict(zip(("ledger_code", "gl_code", "gl_name"), row, strict=True)))
    if not rows:
        raise CliError("nothing to map: name accounts, or give --file", USAGE)
    result = asyncio.run(_map(tenant, rows))
    if as_json:
        print_json(result)
    else:
        note(f"{result['mapped']} ledger accounts mapped")


def _mapping(text: str) -> dict[str, str]:
    ledger_code, separator, rest = text.partition("=")
    gl_code, _, name = rest.partition(":")
    if not separator or not gl_code:
        raise CliError(f"{text!r}: expected LEDGER=GL or LEDGER=GL:NAME", USAGE)
    return {"ledger_code": ledger_code, "gl_code": gl_code, "gl_name": name or gl_code}


async def _map(tenant: str, rows: list[dict[str, str]]) -> dict[str, Any]:
    from tools.cli.mesh_client import MeshClient

    async with MeshClient.of(tenant) as mesh:
        return await mesh.send("gl.map", {"mappings": rows})


@app.command()
def show(
    tenant: Tenant,
    job_id: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One export; without, the latest ones.")] = None,
    period: Annotated[str | None, typer.Option(help="Only exports of this period.")] = None,
    as_json: Json = False,
) -> None:
    """Show what was exported: files, totals, manifest. An export that is not written yet shows as its job.

    Exit codes: 0 shown, 1 no such export, 2 wrong arguments, 3 a server is away.
    """
    from tools.cli.servers import quiet

    quiet()
    found = asyncio.run(_found(tenant, job_id, period))
    if as_json:
        print_json(found)
    elif "items" in found:
        columns = ("job", "period", "form", "entries#", "from#", "to#", "manifest")
        names = ("job_id", "period", "form", "transfers", "first_sequence", "last_sequence", "manifest_key")
        print_table(columns, [[each[name] or "" for name in names] for each in found["items"]])
    elif "files" in found:
        _print(found)
    else:
        note(
            f"job {found['job_id']} is {found['status']} {found['error_code'] or ''} {found['error_detail'] or ''}".rstrip()
        )


async def _found(tenant: str, job_id: str | None, period: str | None) -> dict[str, Any]:
    from tools.cli.mesh_client import MeshClient

    async with MeshClient.of(tenant) as mesh:
        if job_id is None:
            return await mesh.ask("gl.list", period=period)
        job = await mesh.ask("job.get", job_id=job_id)
        return await mesh.ask("gl.get", job_id=job_id) if job["status"] == "succeeded" else job


def _print(found: dict[str, Any]) -> None:
    what = found["period"] or f"{found['first_sequence']}-{found['last_sequence']}"
    print_table(
        ("file", "lines#", "bytes#", "sha256"),
        [[file["key"], file["rows"], file["bytes"], file["sha256"]] for file in found["files"]],
        title=f"GL export of {what}, {found['form']}: {found['transfers']} entries, job {found['job_id']}",
    )
    print_table(
        ("currency", "debits, minor units#", "credits#"),
        [[total["currency"], total["debits_minor"], total["credits_minor"]] for total in found["totals"]],
    )
    note(f"manifest {found['manifest_key']} sha256 {found['manifest_sha256']}")
