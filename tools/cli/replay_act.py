"""What `billing replay` does: plan, rails, confirmation, run; resume; reset."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.cli.errors import OK, USAGE
from tools.cli.output import console, note, print_json, print_table
from tools.cli.replay_session import Asked

if TYPE_CHECKING:
    from adapters.settings import RuntimeSettings
    from tools.replay.checkpoint import Checkpoint, Options
    from tools.replay.selection import Selection


async def redeliver(selection: "Selection", options: "Options", asked: Asked) -> int:
    from tools.cli.replay_session import checked_environment, checked_reason, confirm, connected, show_plan
    from tools.cli.replay_session import execute as run_it
    from tools.replay import checkpoint as checkpoints
    from tools.replay.errors import ReplayError
    from tools.replay.plan import make_plan, refuse_money
    from tools.replay.source import resolve

    if asked.force_new_id and not (asked.execute and options.allow_money):
        raise ReplayError("--force-new-id makes new effects: it needs --execute and --allow-money too")
    runtime = runtime_settings()
    async with connected() as client:
        if asked.replay_id is not None and await checkpoints.load(client, asked.replay_id) is not None:
            return await _continue(client, asked.replay_id, None, as_json=asked.as_json)
        bounds = await resolve(client, selection)
        with console(stderr=True).status("reading headers"):
            plan = await make_plan(client, selection, bounds, max_count=options.max_count)
        if not asked.execute or not plan.count:
            _shown(plan, asked)
            return OK if plan.count else USAGE
        reason = checked_reason(asked.reason)
        checked_environment(runtime.environment)
        refuse_money(plan, allow_money=options.allow_money)
        if not asked.as_json:
            show_plan(plan, dry_run=False)
        confirm(f"Replay {plan.count:,} messages in {runtime.environment}?", plan.count, yes=asked.yes)
        run = new_run(
            asked, runtime, "new_ids" if asked.force_new_id else "redeliver", selection.as_json(), reason, options
        )
        run = run(bounds.first, bounds.last, plan.count)
        only = next(iter(plan.tenants)) if len(plan.tenants) == 1 else None
        _, code = await run_it(client, run, sorted(plan.groups), tenant=only, as_json=asked.as_json)
        return code


def new_run(
    asked: Asked, runtime: "RuntimeSettings", mode: Any, selection: dict[str, Any], reason: str, options: "Options"
) -> Any:
    """A function from first, last and total to a run that has not begun."""
    from tools.cli.replay_session import new_replay_id
    from tools.replay.audit import operator
    from tools.replay.checkpoint import Checkpoint

    def make(first: int, last: int, total: int) -> Checkpoint:
        return Checkpoint(
            replay_id=asked.replay_id or new_replay_id(),
            mode=mode,
            selection=selection,
            first=first,
            last=last,
            total=total,
            reason=reason,
            actor=operator(),
            environment=runtime.environment,
            started_at=datetime.now(UTC).isoformat(),
            following=first,
            options=options,
        )

    return make


async def resume(replay_id: str, archive: Path | None, *, as_json: bool) -> int:
    from tools.cli.replay_session import checked_environment, connected

    checked_environment(runtime_settings().environment)
    async with connected() as client:
        return await _continue(client, replay_id, archive, as_json=as_json)


async def _continue(client: Any, replay_id: str, archive: Path | None, *, as_json: bool) -> int:
    from schemas.registry import GROUPS
    from tools.cli.replay_files import source_of
    from tools.cli.replay_session import execute, stopped_again
    from tools.replay import checkpoint as checkpoints
    from tools.replay.errors import ReplayError

    run = await checkpoints.load(client, replay_id)
    if run is None:
        raise ReplayError(f"there is no run {replay_id}; `billing replay runs` lists them")
    if run.state == "done":
        _show_done(run, as_json=as_json)
        return OK
    make = source_of(run, archive) if run.mode == "import" else None
    _, code = await execute(client, stopped_again(run), tuple(GROUPS), tenant=None, as_json=as_json, make=make)
    return code


def _show_done(run: "Checkpoint", *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(run))
    else:
        note(f"run {run.replay_id} is done: {run.published:,} messages were sent; nothing was sent now")


async def runs(*, as_json: bool) -> int:
    from dataclasses import asdict

    from tools.cli.replay_session import connected
    from tools.replay import checkpoint as checkpoints

    async with connected() as client:
        found = await checkpoints.runs(client)
    if as_json:
        print_json({"runs": [asdict(run) for run in found]})
        return OK
    rows = [
        (run.replay_id, run.mode, run.state, f"{run.published:,} of {run.total:,}", run.actor, run.reason)
        for run in found
    ]
    print_table(("run", "mode", "state", "sent#", "by", "reason"), rows)
    return OK


async def reset(selection: "Selection", asked: Asked, *, allow_money: bool) -> int:
    from tools.cli.replay_session import checked_environment, checked_reason, confirm, connected
    from tools.replay import audit
    from tools.replay import reset as resets
    from tools.replay.errors import ReplayError

    environment = runtime_settings().environment
    async with connected() as client:
        plan = await resets.plan(client, selection)
        story = {
            "group": plan.group,
            "sequence": plan.sequence,
            "messages": plan.count,
            "delivered_before": plan.delivered,
        }
        for remark in plan.remarks:
            note(remark)
        if asked.execute:
            reason = checked_reason(asked.reason)
            checked_environment(environment)
            if plan.money_moving and not allow_money:
                raise ReplayError(f"{plan.group} has commands that move money; add --allow-money if that is meant")
            confirm(f"Deliver {plan.count:,} messages to {plan.group} again?", plan.count, yes=asked.yes)
            told = story | {"reason": reason, "by": audit.operator(), "environment": environment}
            await audit.record(client, "replay.reset", None, told)
            await resets.execute(client, plan)
    if asked.as_json:
        print_json(story | {"executed": asked.execute})
    else:
        done = "was reset" if asked.execute else "would be reset"
        print(
            f"{plan.group} {done} to sequence {plan.sequence:,}: {plan.count:,} messages from there on, {plan.delivered:,} "
            "of them delivered before"
        )
    return OK


def _shown(plan: Any, asked: Asked) -> None:
    from tools.cli.replay_session import show_plan

    if asked.as_json:
        print_json(plan.as_json() | {"executed": False})
        return
    show_plan(plan, dry_run=True)
    note("dry run: nothing was sent; add --execute and --reason" if plan.count else "nothing to send")


def runtime_settings() -> "RuntimeSettings":
    from adapters.settings import NatsSettings, RuntimeSettings, check, load
    from tools.replay.settings import ReplaySettings

    check(RuntimeSettings, NatsSettings, ReplaySettings)
    return load(RuntimeSettings)
