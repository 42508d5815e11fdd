"""What the acting commands of `billing replay` and `billing dlq` share: connection, rails, confirmation, progress, audit."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any

from tools.cli.errors import FAILED, OK, UNAVAILABLE, USAGE, CliError
from tools.cli.output import console, note, print_json, print_table
from tools.replay.errors import ReplayAway, ReplayError

if TYPE_CHECKING:
    from nats.aio.client import Client

    from tools.replay.checkpoint import Checkpoint
    from tools.replay.plan import Plan
    from tools.replay.run import Run


@dataclass(frozen=True)
class Asked:
    """How a command is to act."""

    execute: bool
    reason: str | None
    yes: bool
    as_json: bool
    replay_id: str | None = None
    force_new_id: bool = False
    allow_money: bool = False
    rate: float | None = None


def in_loop(coroutine: Coroutine[Any, Any, int]) -> int:
    """Runs a command with uvloop, its errors as the command line's. Returns the exit code."""
    import uvloop

    from tools.cli.servers import quiet

    quiet()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(coroutine)
    except ReplayError as error:
        raise CliError(str(error), USAGE) from None
    except ReplayAway as error:
        raise CliError(f"{error}; a run that had begun goes on with `billing replay resume`", UNAVAILABLE) from None


@asynccontextmanager
async def connected() -> "AsyncIterator[Client]":
    """NATS as NATS_URL says; messages that the client cannot decode do not silence it."""
    from adapters.nats import tolerant
    from tools.cli.servers import nats_client

    async with nats_client() as client:
        tolerant.install(client)
        yield client


def checked_environment(environment: str) -> None:
    """Raises ReplayError where this deployment is not one to replay in."""
    from adapters.settings import load
    from tools.replay.settings import ReplaySettings

    allowed = load(ReplaySettings).replay_environments
    if environment not in allowed:
        raise ReplayError(
            f"ENVIRONMENT is {environment}, and REPLAY_ENVIRONMENTS allows {', '.join(allowed) or 'none'}; whoever runs this "
            "deployment has to name it there"
        )


def checked_reason(reason: str | None) -> str:
    if reason is None or not reason.strip():
        raise ReplayError("--execute needs --reason: it is kept in the audit event")
    return reason.strip()


def confirm(question: str, count: int, *, yes: bool) -> None:
    """The count has to be typed. Raises CliError where it is not, or where there is nobody to ask."""
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError("nobody to confirm: add --yes", USAGE)
    import typer

    answer = typer.prompt(f"{question} Type {count} to go on", err=True)
    if answer.replace(",", "").strip() != str(count):
        raise CliError("not confirmed; nothing was sent", FAILED)


def new_replay_id() -> str:
    """Sorts by time, and is short enough to be read out over the phone."""
    import secrets

    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


# Terminals from here on have room for message ids beside subjects.
_WIDE = 120


def show_plan(plan: "Plan", *, dry_run: bool) -> None:
    out = console()
    headline = "would be replayed" if dry_run else "selected"
    limit = " (limited by --max-count)" if plan.limited else ""
    out.print(
        f"{plan.count:,} messages {headline}{limit}, sequences {plan.bounds.first:,} to {plan.bounds.last:,}",
        markup=False,
    )
    if plan.count:
        rows = [(subject, f"{count:,}") for subject, count in plan.by_subject.most_common(20)]
        print_table(("subject", "messages#"), rows)
        if len(plan.by_subject) > len(rows):
            out.print(f"… and {len(plan.by_subject) - len(rows):,} more subjects; --json has all")
        named = [("first", plan.first), *(("sample", each) for each in plan.sample), ("last", plan.last)]
        columns = ("", "sequence#", "recorded", "subject", "message id")
        cells = [
            (what, each.sequence, f"{each.recorded_at:%m-%d %H:%M:%S}Z", each.subject, each.message_id)
            for what, each in named
            if each is not None
        ]
        shown = len(columns) if out.width >= _WIDE else len(columns) - 1
        print_table(columns[:shown], [row[:shown] for row in cells])
        money = f"{plan.money_moving:,} move money (--allow-money)" if plan.money_moving else "none moves money"
        out.print(
            f"consumer groups: {', '.join(sorted(plan.groups))}; tenants: {len(plan.tenants):,}; {money}", markup=False
        )
    for remark in remarks(plan):
        note(remark)


def remarks(plan: "Plan") -> list[str]:
    found = list(plan.bounds.remarks)
    found += [f"{count:,} selected messages cannot be replayed: {reason}" for reason, count in plan.skipped.items()]
    if plan.missing_ids:
        found.append(f"{len(plan.missing_ids):,} ids were not found: {', '.join(plan.missing_ids[:5])}")
    return found


@contextmanager
def interruptible() -> Iterator[asyncio.Event]:
    """The first Ctrl-C (or SIGTERM) sets the event, which ends a run where it can be resumed; a second one ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        note("stopping; again to stop at once")
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def progress(total: int, already: int, *, hidden: bool) -> "Iterator[Callable[[Checkpoint], None]]":
    """A bar on stderr: sent of total, rate, time left, and what became of them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[outcomes]}"),
    )
    with Progress(*columns, console=console(stderr=True), disable=hidden, expand=True) as bar:
        task = bar.add_task("replay", total=total, rate="", outcomes="")
        began = monotonic()

        def show(run: "Checkpoint") -> None:
            rate = (run.published - already) / max(0.001, monotonic() - began)
            outcomes = f"{run.applied:,} new {run.duplicate:,} dup {run.rejected:,} rej"
            bar.update(task, completed=run.published, rate=f"{rate:,.0f}/s", outcomes=outcomes)

        yield show


async def execute(
    client: "Client",
    run: "Checkpoint",
    groups: Sequence[str],
    *,
    tenant: str | None,
    as_json: bool,
    make: "Callable[..., Run] | None" = None,
) -> "tuple[Run, int]":
    """Runs with its audit events before and after. Returns the run and the exit code: 1 where it stopped before its end."""
    from tools.replay import audit
    from tools.replay.run import Run

    verb = "started" if run.revision == 0 else "resumed"
    await audit.record(client, f"replay.{verb}", tenant, _story(run))
    began = monotonic()
    with interruptible() as stop, progress(run.total, run.published, hidden=as_json) as show:
        started = (make or Run)(client, run, groups=groups, stop=stop, progress=show)
        ended = await started.execute()
    seconds = monotonic() - began
    await audit.record(client, f"replay.{'finished' if ended.state == 'done' else 'stopped'}", tenant, _story(ended))
    sent = ended.published - run.published
    if as_json:
        print_json(_story(ended) | {"seconds": round(seconds, 3), "per_second": round(sent / seconds, 1)})
    else:
        _show_end(ended, sent, seconds)
    return started, OK if ended.state == "done" else FAILED


def _show_end(ended: "Checkpoint", sent: int, seconds: float) -> None:
    counts = (("applied", ended.applied), ("duplicate", ended.duplicate), ("rejected", ended.rejected))
    rows = [("sent", ended.published), *counts, *([("outcome not heard", ended.unheard)] if ended.unheard else [])]
    rows += [(f"  {code}", count) for code, count in sorted(ended.codes.items())]
    print_table(("run " + ended.replay_id, "messages#"), [(name, f"{count:,}") for name, count in rows])
    print(f"{ended.state}: {sent:,} messages in {seconds:.1f} s, {sent / max(0.001, seconds):,.0f} per second")
    if ended.state == "stopped":
        note(f"{ended.stopped_by}\ngo on with: billing replay resume {ended.replay_id}")


def _story(run: "Checkpoint") -> dict[str, Any]:
    from dataclasses import asdict

    from tools.replay.audit import operator

    story = asdict(run) | {"by": operator(), "at": datetime.now(UTC).isoformat()}
    story.pop("revision")
    return story


def stopped_again(run: "Checkpoint") -> "Checkpoint":
    """A run that is to go on."""
    return replace(run, state="running", stopped_by="")
