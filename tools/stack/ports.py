"""Free loopback ports."""

import random
import socket

# Below every common ephemeral range (Linux 32768, IANA 49152), so that no outgoing connection can take a server's
# port between a kill and its restart.
_FIRST, _LAST = 20_000, 32_000
_pick = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """`count` different ports on 127.0.0.1 that nothing listens on now."""
    found: list[int] = []
    while len(found) < count:
        port = _pick.randrange(_FIRST, _LAST)
        if port not in found and _is_free(port):
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
