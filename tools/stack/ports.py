"""Free loopback ports."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below every common ephemeral range (Linux 32768, IANA 49152), so that no outgoing connection can take a server's
# port between a kill and its restart.
_FIRST, _LAST = 20_000, 32_000
_pick = random.SystemRandom()


class _Claims:
    """Who was given which port, among all processes of this user: a server binds its port only some time after it was picked.

    A claim is a lock on one byte of a shared file. The kernel forgets it with the process; by then the server itself holds the
    port, or is gone.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._file = -1
        self._mine: set[int] = set()

    def take(self, port: int) -> bool:
        """False where this or another process was given the port before."""
        if self._pid != os.getpid():  # a forked child inherits neither locks nor claims
            self._pid, self._file, self._mine = os.getpid(), _open_shared_file(), set()
        if port in self._mine:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._mine.add(port)
        return True


def _open_shared_file() -> int:
    """A file descriptor that stays open: closing any of one file lets go of a process's locks on it."""
    path = Path(tempfile.gettempdir(), f"billing-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


_claims = _Claims()


def free_ports(count: int) -> list[int]:
    """`count` different ports on 127.0.0.1 that nothing listens on and no other process is given while this one runs."""
    found: list[int] = []
    while len(found) < count:
        port = _pick.randrange(_FIRST, _LAST)
        if _is_free(port) and _claims.take(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
