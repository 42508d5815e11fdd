"""The sandbox as a service of compose.yaml: at fixed ports, on every interface, under its compose name.

    python -m tools.deploy.compose_sandbox                 serve until SIGTERM
    python -m tools.deploy.compose_sandbox token TENANT    a bearer token for the shim, or Kong

tools/sandbox is for one machine: loopback, and ports that happen to be free. Here services have names, which certificates carry.
"""

import asyncio
import signal
import sys
from pathlib import Path

from starlette.applications import Starlette

import tools.sandbox.listener as listening
from schemas.tenant import TenantProfile
from tools.sandbox import admin
from tools.sandbox.certificate_store import CertificateStore, Serials
from tools.sandbox.control import Control
from tools.sandbox.faults import Switch
from tools.sandbox.issuer import Keys
from tools.sandbox.listener import Listener
from tools.sandbox.server import SERVICES, Service
from tools.sandbox.world import World

HOST = "sandbox"
ADMIN_PORT = 8090
PORTS = {
    "tenant-service": 8441,
    "terminology-service": 8442,
    "fhir-gateway": 8443,
    "ai-gateway": 8444,
    "payment-gateway": 8081,
    "issuer": 8080,
}
TENANTS = {
    "kabul-central": ("af-kabul-1", "AFG"),
    "herat-clinic": ("af-kabul-1", "AFG"),
    "dubai-marina": ("ae-dubai-1", "ARE"),
}
_HOURS = 3600


class ComposeCertificates(CertificateStore):
    """Certificates for the compose name."""

    def _issue(self) -> Serials:
        server = self._authority.issue("sandbox", hosts=(HOST, "localhost", "127.0.0.1"))
        client = self._authority.issue("billing")
        self.server, self.client = server.write(self.directory / "server"), client.write(self.directory / "client")
        return Serials(server.serial, client.serial)


async def serve(directory: Path, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; `directory` gets what clients need for mTLS."""
    listening.HOST = "0.0.0.0"  # noqa: S104  compose publishes to loopback only
    certificates = ComposeCertificates(directory)
    world = World(Keys(f"http://{HOST}:{PORTS['issuer']}"))
    for tenant, (region, country) in TENANTS.items():
        world.tenants[tenant] = TenantProfile(tenant_id=tenant, name=tenant, region=region, country_profile=country)
    services = {}
    for name, kind in SERVICES.items():
        switch = Switch(Starlette(routes=kind.routes(world)))
        services[name] = Service(switch, Listener(switch, PORTS[name], certificates.tls(kind.tls)))
    administration = Listener(Starlette(routes=admin.routes(world, services, certificates)), ADMIN_PORT, None)
    listeners = [*(service.listener for service in services.values()), administration]
    try:
        for listener in listeners:
            await listener.up()
        await stop.wait()
    finally:
        for listener in listeners:
            listener.down()


async def _until_signal(directory: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(directory, stop)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["token"]:
        from tools.stack.mesh import all_scopes

        print(Control(f"http://127.0.0.1:{ADMIN_PORT}").mint(arguments[1], all_scopes(), _HOURS))
        return
    asyncio.run(_until_signal(Path(arguments[0] if arguments else "/run/billing")))


if __name__ == "__main__":
    main(sys.argv[1:])
