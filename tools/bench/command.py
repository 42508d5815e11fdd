"""`billing bench`: payments per second and the latency of a lone command, the mesh beside the ordinary way."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from tools.cli.errors import FAILED, CliError
from tools.cli.output import Json, console, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.tenant import TenantProfile
    from tools.bench.sweeps import Report
    from tools.stack import Stack

_QUICK_PAYMENTS = 6_000


class Plan(NamedTuple):
    """How much is measured. `trial_payments`: per form of the ordinary way, when the fastest is looked for; 0 skips it.

    `sweep` names one of tools/bench/sweeps.py.
    """

    payments: int = 10_000
    tenants: int = 10
    repeat: int = 3
    lone: int = 300
    trial_payments: int = 600
    warm_up: int = 2_000
    sweep: Literal["FULL", "QUICK", "NOTHING"] = "FULL"


QUICK = Plan(payments=_QUICK_PAYMENTS, repeat=1, lone=200, trial_payments=0, sweep="QUICK")
# Of what the mesh is given: it takes ten times as long over each, and its rate does not depend on how many there are.
_ORDINARY_SHARE = 5


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="A few minutes: fewer payments, one run each, fewer sweeps.")
    ] = False,
    payments: Annotated[int | None, typer.Option(min=100, help="Payments of a run [10,000; quick: 6,000].")] = None,
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

    chosen: dict[str, Any] = {"payments": payments, "tenants": tenants, "repeat": repeat}
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


def measure(
    plan: Plan, *, progress: bool = False, stack: "Stack | None" = None, template: str | None = None
) -> dict[str, Any]:
    """Runs the plan and returns the JSON document; on `stack` where one is given, which has to run. `template` as in `rig`.

    The two ways take turns, so that what else the machine does meets both. Raises BenchError and StackError.
    """
    from tools.bench import rig, summary, sweeps
    from tools.bench.workload import Workload

    sweep = getattr(sweeps, plan.sweep)
    with _Bar(progress) as report, rig.started(stack) as running:
        environment = summary.environment(*_versions(running))
        with rig.rig(Workload(plan.payments, plan.tenants), running, template) as (_, profiles):
            document = _headline(plan, running, profiles, environment, report)
            most = document["end_to_end"]["payments_per_second"]
            document |= sweeps.measure(running, profiles, Workload(plan.payments, plan.tenants), sweep, most, report)
        document["tenants"] = _with_headline(sweeps.by_tenants(running, sweep, report), document, plan.tenants)
    return document | {"load_average_at_end": round(os.getloadavg()[0], 2)}


def _headline(
    plan: Plan, stack: "Stack", profiles: "list[TenantProfile]", environment: dict[str, Any], report: "Report"
) -> dict[str, Any]:
    from tools.bench import runs, summary, variants
    from tools.bench.workload import Workload

    work = Workload(plan.payments, plan.tenants)
    ordinary = work._replace(payments=max(plan.tenants, plan.payments // _ORDINARY_SHARE))
    tried = []
    best = variants.DEFAULT_ORDINARY
    if plan.trial_payments:
        trial = work._replace(payments=plan.trial_payments)
        tried = runs.fastest(stack, profiles, trial, variants.ORDINARY, report(trial.payments))
        best = tried[0][0]
    environment["ordinary_variant"] = str(best)
    found = []
    for _ in range(plan.repeat):
        for variant, given, warm_up in (
            (variants.MESH, work, plan.warm_up),
            (best, ordinary, plan.warm_up // _ORDINARY_SHARE),
        ):
            conditions, shown = runs.Conditions(warm_up=warm_up), report(given.payments)
            found.append(
                runs.run(stack, profiles, given, variant, lone=plan.lone, conditions=conditions, progress=shown)
            )
    return summary.summary(work, found, tried, environment, plan.warm_up)


def _with_headline(found: list[dict[str, Any]], document: dict[str, Any], tenants: int) -> list[dict[str, Any]]:
    """The sweep over tenants, the headline's number among them."""
    if not found:
        return []
    rate = document["end_to_end"]["payments_per_second"]
    used = document["cpu_us_per_payment"]["mesh"]
    return sorted([*found, {"tenants": tenants, "payments_per_second": rate, "cpu_us_per_payment": used}], key=_tenants)


def _tenants(figures: dict[str, Any]) -> int:
    return int(figures["tenants"])


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
