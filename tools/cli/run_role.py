"""Runs a role's coroutine until a signal: the same way for every role."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
import uvloop

from adapters.settings import RuntimeSettings, SettingsError, TelemetrySettings
from adapters.telemetry.process import telemetry
from tools.cli import collector
from tools.cli.errors import FAILED, OK

log = structlog.get_logger()

Role = Callable[[asyncio.Event], Awaitable[bool]]

# After the role's own grace: something hangs (NATS unreachable while connecting, say), and waiting on will not help.
_STOP_MARGIN_SECONDS = 2.0


def run_role(name: str, role: Role, *, runtime: RuntimeSettings, settings: TelemetrySettings) -> int:
    """Runs `role(stop)`; SIGTERM and SIGINT set `stop`, a second one ends the process at once. Returns the exit code.

    0 after a signal, 1 where the role ended by itself or failed, 2 where it found its settings unusable.
    """
    with telemetry(name, settings):
        try:
            return _in_loop(_until_signal(role, runtime.shutdown_grace_seconds))
        except SettingsError:
            raise
        except Exception as error:
            log.critical("role_failed", role=name, error=type(error).__name__, exc_info=error)
            return FAILED


def _in_loop(coroutine: Coroutine[Any, Any, int]) -> int:
    collector.relax()
    collector.settle()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


async def _until_signal(role: Role, grace_seconds: float) -> int:
    stop, signalled = asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if signalled.is_set():
            os._exit(128 + number)
        log.info("role_stopping", signal=number.name)
        signalled.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    running = asyncio.ensure_future(role(stop))
    waiting = asyncio.create_task(signalled.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        await asyncio.wait({running}, timeout=grace_seconds + _STOP_MARGIN_SECONDS)
    waiting.cancel()
    if not running.done():
        log.error("role_does_not_stop", grace_seconds=grace_seconds)
        running.cancel()
        await asyncio.wait({running}, timeout=_STOP_MARGIN_SECONDS)
        return FAILED
    return OK if running.result() and signalled.is_set() else FAILED
