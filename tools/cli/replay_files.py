"""`billing replay export` and `import`: messages to a file and back."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tools.cli.errors import OK, USAGE
from tools.cli.output import console, note, print_json

if TYPE_CHECKING:
    from adapters.settings import RuntimeSettings
    from tools.cli.replay_session import Asked
    from tools.replay.archive import Archive
    from tools.replay.checkpoint import Checkpoint, Options
    from tools.replay.plan import Plan
    from tools.replay.run import Run
    from tools.replay.selection import Selection


async def export_file(file: Path, selection: "Selection", reason: str | None, *, as_json: bool) -> int:
    from adapters.settings import RuntimeSettings, load
    from tools.cli.replay_session import checked_reason, connected
    from tools.replay import archive, audit
    from tools.replay.errors import ReplayError
    from tools.replay.plan import selected
    from tools.replay.source import resolve

    runtime = load(RuntimeSettings)
    told = {"reason": checked_reason(reason), "by": audit.operator(), "environment": runtime.environment}
    if await asyncio.to_thread(file.exists):
        raise ReplayError(f"{file} exists already; nothing was written")
    async with connected() as client:
        bounds = await resolve(client, selection)
        story = {
            "stream": selection.stream,
            "selection": selection.as_json(),
            "first": bounds.first,
            "last": bounds.last,
        }
        await audit.record(client, "replay.exported", selection.tenant, told | story | {"file": file.name})
        with console(stderr=True).status(f"writing {file}"):
            count = await archive.write(
                file, selection.stream, runtime.region, runtime.environment, selected(client, selection, bounds)
            )
    for remark in bounds.remarks:
        note(remark)
    size = (await asyncio.to_thread(file.stat)).st_size
    if as_json:
        print_json(story | {"file": str(file), "count": count, "bytes": size, "remarks": bounds.remarks})
    else:
        print(f"{count:,} messages of {selection.stream} in {file} ({size:,} bytes)")
    return OK


async def import_file(file: Path, options: "Options", asked: "Asked") -> int:
    from tools.cli.replay_act import new_run
    from tools.cli.replay_session import checked_environment, checked_reason, confirm, connected, execute, show_plan
    from tools.replay import archive
    from tools.replay import checkpoint as checkpoints
    from tools.replay.plan import refuse_money

    with console(stderr=True).status(f"reading {file}"):
        found = archive.inspect(file)
    runtime = await _admitted(found)
    plan = _plan(found, options.max_count)
    if not asked.execute or not plan.count:
        if asked.as_json:
            print_json(plan.as_json() | {"executed": False, "from_region": found.region, "from": found.environment})
        else:
            show_plan(plan, dry_run=True)
            note("dry run: nothing was sent; add --execute and --reason" if plan.count else "nothing to send")
        return OK if plan.count else USAGE
    reason = checked_reason(asked.reason)
    checked_environment(runtime.environment)
    refuse_money(plan, allow_money=options.allow_money)
    if not asked.as_json:
        show_plan(plan, dry_run=False)
    confirm(f"Send {plan.count:,} commands in {runtime.environment}?", plan.count, yes=asked.yes)
    about = {"file": file.name, "sha256": found.digest, "from": found.environment, "from_region": found.region}
    async with connected() as client:
        run = await checkpoints.load(client, asked.replay_id) if asked.replay_id else None
        run = run or new_run(asked, runtime, "import", about, reason, options)(1, found.count + 1, plan.count)
        _, code = await execute(
            client, run, sorted(plan.groups), tenant=None, as_json=asked.as_json, make=source_of(run, file)
        )
        return code


def source_of(run: "Checkpoint", file: Path | None) -> "Callable[..., Run]":
    """A run that reads the file, which must be the one it began with."""
    from tools.replay import archive
    from tools.replay.errors import ReplayError
    from tools.replay.run import Run

    if file is None:
        raise ReplayError(f"run {run.replay_id} is an import: name its file with --file")
    found = archive.inspect(file)
    if found.digest != run.selection.get("sha256"):
        raise ReplayError(f"{file} is not the file that run {run.replay_id} began with")
    return functools.partial(Run, source=lambda _client, at: archive.batches(found, at.following))


async def _admitted(found: "Archive") -> "RuntimeSettings":
    """Raises ReplayError unless every tenant of the file may be here."""
    from adapters.settings import RuntimeSettings, load
    from handlers.neighbours import neighbours
    from tools.replay import residency

    runtime = load(RuntimeSettings)
    directory = neighbours(runtime).directory
    await residency.check(directory, runtime.region, found.tenants)
    return runtime


def _plan(found: "Archive", max_count: int | None) -> "Plan":
    from tools.replay import archive
    from tools.replay.messages import why_not
    from tools.replay.plan import Plan
    from tools.replay.source import Range

    plan = Plan(Range(1, found.count))
    for message in archive.messages(found):
        if reason := why_not(message):
            plan.skipped[reason] += 1
        elif max_count is not None and plan.count >= max_count:
            plan.limited = True
            break
        else:
            plan.add(message)
    return plan
