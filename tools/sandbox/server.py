"""The sandbox as one process: every service on a port of its own, and the admin endpoint that controls them."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from adapters.neighbours.static import StaticNeighbours
from tools.sandbox import (
    admin,
    ai_gateway,
    fhir_gateway,
    payment_gateway,
    tenant_service,
    terminology_service,
    token_issuer,
)
from tools.sandbox.certificate_store import CertificateStore
from tools.sandbox.faults import Switch
from tools.sandbox.issuer import Keys
from tools.sandbox.listener import HOST, Listener
from tools.sandbox.world import World
from tools.stack.ports import free_ports

STATE_FILE = "state.json"
ADMIN = "admin"
Routes = Callable[[World], Sequence[BaseRoute]]


class Kind(NamedTuple):
    """`mutual`: HTTPS that wants a client certificate; the payment gateway is somebody else's and knows us by a key."""

    routes: Routes
    tls: Literal["mutual", "server"] | None


SERVICES: dict[str, Kind] = {
    "tenant-service": Kind(tenant_service.routes, tls="mutual"),
    "terminology-service": Kind(terminology_service.routes, tls="mutual"),
    "fhir-gateway": Kind(fhir_gateway.routes, tls="mutual"),
    "ai-gateway": Kind(ai_gateway.routes, tls="mutual"),
    "payment-gateway": Kind(payment_gateway.routes, tls="server"),
    "issuer": Kind(token_issuer.routes, tls=None),
}


class Service(NamedTuple):
    switch: Switch
    listener: Listener


async def serve(directory: Path, stop: asyncio.Event, tenants: Path | None = None) -> None:
    """Serve until `stop` is set. `state.json` in `directory` says where; it is written once everything listens.

    `tenants` is a file as adapters/neighbours/static.py reads it.
    """
    ports = _ports(directory)
    certificates = CertificateStore(directory / "tls")
    file = StaticNeighbours(tenants) if tenants is not None else None
    world = World(Keys(f"http://{HOST}:{ports['issuer']}"), file)
    services = {name: _service(kind, world, ports[name], certificates) for name, kind in SERVICES.items()}
    administration = Listener(Starlette(routes=admin.routes(world, services, certificates)), ports[ADMIN], None)
    listeners = [*(service.listener for service in services.values()), administration]
    try:
        for listener in listeners:
            await listener.up()
        _write_state(directory, ports, {name: service.listener.url for name, service in services.items()})
        await stop.wait()
    finally:
        for listener in listeners:
            listener.down()


def _service(kind: Kind, world: World, port: int, certificates: CertificateStore) -> Service:
    switch = Switch(Starlette(routes=kind.routes(world)))
    return Service(switch, Listener(switch, port, certificates.tls(kind.tls)))


def _ports(directory: Path) -> dict[str, int]:
    """Chosen once and kept: a sandbox that is started again is found at the same URLs."""
    directory.mkdir(parents=True, exist_ok=True)
    names = (*SERVICES, ADMIN)
    try:
        kept: dict[str, int] = json.loads((directory / STATE_FILE).read_text())["ports"]
    except FileNotFoundError:
        kept = {}
    return kept if kept.keys() == set(names) else dict(zip(names, free_ports(len(names)), strict=True))


def _write_state(directory: Path, ports: dict[str, int], urls: dict[str, str]) -> None:
    state = {"pid": os.getpid(), "admin_url": f"http://{HOST}:{ports[ADMIN]}", "urls": urls, "ports": ports}
    unfinished = directory / f"{STATE_FILE}.{os.getpid()}.partial"
    unfinished.write_text(json.dumps(state, indent=2))
    unfinished.replace(directory / STATE_FILE)
