"""python -m tools.soak [--minutes 30] [--rate N] [--tenants 10] [--output docs]: a mesh under half of its maximum rate.

Exit codes: 0 every limit holds, 1 one is broken (named), 3 the mesh did not start or a process of it is gone, 130 Ctrl-C.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import uvloop
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tools.bench.observe import BenchError
from tools.bench.summary import environment
from tools.cli.output import console, note, print_table
from tools.soak import report
from tools.soak.run import Plan, Seen, document, soak
from tools.soak.verdicts import FEWEST_SAMPLES, Verdict, judge
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.process import StackError

_INTERRUPTED = 130


def main() -> int:
    given = _arguments()
    plan = Plan(seconds=given.minutes * 60, tenants=given.tenants, per_second=given.rate)
    try:
        found = _run(plan)
    except (BenchError, StackError) as error:
        note(f"no soak: {error}")
        return 3
    except KeyboardInterrupt:
        note("stopped; nothing was written")
        return _INTERRUPTED
    verdicts = [Verdict(**each) for each in found["verdicts"]]
    print_table(report.COLUMNS, report.rows(verdicts), title=f"{found['offered_per_second']:,.0f} commands/s offered")
    if given.output is not None:
        report.write(found, given.output)
        note(f"wrote {given.output / 'soak.md'}, soak.json and pictures/{report.PICTURE}")
    broken = [each.what for each in verdicts if each.state == "BROKEN"]
    for what in broken:
        note(f"BROKEN  {what}")
    if found["gave_up"]:
        note("given up: more commands waited than come in half a minute")
    return 1 if broken or found["gave_up"] else 0


def _run(plan: Plan) -> dict[str, Any]:
    """Nothing is left running, whatever happens."""
    with _Bar(plan) as bar, Mesh(Stack(f"soak-{os.getpid()}", ephemeral=True)) as mesh:
        versions = mesh.stack.postgres.execute("SHOW server_version"), str(mesh.nats.monitor("varz")["version"])
        surroundings = environment(*versions)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(soak(mesh, plan, bar.told))
        enough = (
            len(result.recording.at_seconds) >= FEWEST_SAMPLES
        )  # else it was given up before there was anything to judge
        verdicts = [*result.facts, *(judge(result.recording) if enough else [])]
        return document(result, verdicts, surroundings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="under load [30]")
    parser.add_argument("--rate", type=int, default=None, help="commands per second [half of what is measured first]")
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--output", type=Path, default=None, help="write soak.md, soak.json and the picture there")
    return parser.parse_args()


class _Bar:
    """Progress on stderr, with what is seen at the moment."""

    def __init__(self, plan: Plan) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[seen]}"),
        )
        self._progress = Progress(*columns, console=console(stderr=True))
        self._task = self._progress.add_task("starting a mesh", total=plan.seconds, seen="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def told(self, seen: Seen) -> None:
        text = ""
        if latest := seen.latest:
            memory = " ".join(f"{name} {latest.get(f'pss_mb.{name}', 0):.0f}" for name in ("handlers", "worker", "api"))
            waiting = f"{latest.get('commands.outstanding', 0):,.0f}+{latest.get('outbox.unsent', 0):,.0f}"
            text = f"p99 {seen.p99_ms:.0f} ms  waiting {waiting}  MB: {memory}"
        self._progress.update(self._task, description=seen.stage, completed=seen.done_seconds, seen=text)


if __name__ == "__main__":
    sys.exit(main())
