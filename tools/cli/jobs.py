"""`billing jobs`: slow work that was asked for: how far it is, and what to do about it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.cli.errors import FAILED, OK
from tools.cli.output import Json, console, note, print_json, print_table

if TYPE_CHECKING:
    from tools.cli.mesh_client import MeshClient

app = typer.Typer(help="Statement runs and GL exports as jobs.", no_args_is_help=True)

Tenant = Annotated[str, typer.Argument(help="The tenant's id.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, a UUID.")]

POLL_SECONDS = 0.5
ENDED = ("succeeded", "failed", "cancelled")
_COLUMNS = ("job", "kind", "status", "done#", "failed#", "total#", "asked at", "error")


@app.command(name="list")
def listed(
    tenant: Tenant,
    kind: Annotated[str | None, typer.Option(help="statements or gl_export.")] = None,
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: Json = False,
) -> None:
    """The newest jobs. Exit codes: 0 shown, 1 refused, 3 nobody answers."""
    page = run(tenant, lambda client: client.ask("job.list", kind=kind, status=status, limit=limit))
    if as_json:
        print_json(page)
    else:
        print_table(_COLUMNS, (_cells(job) for job in page["items"]))


@app.command()
def show(tenant: Tenant, job_id: JobId, as_json: Json = False) -> None:
    """One job: its counts, its error, what it was asked. Exit codes: 0 shown, 1 no such job, 3 nobody answers."""
    print_job(run(tenant, lambda client: client.ask("job.get", job_id=job_id)), as_json=as_json)


@app.command()
def cancel(
    tenant: Tenant,
    job_id: JobId,
    reason: Annotated[str, typer.Option(help="Kept with the command.")] = "cancelled by an operator",
    as_json: Json = False,
) -> None:
    """End a job: what is done stays, what is not begun is left. Exit codes: 0 cancelled, 1 refused, 3 nobody answers."""
    body = {"job_id": job_id, "reason": reason}
    _print_result(run(tenant, lambda client: client.send("job.cancel", body)), as_json=as_json)


@app.command()
def retry(
    tenant: Tenant,
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    as_json: Json = False,
) -> None:
    """Go on with a job that failed or was cancelled; what it has recorded is not made again.

    Exit codes: 0 queued again (with --wait: succeeded), 1 refused or failed again, 3 nobody answers.
    """

    async def again(client: "MeshClient") -> dict[str, Any]:
        result = await client.send("job.retry", {"job_id": job_id})
        return await follow(client, job_id, quietly=as_json) if wait else result

    finish(run(tenant, again), waited=wait, as_json=as_json)


def run(tenant: str, work: "Callable[[MeshClient], Coroutine[Any, Any, dict[str, Any]]]") -> dict[str, Any]:
    """Runs `work` with a client of the tenant."""
    from tools.cli.mesh_client import MeshClient
    from tools.cli.servers import quiet

    quiet()

    async def connected() -> dict[str, Any]:
        async with MeshClient.of(tenant) as client:
            return await work(client)

    return asyncio.run(connected())


async def follow(client: "MeshClient", job_id: str, *, quietly: bool) -> dict[str, Any]:
    """The job once it has ended, with a progress bar on stderr until then."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True), disable=quietly) as progress:
        task = progress.add_task("queued", total=None)
        while True:
            job = await client.ask("job.get", job_id=job_id)
            recorded = job["done"] + job["failed"]
            progress.update(task, description=job["status"], total=job["total"] or None, completed=recorded)
            if job["status"] in ENDED:
                return job
            await asyncio.sleep(POLL_SECONDS)


def finish(job: dict[str, Any], *, waited: bool, as_json: bool) -> None:
    """Prints the job and ends with the exit code that says whether it went well."""
    if not waited:
        _print_result(job, as_json=as_json)
        return
    print_job(job, as_json=as_json)
    raise typer.Exit(OK if job["status"] == "succeeded" and not job["failed"] else FAILED)


def print_job(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    print_table(_COLUMNS, [_cells(job)])
    if job["error_detail"]:
        note(f"{job['error_code']}: {job['error_detail']}")


def _print_result(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        print(f"{result['job_id']}  {result['kind']}  {result['status']}")


def _cells(job: dict[str, Any]) -> tuple[Any, ...]:
    counts = (f"{job[key]:,}" for key in ("done", "failed", "total"))
    return (job["job_id"], job["kind"], job["status"], *counts, job["recorded_at"][:19], job["error_code"] or "")
