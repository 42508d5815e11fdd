"""The certificates of a sandbox: made when it starts, rotated on request. Files in one directory:

ca.crt                    what both sides trust
server.crt, server.key    the services'
client.crt, client.key    the billing service's: NEIGHBOUR_TLS_CERT_FILE and NEIGHBOUR_TLS_KEY_FILE
"""

from pathlib import Path
from typing import Literal, NamedTuple

from tools.sandbox.certificates import Authority, WrittenPair
from tools.sandbox.listener import HOST, ServerTls


class Serials(NamedTuple):
    """Serial numbers in upper-case hexadecimal."""

    server: str
    client: str


class CertificateStore:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority = Authority.create("billing sandbox CA")
        self.ca = self._authority.write(directory / "ca.crt")
        self.server: WrittenPair
        self.client: WrittenPair
        self.serials = self._issue()
        pair = {"certificate": self.server.certificate, "key": self.server.key}
        self._tls = {name: ServerTls(ca=self.ca, mutual=name == "mutual", **pair) for name in ("mutual", "server")}

    def tls(self, kind: Literal["mutual", "server"] | None) -> ServerTls | None:
        """What a listener of that kind needs: both sides show a certificate, only the server does, or none."""
        return self._tls[kind] if kind is not None else None

    def rotate(self) -> Serials:
        """New leaves of the same CA for both sides, in the same files; the services use theirs from the next connection on."""
        self.serials = self._issue()
        for tls in self._tls.values():
            tls.reload(*self.server)
        return self.serials

    def _issue(self) -> Serials:
        server = self._authority.issue("sandbox", hosts=(HOST, "localhost"))
        client = self._authority.issue("billing")
        self.server, self.client = server.write(self.directory / "server"), client.write(self.directory / "client")
        return Serials(server.serial, client.serial)
