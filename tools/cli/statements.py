"""`billing statements`: ask for the statements of a period, and look at them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.cli import jobs
from tools.cli.jobs import Tenant
from tools.cli.output import Json, print_json, print_table

if TYPE_CHECKING:
    from tools.cli.mesh_client import MeshClient

app = typer.Typer(help="Statements of account.", no_args_is_help=True)

_COLUMNS = ("statement", "account", "party", "period", "locale", "status", "closing#", "due#", "error")


@app.command()
def run(
    tenant: Tenant,
    period: Annotated[str, typer.Argument(help="YYYY-MM in the tenant's fiscal calendar: 2026-11 or 1405-08.")],
    account: Annotated[list[str] | None, typer.Option(help="Only these accounts; may be repeated.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run to its end.")] = False,
    as_json: Json = False,
) -> None:
    """Render the statements of a period: of every account with activity or a balance, or of those named.

    Each run is a new one with statements of its own. To go on with one that failed: billing jobs retry.

    Example: billing statements run kabul-central 1405-08 --wait

    Exit codes: 0 queued (with --wait: every statement was made), 1 refused or not all made, 3 nobody answers.
    """

    async def ask(client: "MeshClient") -> dict[str, Any]:
        body: dict[str, Any] = {"period": period} | ({"account_ids": account} if account else {})
        queued = await client.send("statement.run", body)
        return await jobs.follow(client, queued["job_id"], quietly=as_json) if wait else queued

    jobs.finish(jobs.run(tenant, ask), waited=wait, as_json=as_json)


@app.command()
def show(
    tenant: Tenant,
    statement: Annotated[str | None, typer.Argument(help="A statement's id; its links are shown, too.")] = None,
    job: Annotated[str | None, typer.Option(help="The statements of a run.")] = None,
    account: Annotated[str | None, typer.Option(help="The statements of an account.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    as_json: Json = False,
) -> None:
    """One statement, or the newest of a run or an account. Exit codes: 0 shown, 1 no such statement, 3 nobody answers."""
    if statement is not None:
        found = jobs.run(tenant, lambda client: client.ask("statement.get", statement_id=statement))
        _print([found], found, as_json=as_json)
        for link in (found["pdf_url"], found["json_url"]) if not as_json else ():
            print(link or "no link: the handlers have no object store, or the statement was not made")
        return
    page = jobs.run(tenant, lambda client: client.ask("statement.list", job_id=job, account_id=account, limit=limit))
    _print(page["items"], page, as_json=as_json)


def _print(items: list[dict[str, Any]], whole: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(whole)
        return
    print_table(_COLUMNS, (_cells(item) for item in items))


def _cells(item: dict[str, Any]) -> tuple[Any, ...]:
    names = (item[key] for key in ("statement_id", "account_id", "party_id", "period", "locale", "status"))
    amounts = (f"{item[key]:,} {item['currency']}" for key in ("closing_minor", "due_minor"))
    return (*names, *amounts, item["error_code"] or "")
