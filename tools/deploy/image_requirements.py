"""Prints the part of requirements.lock that the image needs, with its hashes: no servers, no test tools.

    python image_requirements.py [PACKAGE… | +PACKAGE…]

Without packages: pyproject.toml's own dependencies and what they need; `+psutil` adds to them. It imports nothing, so it
runs in an empty interpreter.
The lock says in `# via` who needs each package; whoever is reached from the wanted ones is in.
"""

import re
import sys
import tomllib
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Locked:
    """One package of the lock: its lines, and the names of those who need it."""

    def __init__(self, block: str) -> None:
        self.name = normal(block.split("==", maxsplit=1)[0])
        body, _, via = block.partition("    # via")
        self.text = body.rstrip() + "\n"
        self.needed_by = {normal(line.strip(" #")) for line in via.splitlines() if line.strip(" #")}


def normal(name: str) -> str:
    """PEP 503, without extras and markers."""
    found = _NAME.match(name.strip())
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""


def packages(lock: str) -> list[Locked]:
    return [Locked(block) for block in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()) if "==" in block]


def closure(locked: list[Locked], wanted: set[str]) -> list[Locked]:
    """The wanted packages and all that they need. Raises SystemExit for one that is not in the lock."""
    if missing := wanted - {each.name for each in locked}:
        raise SystemExit(f"not in requirements.lock: {', '.join(sorted(missing))}")
    found: set[str] = set()
    more = wanted
    while more:
        found |= more
        more = {each.name for each in locked if each.needed_by & found} - found
    return [each for each in locked if each.name in found]


def main(arguments: list[str]) -> None:
    here = Path.cwd()
    wanted = {normal(name.removeprefix("+")) for name in arguments}
    if all(name.startswith("+") for name in arguments):
        project = tomllib.loads((here / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted |= {normal(dependency) for dependency in project["dependencies"]}
    locked = packages((here / "requirements.lock").read_text(encoding="utf-8"))
    sys.stdout.write("".join(each.text for each in closure(locked, wanted)))


if __name__ == "__main__":
    main(sys.argv[1:])
