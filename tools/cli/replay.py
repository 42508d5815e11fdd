"""`billing replay`: messages of a stream sent again, safely (docs/replay.md)."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.cli.errors import USAGE, CliError
from tools.cli.output import Json

if TYPE_CHECKING:
    from tools.replay.checkpoint import Options
    from tools.replay.selection import Selection

app = typer.Typer(
    help="Send messages of a stream again: dry run unless --execute. Docs: docs/replay.md.", no_args_is_help=True
)

FromSequence = Annotated[int | None, typer.Option("--from-sequence", min=1, help="First sequence of the range.")]
ToSequence = Annotated[int | None, typer.Option("--to-sequence", min=1, help="Last sequence of the range.")]
FromTime = Annotated[str | None, typer.Option("--from-time", metavar="ISO", help="Stored at that time or later.")]
ToTime = Annotated[str | None, typer.Option("--to-time", metavar="ISO", help="Stored at that time or earlier.")]
Subject = Annotated[
    list[str] | None, typer.Option("--subject", help="Subject filter, * and > allowed; may be repeated.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="One tenant's messages only.")]
Group = Annotated[str | None, typer.Option("--group", help="One consumer group's messages only.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="A command id; may be repeated; @FILE has one per line.")]
Header = Annotated[
    list[str] | None, typer.Option("--header", metavar="PREDICATE", help="On a header: Billing-Actor=nurse-7")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="PREDICATE", help="On the body: method=cash, amount.amount_minor>=100"),
]
Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without, nothing is changed.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why: kept in the audit event.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
AllowMoney = Annotated[bool, typer.Option("--allow-money", help="Money-moving commands too.")]
Rate = Annotated[float | None, typer.Option("--rate", min=0.1, help="At most so many messages a second.")]
Pace = Annotated[float | None, typer.Option("--pace", min=0.001, help="As it once happened, N times as fast.")]
MaxCount = Annotated[int | None, typer.Option("--max-count", min=1, help="At most so many messages.")]
MaxLag = Annotated[int, typer.Option("--max-lag", min=0, help="Stop where more live commands than that wait.")]
MaxRefused = Annotated[
    float, typer.Option("--max-refused-percent", min=0, max=100, help="Stop where more outcomes are new refusals.")
]
ReplayId = Annotated[
    str | None, typer.Option("--replay-id", help="Name the run yourself, to be able to repeat the call.")
]


@app.command()
def redeliver(
    from_sequence: FromSequence = None,
    to_sequence: ToSequence = None,
    from_time: FromTime = None,
    to_time: ToTime = None,
    subject: Subject = None,
    tenant: Tenant = None,
    group: Group = None,
    ids: Ids = None,
    header: Header = None,
    where: Where = None,
    execute: Execute = False,
    reason: Reason = None,
    yes: Yes = False,
    allow_money: AllowMoney = False,
    force_new_id: Annotated[
        bool, typer.Option("--force-new-id", help="As new commands with effects of their own; needs --allow-money too.")
    ] = False,
    rate: Rate = None,
    pace: Pace = None,
    max_count: MaxCount = None,
    max_lag: MaxLag = 10_000,
    max_refused_percent: MaxRefused = 5.0,
    replay_id: ReplayId = None,
    as_json: Json = False,
) -> None:
    """Send selected commands to their consumer groups again, under their own ids: what was applied stays as it is.

    Examples:

    billing replay redeliver --from-time 2026-03-21T06:00:00Z --to-time 2026-03-21T07:00:00Z --tenant kabul-central

    billing replay redeliver --group charges --where method=cash --execute --reason "INC-1042: index rebuilt" --yes

    Running the call again with the same --replay-id, or `billing replay resume ID`, goes on where it stopped.

    Exit codes: 0 done, or shown; 1 stopped before its end; 2 refused or wrong arguments; 3 NATS is away.
    """
    from tools.cli import replay_act
    from tools.cli.replay_session import Asked, in_loop

    selection = _selection(
        from_sequence, to_sequence, from_time, to_time, subject, tenant, group, ids=ids, header=header, where=where
    )
    options = _options(rate, pace, max_count, max_lag, max_refused_percent, allow_money=allow_money)
    asked = Asked(execute, reason, yes, as_json, replay_id, force_new_id)
    raise typer.Exit(in_loop(replay_act.redeliver(selection, options, asked)))


@app.command()
def resume(
    replay_id: Annotated[str, typer.Argument(help="The run's id; `billing replay runs` lists them.")],
    archive: Annotated[Path | None, typer.Option("--file", help="The file of an import.")] = None,
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped or killed, from any machine: every message is sent once.

    Example: billing replay resume 20260321-031502-9f3a

    Exit codes: 0 done, 1 stopped again, 2 no such run, 3 NATS is away.
    """
    from tools.cli import replay_act
    from tools.cli.replay_session import in_loop

    raise typer.Exit(in_loop(replay_act.resume(replay_id, archive, as_json=as_json)))


@app.command()
def runs(as_json: Json = False) -> None:
    """The runs of the last days, and how far each has come.

    Example: billing replay runs --json

    Exit codes: 0 shown, 3 NATS is away.
    """
    from tools.cli import replay_act
    from tools.cli.replay_session import in_loop

    raise typer.Exit(in_loop(replay_act.runs(as_json=as_json)))


@app.command()
def reset(
    group: Annotated[str, typer.Argument(help="The consumer group.")],
    from_sequence: FromSequence = None,
    from_time: FromTime = None,
    execute: Execute = False,
    reason: Reason = None,
    yes: Yes = False,
    allow_money: AllowMoney = False,
    as_json: Json = False,
) -> None:
    """Put a whole durable back: pause it, reset it, resume it. What was applied is answered from the inbox.

    Example: billing replay reset charges --from-time 2026-03-21T06:00:00Z --execute --reason "INC-1042"

    Exit codes: 0 done, or shown; 2 refused, no such group; 3 NATS is away.
    """
    from tools.cli import replay_act
    from tools.cli.replay_session import Asked, in_loop

    selection = _selection(from_sequence, None, from_time, None, None, None, group)
    asked = Asked(execute, reason, yes, as_json)
    raise typer.Exit(in_loop(replay_act.reset(selection, asked, allow_money=allow_money)))


@app.command()
def rebuild(
    tenant: Annotated[list[str] | None, typer.Option("--tenant", help="May be repeated; all without.")] = None,
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Messages from an export in place of the stream.")
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Apply the command stream to an empty database and compare it with the live one, table by table, hash by hash.

    DATABASE_URL is the live database (it is only read), REBUILD_DATABASE_URL an empty one that `billing migrate` has made. The
    live system may go on meanwhile. No worker may run on the rebuilt database: its events were sent long ago.

    Example: REBUILD_DATABASE_URL=postgresql://… billing replay rebuild --tenant kabul-central --reason "quarterly drill"

    Exit codes: 0 identical, 1 different, 2 not empty or not possible, 3 a server is away.
    """
    from tools.cli.replay_rebuild import rebuild as rebuild_all
    from tools.cli.replay_session import in_loop

    raise typer.Exit(in_loop(rebuild_all(tenant or [], archive, reason, as_json=as_json)))


@app.command("export")
def export_(
    file: Annotated[Path, typer.Argument(help="To be written: JSON Lines under zstd.")],
    stream: Annotated[str, typer.Option(help="Any stream.")] = "BILLING_COMMANDS",
    from_sequence: FromSequence = None,
    to_sequence: ToSequence = None,
    from_time: FromTime = None,
    to_time: ToTime = None,
    subject: Subject = None,
    tenant: Tenant = None,
    header: Header = None,
    where: Where = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Copy messages with their headers into a file. They are patients' data: the file is as confidential as the stream.

    Example: billing replay export march.jsonl.zst --tenant kabul-central --reason "copy for staging, DPO-77"

    Exit codes: 0 written, 2 nothing selected or no reason, 3 NATS is away.
    """
    from tools.cli.replay_files import export_file
    from tools.cli.replay_session import in_loop

    selection = _selection(
        from_sequence, to_sequence, from_time, to_time, subject, tenant, None, header=header, where=where, stream=stream
    )
    raise typer.Exit(in_loop(export_file(file, selection, reason, as_json=as_json)))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `billing replay export` wrote.")],
    execute: Execute = False,
    reason: Reason = None,
    yes: Yes = False,
    allow_money: AllowMoney = False,
    rate: Rate = None,
    max_count: MaxCount = None,
    max_lag: MaxLag = 10_000,
    max_refused_percent: MaxRefused = 5.0,
    replay_id: ReplayId = None,
    as_json: Json = False,
) -> None:
    """Send the commands of a file as commands of this environment, under their own ids, recorded now.

    Every tenant in it has to be admitted to this region (REGION) by the tenant directory; otherwise nothing is sent.

    Example: billing replay import march.jsonl.zst --execute --allow-money --reason "load test"

    Exit codes: 0 done, or shown; 1 stopped before its end; 2 not a whole export, or refused; 3 NATS is away.
    """
    from tools.cli.replay_files import import_file
    from tools.cli.replay_session import Asked, in_loop

    options = _options(rate, None, max_count, max_lag, max_refused_percent, allow_money=allow_money)
    asked = Asked(execute, reason, yes, as_json, replay_id)
    raise typer.Exit(in_loop(import_file(file, options, asked)))


def _options(
    rate: float | None,
    pace: float | None,
    max_count: int | None,
    max_lag: int,
    max_refused_percent: float,
    *,
    allow_money: bool,
) -> "Options":
    from tools.replay.checkpoint import Options

    if rate is not None and pace is not None:
        raise CliError("--rate and --pace: give one", USAGE)
    return Options(rate, pace, max_count, max_lag, max_refused_percent, allow_money)


def _selection(
    from_sequence: int | None,
    to_sequence: int | None,
    from_time: str | None,
    to_time: str | None,
    subject: list[str] | None,
    tenant: str | None,
    group: str | None,
    *,
    ids: list[str] | None = None,
    header: list[str] | None = None,
    where: list[str] | None = None,
    stream: str = "BILLING_COMMANDS",
) -> "Selection":
    from tools.replay.errors import ReplayError
    from tools.replay.selection import Selection

    try:
        return Selection(
            stream=stream,
            from_sequence=from_sequence,
            to_sequence=to_sequence,
            from_time=_moment("--from-time", from_time),
            to_time=_moment("--to-time", to_time),
            subjects=tuple(subject or ()),
            tenant=tenant,
            group=group,
            ids=_ids(ids or []),
            header_predicates=tuple(header or ()),
            body_predicates=tuple(where or ()),
        )
    except ReplayError as error:
        raise CliError(str(error), USAGE) from None


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"{option} {text!r}: not an ISO 8601 time such as 2026-03-21T06:00:00Z", USAGE) from None
    if moment.tzinfo is None:
        raise CliError(f"{option} {text}: say which time zone: {text}Z, or {text}+04:30", USAGE)
    return moment


def _ids(given: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    for each in given:
        if not each.startswith("@"):
            found.append(each)
            continue
        try:
            found += Path(each[1:]).read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"--id {each}: {error}", USAGE) from None
    return tuple(dict.fromkeys(found))
