"""`billing api`, `handlers`, `worker`: the roles of the service, each one process. Settings come from the environment."""

import asyncio
import os
from typing import Annotated

import typer

_EXIT_CODES = "Exit codes: 0 stopped by a signal, 1 failed or lost NATS for good, 2 unusable settings."


def api() -> None:
    """The HTTP shim behind Kong: HTTP in, NATS out. With WORKER=true, the worker instead."""
    if wants_worker():
        worker()
        return
    from gateway_shim.serve import ApiSettings, running
    from tools.cli.run_role import run_role

    settings = ApiSettings.load()

    async def role(stop: asyncio.Event) -> bool:
        async with running(settings, stop=stop):
            await stop.wait()
        return True

    raise typer.Exit(run_role("api", role, runtime=settings.runtime, settings=settings.telemetry))


def handlers(
    groups: Annotated[
        str | None,
        typer.Option(help="Consumer groups, comma-separated; all of them without. Overrides HANDLER_GROUPS."),
    ] = None,
    commands: Annotated[
        str | None,
        typer.Option(help="all, or beside a consumer canary: stable, canary. Overrides HANDLER_COMMANDS."),
    ] = None,
) -> None:
    """The command consumer groups and the queries; a canary takes its share of the commands and nothing else."""
    from adapters.settings import (
        DatabaseSettings,
        HandlersSettings,
        NatsSettings,
        RuntimeSettings,
        TelemetrySettings,
        check,
        load,
        load_objects,
    )
    from handlers.app import HandlersConfig, run_handlers
    from tools.cli.run_role import run_role

    if groups is not None:
        os.environ["HANDLER_GROUPS"] = groups
    if commands is not None:
        os.environ["HANDLER_COMMANDS"] = commands
    check(RuntimeSettings, TelemetrySettings, DatabaseSettings, NatsSettings, HandlersSettings)
    config = HandlersConfig(
        load(RuntimeSettings), load(DatabaseSettings), load(NatsSettings), load(HandlersSettings), load_objects()
    )
    _ = config.groups  # an unknown group is found before anything connects
    role = lambda stop: run_handlers(config, stop)  # noqa: E731
    raise typer.Exit(run_role("handlers", role, runtime=config.runtime, settings=load(TelemetrySettings)))


def worker() -> None:
    """The outbox relay, payment gateways, the FHIR push where FHIR_GATEWAY_URL is set, and the jobs that write files where
    OBJECT_STORE_BUCKET is. WORKER=true selects it too, as plain `billing` or `billing api`."""
    from adapters.settings import (
        DatabaseSettings,
        FhirSettings,
        GatewaySettings,
        NatsSettings,
        RuntimeSettings,
        TelemetrySettings,
        WorkerSettings,
        check,
        load,
        load_objects,
    )
    from handlers.worker import WorkerConfig, run_worker
    from tools.cli.run_role import run_role

    check(
        RuntimeSettings,
        TelemetrySettings,
        DatabaseSettings,
        NatsSettings,
        WorkerSettings,
        GatewaySettings,
        FhirSettings,
    )
    config = WorkerConfig(
        load(RuntimeSettings),
        load(DatabaseSettings),
        load(NatsSettings),
        load(WorkerSettings),
        load_objects(),
        load(GatewaySettings),
        load(FhirSettings),
    )
    role = lambda stop: run_worker(config, stop)  # noqa: E731
    raise typer.Exit(run_role("worker", role, runtime=config.runtime, settings=load(TelemetrySettings)))


def wants_worker() -> bool:
    """The topology document's switch: one image, one entry point, WORKER=true for the worker."""
    return os.environ.get("WORKER", "").strip().lower() in ("1", "true", "yes", "on")


for _role in (api, handlers, worker):
    _role.__doc__ = f"{_role.__doc__}\n\n{_EXIT_CODES}"
