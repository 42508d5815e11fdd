"""`billing dlq`: dead letters by reason, and the three ways out: again, edited and again, or discarded with a reason."""

from typing import TYPE_CHECKING, Annotated

import typer

from tools.cli.errors import USAGE, CliError
from tools.cli.output import Json

if TYPE_CHECKING:
    from tools.replay.dead_letters import Filter

app = typer.Typer(help="Dead letters: what failed for good, with its body.", no_args_is_help=True)

Code = Annotated[list[str] | None, typer.Option("--code", help="Letters of that rejection code; may be repeated.")]
Group = Annotated[str | None, typer.Option("--group", help="Letters of one consumer group.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Letters of one tenant; _ for those that name none.")]
Positions = Annotated[list[int] | None, typer.Argument(help="Letters by number; those of the filters without.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why: kept with the letter and in the audit event.")]
Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without, nothing is changed.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
AllowMoney = Annotated[bool, typer.Option("--allow-money", help="Money-moving commands too.")]


@app.command("list")
def list_(
    code: Code = None,
    group: Group = None,
    tenant: Tenant = None,
    every: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    letters: Annotated[bool, typer.Option("--letters", help="One line per letter.")] = False,
    as_json: Json = False,
) -> None:
    """Open dead letters, grouped by reason; --letters has one line for each.

    Examples:

    billing dlq list

    billing dlq list --code malformed_command --letters

    Exit codes: 0 shown (also when there is none), 3 NATS is away.
    """
    from tools.cli import dlq_act
    from tools.cli.replay_session import in_loop

    wanted = _filter(None, code, group, tenant, resolved=every)
    raise typer.Exit(in_loop(dlq_act.list_letters(wanted, one_by_one=letters, as_json=as_json)))


@app.command()
def show(position: Annotated[int, typer.Argument(help="The letter's number.")], as_json: Json = False) -> None:
    """One letter: why it died, where it was, its headers and its body.

    Example: billing dlq show 17

    Exit codes: 0 shown, 2 no such letter, 3 NATS is away.
    """
    from tools.cli import dlq_act
    from tools.cli.replay_session import in_loop

    raise typer.Exit(in_loop(dlq_act.show_letters(position, as_json=as_json)))


@app.command()
def retry(
    positions: Positions = None,
    code: Code = None,
    group: Group = None,
    tenant: Tenant = None,
    body: Annotated[
        str | None, typer.Option("--body", metavar="FILE|-|JSON", help="Send this body instead; one letter only.")
    ] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Open the body in $EDITOR first; one letter only.")] = False,
    execute: Execute = False,
    reason: Reason = None,
    yes: Yes = False,
    allow_money: AllowMoney = False,
    rate: Annotated[float | None, typer.Option("--rate", min=0.1, help="At most so many letters a second.")] = None,
    as_json: Json = False,
) -> None:
    """Send letters to their consumer group again, under their own command ids. Dry run unless --execute.

    An edited body goes out as a command of its own time, so that the command stream stays the whole history.

    Examples:

    billing dlq retry --code command_failed --execute --reason "fixed in 1.8.2"

    billing dlq retry 17 --edit --execute --allow-money --reason "wrong currency, confirmed by ward"

    Exit codes: 0 done, or shown; 1 a letter failed again; 2 refused or wrong arguments; 3 NATS is away.
    """
    from tools.cli import dlq_act
    from tools.cli.replay_session import Asked, in_loop

    wanted = _filter(positions, code, group, tenant)
    if (body is not None or edit) and len(wanted.positions) != 1:
        raise CliError("--body and --edit are for one letter: name it by its number", USAGE)
    asked = Asked(execute, reason, yes, as_json, allow_money=allow_money, rate=rate)
    if body is not None or edit:
        raise typer.Exit(in_loop(dlq_act.edited(wanted, body, asked)))
    raise typer.Exit(in_loop(dlq_act.retry_letters(wanted, asked)))


@app.command()
def discard(
    positions: Positions = None,
    code: Code = None,
    group: Group = None,
    tenant: Tenant = None,
    execute: Execute = False,
    reason: Reason = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Mark letters as done with. They stay in the stream, with who said so and why, until it lets go of them (90 days).

    Example: billing dlq discard 17 18 --execute --reason "test messages of the go-live"

    Exit codes: 0 done, or shown; 2 no such letter or no reason; 3 NATS is away.
    """
    from tools.cli import dlq_act
    from tools.cli.replay_session import Asked, in_loop

    asked = Asked(execute, reason, yes, as_json)
    raise typer.Exit(in_loop(dlq_act.discard_letters(_filter(positions, code, group, tenant), asked)))


def _filter(
    positions: list[int] | None,
    code: list[str] | None,
    group: str | None,
    tenant: str | None,
    *,
    resolved: bool = False,
) -> "Filter":
    from schemas.codes import Code as RejectionCode
    from tools.replay.dead_letters import Filter
    from tools.replay.errors import ReplayError

    if unknown := [each for each in code or [] if each not in list(RejectionCode)]:
        raise CliError(f"--code {unknown[0]}: there is no such code; `billing dlq list` shows those there are", USAGE)
    wanted = Filter(tuple(positions or ()), tuple(code or ()), group, tenant, resolved)
    try:
        wanted.selection()
    except ReplayError as error:
        raise CliError(str(error), USAGE) from None
    return wanted
