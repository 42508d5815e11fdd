"""The README's tour is run as it stands there, and what it shows is compared with what comes out.

`BILLING_WRITE_README=1 make test ARGS="tests/acceptance/test_readme.py"` writes the outputs into the README.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.servers import TEMPLATE
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT

README = PROJECT_ROOT / "README.md"
WRITE = os.environ.get("BILLING_WRITE_README") == "1"
TIMEOUT_SECONDS = 120
COLUMNS = "110"
# What differs from run to run: ids, hashes, positions, ports, times.
VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\b[0-9A-F]+/[0-9A-F]{5,8}\b"), "<position>"),
    (re.compile(r"\b[0-9a-f]{16,64}\b"), "<hash>"),
    (re.compile(r"\d+(\.\d+)? s\b"), "<seconds>"),
    (re.compile(r"[\d,]+ commands/s"), "<rate>"),
    (re.compile(r"BILLING_COMMANDS \d+"), "BILLING_COMMANDS <sequence>"),
    (re.compile(r"[ ─━╭╮╰╯│]+"), " "),
)


def _block(name: str) -> tuple[int, int, str]:
    text = README.read_text()
    begin = text.index(f"<!-- {name}:begin -->\n```console\n") + len(f"<!-- {name}:begin -->\n```console\n")
    end = text.index(f"```\n<!-- {name}:end -->", begin)
    return begin, end, text[begin:end]


def _steps(name: str) -> list[tuple[str, str]]:
    """(command, shown output) of each `$ …` in a block."""
    parts = re.split(r"^\$ ", _block(name)[2], flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def _stable(output: str) -> list[str]:
    for pattern, name in VOLATILE:
        output = pattern.sub(name, output)
    return [line.strip() for line in output.splitlines() if line.strip()]


def _run(commands: list[str], env: dict[str, str]) -> list[str]:
    """Runs commands in one shell, as a person would; returns what each printed. Fails on the first that fails."""
    mark = "\x1e"
    script = "set -e\n" + "".join(f"{command}\nprintf '\\036'\n" for command in commands)
    result = subprocess.run(
        ["bash", "-c", script],
        env=env,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.split(mark)[:-1]


def _check(name: str, env: dict[str, str], preface: tuple[str, ...] = ()) -> None:
    steps = _steps(name)
    outputs = _run([*preface, *(command for command, _ in steps)], env)[len(preface) :]
    if WRITE:
        shown = "".join(f"$ {command}\n{_tidy(output)}" for (command, _), output in zip(steps, outputs, strict=True))
        text = README.read_text()
        begin, end, _ = _block(name)
        README.write_text(text[:begin] + shown + text[end:])
        return
    for (command, expected), output in zip(steps, outputs, strict=True):
        assert _stable(output) == _stable(expected), command


def _tidy(output: str) -> str:
    lines = [line.rstrip() for line in output.splitlines()]
    return "".join(f"{line}\n" for line in lines if line)


def _env(**more: str) -> dict[str, str]:
    path = f"{PROJECT_ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "BILLING_STACK_ROOT")}
    return {**kept, "PATH": path, "COLUMNS": COLUMNS, "LC_ALL": "C.UTF-8", **more}


@pytest.fixture
def mesh(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE) as running:
        for tenant in ("kabul-central", "dubai-marina", "herat-clinic"):
            running.add_tenant(tenant)
        yield running


def test_the_demo_keeps_every_promise_and_prints_what_the_readme_shows() -> None:
    _check("demo", _env())


def test_the_tour_runs_as_it_is_written(mesh: Mesh, tmp_path: Path) -> None:
    """`billing dev` belongs to a stack of its own; here its two look-ups are answered for the test's mesh."""
    exports = tmp_path / "env.sh"
    values = {"BILLING_URL": mesh.http_url, **mesh.env("operator")}
    exports.write_text("".join(f"export {name}='{value}'\n" for name, value in values.items()))
    stand_in = (
        'billing() { if [ "$1 $2" = "dev env" ]; then cat "$EXPORTS"; elif [ "$1 $2" = "dev token" ]; then '
        'printf %s "$TOKEN"; else command billing "$@"; fi; }'
    )
    _check("tour", _env(EXPORTS=str(exports), TOKEN=mesh.token("kabul-central")), preface=(stand_in,))
