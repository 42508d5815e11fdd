"""Three nats-servers on loopback as one cluster: mTLS towards clients and between each other, streams on all three (R3)."""

import secrets
from pathlib import Path
from typing import Any, Self

from adapters.tls import TlsFiles
from tools.sandbox.certificates import Authority
from tools.stack import nats_permissions as permissions
from tools.stack.nats_server import NatsServer
from tools.stack.ports import free_ports
from tools.stack.process import StackError

SIZE = 3
_HOST = "127.0.0.1"
_NOWHERE = f"{_HOST}:1"  # refused at once
_FIXED = "a cluster's users and mapping are fixed at its start"


class NatsCluster(NatsServer):
    """Where one server is asked (its log, its monitoring port), it is the first. `nodes` are the servers by name.

    Users and the subject mapping are fixed at the start: the nodes' configurations have to be the same.
    """

    replicas = SIZE

    def __init__(self, directory: Path, *, sync_interval: str = "always", bridged: bool = False) -> None:
        """`bridged`: each node reaches each other at a port of its own (`bridges`), where somebody has to pass on what comes."""
        self.name = directory.name
        self._bridged = bridged
        tls = _certificates(directory.with_name(f"{directory.name}-tls"))
        first, *others = (directory.with_name(f"{directory.name}-{number}") for number in range(1, SIZE + 1))
        super().__init__(first, sync_interval=sync_interval, tls=tls)
        self.nodes = {
            f"billing-{number}": NatsServer(
                place, sync_interval=sync_interval, server_name=f"billing-{number}", tls=tls
            )
            for number, place in enumerate((first, *others), start=1)
        }
        self.tls = tls
        # By (from, to): the port that is dialled, and the port that listens.
        self.bridges: dict[tuple[str, str], tuple[int, int]] = {}

    def url(self, user: str) -> str:
        """All nodes' URLs, comma-separated."""
        return ",".join(node.url(user) for node in self.nodes.values())

    def env(self) -> dict[str, str]:
        """What a role needs beside NATS_URL."""
        return {
            "NATS_REPLICAS": str(SIZE),
            "NATS_TLS_CA_FILE": str(self.tls.ca),
            "NATS_TLS_CERT_FILE": str(self.tls.certificate),
            "NATS_TLS_KEY_FILE": str(self.tls.key),
        }

    def launch(self) -> None:
        self.configure()
        for node in self.nodes.values():
            node.launch()

    def wait_ready(self) -> None:
        """Until each node says that it follows the cluster's leader."""
        for node in self.nodes.values():
            node.wait_ready()

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop()

    def add_tenant(self, tenant: str) -> str:
        raise StackError(_FIXED)

    def map_commands(self, canary_percent: int) -> None:
        raise StackError(_FIXED)

    def rotate_password(self, user: str) -> str:
        raise StackError(_FIXED)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def configure(self) -> None:
        """Choose ports and passwords, once."""
        if self._state_path.exists():
            return
        listening = dict(zip(self.nodes, free_ports(SIZE), strict=True))
        passwords = {role: secrets.token_hex(16) for role in permissions.ROLES}
        for name, node in self.nodes.items():
            others = {other: port for other, port in listening.items() if other != name}
            if self._bridged:
                ports = free_ports(len(others))
                self.bridges |= {
                    (name, other): (bridge, to) for bridge, (other, to) in zip(ports, others.items(), strict=True)
                }
                others = {other: self.bridges[name, other][0] for other in others}
            member = self._member(listening[name], list(others.values()))
            node.write_state({"server_name": name, "passwords": passwords, "cluster": member})

    def _member(self, listening: int, routes: list[int]) -> dict[str, Any]:
        member = {
            "name": self.name,
            "listen": f"{_HOST}:{listening}",
            "routes": [f"nats-route://{_HOST}:{port}" for port in routes],
        }
        # What nodes tell each other about a third must not lead round the bridge.
        return member | ({"advertise": _NOWHERE} if self._bridged else {})


def _certificates(directory: Path) -> TlsFiles:
    """One pair for servers and clients of loopback; its CA is made with it, and its key nowhere kept."""
    authority = Authority.create("billing cluster")
    pair = authority.issue("billing", hosts=[_HOST]).write(directory / "billing")
    return TlsFiles(authority.write(directory / "ca.crt"), pair.certificate, pair.key)
