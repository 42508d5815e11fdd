"""`billing bench`: payments per second and the latency of a lone command, the mesh beside the ordinary way."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tools.cli.errors import FAILED, CliError
from tools.cli.output import Json, console, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.stack import Stack

_QUICK_PAYMENTS = 3_000


class Plan(NamedTuple):
    """How much is measured. `trial_payments`: per form of the ordinary way, when the fastest is looked for; 0 skips it."""

    payments: int = 10_000
    tenants: int = 10
    repeat: int = 3
    lone: int = 300
    trial_payments: int = 1_000


QUICK = Plan(payments=_QUICK_PAYMENTS, repeat=1, lone=200, trial_payments=0)


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: fewer payments, one run each.")] = False,
    payments: Annotated[int | None, typer.Option(min=100, help="Payments of a run [10,000; quick: 3,000].")] = None,
    tenants: Annotated[int | None, typer.Option(min=1, max=5_000, help="Tenants they spread over [10].")] = None,
    repeat: Annotated[int | None, typer.Option(min=1, help="Runs of each, interleaved [3; quick: 1].")] = None,
    output: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write benchmarks.md and benchmarks.json there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure payments per second from a pre-filled stream, beside the ordinary way, and the latency of a lone command.

    Exit codes: 0 measured; 1 a promise did not hold in a run; 3 something did not start.
    """
    from tools.bench.observe import BenchError
    from tools.bench.report import print_summary, write_report

    chosen = {"payments": payments, "tenants": tenants, "repeat": repeat}
    plan = (QUICK if quick else Plan())._replace(**{name: value for name, value in chosen.items() if value})
    try:
        document = measure(plan, progress=True)
    except BenchError as error:
        raise CliError(str(error), FAILED) from None
    if output is not None:
        write_report(document, output)
    if as_json:
        print_json(document)
    else:
        print_summary(document)


def measure(plan: Plan, *, progress: bool = False, stack: "Stack | None" = None) -> dict[str, Any]:
    """Runs the plan and returns the JSON document; on `stack` where one is given, which has to run.

    The two ways take turns, so that what else the machine does meets both. Raises BenchError and StackError.
    """
    from tools.bench import rig, summary, variants
    from tools.bench.workload import Workload

    work = Workload(plan.payments, plan.tenants)
    with _Bar(progress) as report, rig.rig(work, stack) as (running, profiles):
        environment = summary.environment(*_versions(running))
        tried = []
        best = variants.DEFAULT_ORDINARY
        if plan.trial_payments:
            trial = work._replace(payments=plan.trial_payments)
            tried = rig.fastest(running, profiles, trial, variants.ORDINARY, report(trial.payments))
            best = tried[0][0]
        runs = [
            rig.run(running, profiles, work, variant, lone=plan.lone, progress=report(work.payments))
            for _ in range(plan.repeat)
            for variant in (variants.MESH, best)
        ]
    environment["ordinary_variant"] = str(best)
    return summary.summary(work, runs, tried, environment)


def _versions(stack: "Stack") -> tuple[str, str]:
    return stack.postgres.execute("SHOW server_version"), str(stack.nats.monitor("varz")["version"])


class _Bar:
    """A progress bar on stderr, or nothing. Entered, it gives a function that makes a reporter for a total."""

    def __init__(self, shown: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console(stderr=True), disable=not shown)
        self._task = self._progress.add_task("starting servers", total=None)

    def __enter__(self) -> "Callable[[int], Callable[[str, int], None]]":
        self._progress.start()
        return self._reporter

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def _reporter(self, total: int) -> "Callable[[str, int], None]":
        return lambda label, done: self._progress.update(self._task, description=label, completed=done, total=total)
