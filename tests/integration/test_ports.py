"""Ports are given to one process only, also before a server listens on them."""

import json
import subprocess
import sys

import pytest

from tools.stack import ports
from tools.stack.paths import PROJECT_ROOT

_FIRST, _LAST = 31_900, 32_000
_PROGRAM = f"""
import json
from tools.stack import ports
ports._FIRST, ports._LAST = {_FIRST}, {_LAST}
print(json.dumps(ports.free_ports(30)))
"""


def test_two_processes_are_never_given_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_FIRST", _FIRST)
    monkeypatch.setattr(ports, "_LAST", _LAST)
    mine = {*ports.free_ports(20), *ports.free_ports(20)}

    asked = [sys.executable, "-c", _PROGRAM]
    ran = subprocess.run(asked, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True, timeout=30)

    assert len(mine) == 40
    assert mine.isdisjoint(json.loads(ran.stdout))
