"""`billing dev`: the whole service on this machine, on real embedded servers, with sandbox tokens and three tenants."""

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from tools.cli.errors import FAILED, UNAVAILABLE, USAGE, CliError
from tools.cli.output import Json, console, note, print_json, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.stack.mesh import Mesh

app = typer.Typer(help="The whole service on this machine.", no_args_is_help=True)

Name = Annotated[str, typer.Option(help="Of the stack: its data is kept in .stack/NAME.")]

TENANTS = (
    {
        "tenant_id": "kabul-central",
        "name": "Kabul Central Hospital",
        "country_profile": "AFG",
        "time_zone": "Asia/Kabul",
    },
    {
        "tenant_id": "dubai-marina",
        "name": "Dubai Marina Clinic",
        "country_profile": "ARE",
        "cross_region_opt_in": True,  # a deployment of another country: residency refuses it otherwise
        "time_zone": "Asia/Dubai",
    },
    {"tenant_id": "herat-clinic", "name": "Herat Clinic", "country_profile": "AFG", "time_zone": "Asia/Kabul"},
)
_WATCH_SECONDS = 0.5


class _Stop(BaseException):
    """A signal arrived. Not an Exception: nothing on the way may swallow it."""


@app.command()
def up(
    name: Name = "dev",
    objects: Annotated[bool, typer.Option("--objects", help="Start the S3 server too.")] = False,
    as_json: Json = False,
) -> None:
    """Start servers, migrate, start every role; stop it all on Ctrl-C. Data is kept for the next time.

    With --json one line is printed once everything is ready.

    Exit codes: 0 stopped by a signal, 1 a role ended by itself, 3 something did not start.
    """
    from tools.cli.dev_state import write_state
    from tools.stack import Stack
    from tools.stack.mesh import Mesh

    stack = Stack(name, objects=objects)
    if (owner := stack.owner_pid()) is not None:
        raise CliError(f"stack {name} runs already, started by pid {owner}; `billing dev down` stops it", UNAVAILABLE)
    note(f"starting stack {name} …")
    with _signals(), Mesh(stack, sandbox=True) as mesh:
        _add_tenants(mesh)
        state = write_state(mesh)
        if as_json:
            print_json({key: value for key, value in state.items() if key != "issuer"})
        else:
            _greet(mesh, state)
        _watch(mesh)


@app.command()
def down(name: Name = "dev") -> None:
    """Stop what `billing dev up` started in another terminal. Exit codes: 0 stopped or not running."""
    from tools.stack import Stack

    stopped = Stack(name).stop_owner(timeout_seconds=60)
    note(f"stack {name} stopped" if stopped else f"stack {name} does not run")


@app.command()
def status(name: Name = "dev", as_json: Json = False) -> None:
    """Which servers and roles run, where they listen, where they log. Exit codes: 0 all ready, 1 not."""
    from tools.cli.dev_state import current_status

    rows = current_status(name)
    if as_json:
        print_json({"name": name, "ready": bool(rows) and all(row["ready"] for row in rows), "processes": rows})
    elif rows:
        cells = (
            (row["name"], "ready" if row["ready"] else "not ready", row["pid"], row["url"], row["log"]) for row in rows
        )
        console().print(table(("process", "state", "pid#", "url", "log"), cells))
    else:
        note(f"stack {name} does not run; `billing dev up` starts it")
    raise typer.Exit(0 if rows and all(row["ready"] for row in rows) else FAILED)


@app.command()
def token(
    tenant: Annotated[str, typer.Argument(help="The tenant the token is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="May be repeated; all scopes without.")] = None,
    ttl_seconds: Annotated[int, typer.Option(min=1, max=86_400, help="How long it is valid.")] = 3600,
    name: Name = "dev",
) -> None:
    """Print a bearer token the running stack accepts.

    Example: curl -H "Authorization: Bearer $(billing dev token kabul-central)" …

    Exit codes: 0 printed, 2 not a tenant id, 3 the stack does not run.
    """
    from schemas.subjects import TENANT
    from tools.cli.dev_state import read_state
    from tools.sandbox.issuer import mint_with
    from tools.stack.mesh import all_scopes

    if not TENANT.fullmatch(tenant):
        raise CliError(f"not a tenant id: {tenant!r}; 1 to 64 letters, digits, _ or -", USAGE)
    print(mint_with(read_state(name)["issuer"], tenant, scope or all_scopes(), ttl_seconds))


@app.command()
def env(
    role: Annotated[
        Literal["operator", "api", "handlers", "worker", "migrate"], typer.Argument(help="Whose environment.")
    ] = "operator",
    name: Name = "dev",
) -> None:
    """Print the environment with which `billing publish`, `query`, `queues`, `ledger` reach the running stack, and
    BILLING_URL, where its HTTP shim listens.

    Example: eval "$(billing dev env)"

    Exit codes: 0 printed, 3 the stack does not run.
    """
    import shlex

    from tools.cli.dev_state import read_state

    state = read_state(name)
    for key, value in {"BILLING_URL": state["http_url"], **state["env"][role]}.items():
        print(f"export {key}={shlex.quote(value)}")


@contextmanager
def _signals() -> "Iterator[None]":
    """The first SIGINT or SIGTERM unwinds the block, which stops everything; a second one ends the process at once,
    and with it, by the kernel's hand, every server."""
    previous = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Stop:
        note("stopped")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(_number: int, _frame: Any) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    note("stopping; again to stop at once")
    raise _Stop


def _add_tenants(mesh: "Mesh") -> None:
    from schemas.tenant import TenantProfile

    known = {profile.tenant_id for profile in mesh.tenants.profiles()}
    region = mesh.env("operator")["REGION"]
    for tenant in TENANTS:
        if tenant["tenant_id"] not in known:  # the file may have been edited
            mesh.add_tenant(TenantProfile.model_validate({**tenant, "region": region}))


def _greet(mesh: "Mesh", state: dict[str, Any]) -> None:
    out = console()
    rows = [(each["name"], each["url"], each["log"]) for each in state["processes"]]
    out.print(table(("process", "url", "log"), rows))
    tenants = ", ".join(profile.tenant_id for profile in mesh.tenants.profiles())
    option = "" if state["name"] == "dev" else f" --name {state['name']}"
    out.print(
        f"tenants:   {tenants}\n"
        f"reference: {mesh.http_url}/docs\n"
        f"services:  {mesh.sandbox.control.admin_url}/services (tools/sandbox/admin.py says how to make them fail)\n"
        f"token:     billing dev token kabul-central{option}\n"
        f'settings:  eval "$(billing dev env{option})"\n'
        "publish:   billing publish billing.v1.cmd.kabul-central.account.open account.json --wait\n"
        "watch:     billing queues --watch\n"
        "verify:    billing ledger verify\n"
        "Ctrl-C stops all.",
        markup=False,
        soft_wrap=True,
    )


def _watch(mesh: "Mesh") -> NoReturn:
    while True:
        time.sleep(_WATCH_SECONDS)
        for process in mesh:
            if not process.is_running():
                raise CliError(f"{process.name} ended by itself; see {process.log_path}", FAILED)
