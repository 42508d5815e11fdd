"""Becomes a server that dies with the process that started it. Run as a script; standard library only.

    launcher.py PARENT_PID DEATH_SIGNAL UID:GID|- COMMAND...

A separate program, not `preexec_fn`: that one is unsafe in a process with threads. The order matters: Linux forgets
the parent-death signal when credentials change, so it is asked for last.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, death_signal, identity = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if identity != "-":
        uid, gid = (int(part) for part in identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    os.execv(sys.argv[4], sys.argv[4:])  # noqa: S606  replacing this process is the point


if __name__ == "__main__":
    main()
