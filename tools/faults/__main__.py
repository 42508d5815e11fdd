"""python -m tools.faults [--faults 60] [--seed 1] [--rate 300] [--cluster]: breaks a mesh of its own, loses nothing.

Exit codes: 0 every promise held, 1 one did not (the history is kept), 3 the mesh could not be started or brought back.
"""

import argparse
import asyncio
import secrets
import sys
from pathlib import Path

from tools.faults import run as runner
from tools.faults.checker import Broken
from tools.faults.nemesis import Fault, kinds, left_out
from tools.stack.paths import PROJECT_ROOT
from tools.stack.process import StackError
from tools.stack.stepped_clock import MISSING

_LARGEST_SEED = 10_000
_RATE = 300
_CLUSTER_RATE = 60  # every byte between three servers passes through this process


def main() -> int:
    arguments = _arguments()
    path = runner.DIRECTORY / f"history-{arguments.seed}.jsonl"
    servers = "a cluster of NATS" if arguments.cluster else "one NATS server"
    possible = len(kinds(cluster=arguments.cluster))
    print(
        f"seed {arguments.seed}: {arguments.faults} faults of {possible} kinds, {servers}, {arguments.rate} turns/s offered"
    )
    if missing := left_out():
        print(f"left out: {', '.join(missing)} ({MISSING})")

    def told(number: int, fault: Fault) -> None:
        print(f"  {number:>4}/{arguments.faults}  {fault.name}", flush=True)

    try:
        result = asyncio.run(
            runner.run(
                arguments.seed,
                arguments.faults,
                per_second=arguments.rate,
                history_path=path,
                told=told,
                cluster=arguments.cluster,
            )
        )
    except Broken as broken:
        print(f"BROKEN  {broken}\nhistory: {_shown(path)}, logs beside it", file=sys.stderr)
        return 1
    except StackError as error:
        print(f"the mesh is away: {error}\nhistory: {_shown(path)}, logs beside it", file=sys.stderr)
        return 3
    path.unlink()
    _print(result)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=None, help="how many, each kind as often as others")
    parser.add_argument("--cluster", action="store_true", help="three NATS servers, and what can happen to them")
    parser.add_argument("--seed", type=int, default=None, help="the same seed makes the same choices")
    parser.add_argument(
        "--rate", type=int, default=None, help="payments offered per second; other commands come with them"
    )
    given = parser.parse_args()
    if given.seed is None:
        given.seed = secrets.randbelow(_LARGEST_SEED)
    if given.faults is None:
        given.faults = 4 * len(kinds(cluster=given.cluster))
    if given.rate is None:
        given.rate = _CLUSTER_RATE if given.cluster else _RATE
    return given


def _print(result: runner.Result) -> None:
    from tools.cli.output import print_table

    print_table(("fault", "times#"), sorted(result.faults.items()))
    print_table(("promise that held", "over"), result.findings)
    print(
        f"{result.commands:,} commands in {result.seconds:.0f} s, with a fault most of the time;"
        f" {result.settled_seconds:.0f} s after the last nothing was left to do"
    )


def _shown(path: Path) -> Path:
    return path.relative_to(PROJECT_ROOT)


if __name__ == "__main__":
    sys.exit(main())
