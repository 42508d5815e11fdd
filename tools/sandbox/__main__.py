"""`python -m tools.sandbox [--directory DIR] [--tenants FILE]`: every outside service until SIGTERM or Ctrl-C."""

import argparse
import asyncio
import signal
from pathlib import Path

from tools.sandbox.process import Sandbox
from tools.sandbox.server import serve
from tools.stack.paths import stack_root


async def _run(directory: Path, tenants: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(directory, stop, tenants)


def main() -> None:
    parser = argparse.ArgumentParser(description="The outside services, for development and tests.")
    parser.add_argument("--directory", type=Path, default=None, help="of its certificates and state.json")
    parser.add_argument("--tenants", type=Path, default=None, help="a file of tenants, read again when it changes")
    arguments = parser.parse_args()
    directory = (arguments.directory or stack_root() / "sandbox").resolve()
    print(f"state: {Sandbox(directory).state_path}", flush=True)
    asyncio.run(_run(directory, arguments.tenants))


if __name__ == "__main__":
    main()
