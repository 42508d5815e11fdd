"""The table of commands. What is imported here is imported by `billing --help`: keep it light."""

from typing import Annotated

import typer

from tools.bench import command as bench
from tools.cli import (
    canary,
    demo,
    dev,
    dlq,
    docs,
    gl,
    import_fhir,
    jobs,
    ledger,
    migrate,
    publish,
    queues,
    replay,
    roles,
    statements,
)

HELP = """Billing mesh: commands in on NATS, double-entry books in PostgreSQL, events out on NATS.

Exit codes: 0 done; 1 ran, and the answer is no; 2 wrong arguments or settings; 3 a server is away.
"""

app = typer.Typer(name="billing", help=HELP, invoke_without_command=True, pretty_exceptions_enable=False)


def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Without a command: the worker where WORKER=true, this help otherwise."""
    if version:
        from importlib.metadata import version as installed

        print(installed("billing-mesh"))
        raise typer.Exit
    if context.invoked_subcommand is not None:
        return
    if roles.wants_worker():
        roles.worker()
    print(context.get_help())


app.callback(invoke_without_command=True, help=HELP)(start)
app.command(rich_help_panel="Roles")(roles.api)
app.command(rich_help_panel="Roles")(roles.handlers)
app.command(rich_help_panel="Roles")(roles.worker)
app.command(rich_help_panel="Roles")(migrate.migrate)
app.add_typer(dev.app, name="dev", rich_help_panel="On this machine")
app.command(rich_help_panel="Clients")(publish.publish)
app.command(rich_help_panel="Clients")(publish.query)
app.command(rich_help_panel="Operations")(queues.queues)
app.add_typer(ledger.app, name="ledger", rich_help_panel="Operations")
app.add_typer(statements.app, name="statements", rich_help_panel="Operations")
app.add_typer(gl.app, name="gl", rich_help_panel="Operations")
app.add_typer(jobs.app, name="jobs", rich_help_panel="Operations")
app.add_typer(import_fhir.app, name="import", rich_help_panel="Operations")
app.add_typer(replay.app, name="replay", rich_help_panel="Operations")
app.add_typer(dlq.app, name="dlq", rich_help_panel="Operations")
app.add_typer(canary.app, name="canary", rich_help_panel="Operations")
app.command(rich_help_panel="On this machine")(demo.demo)
app.command(rich_help_panel="On this machine")(docs.docs)
app.command(rich_help_panel="On this machine")(bench.bench)
