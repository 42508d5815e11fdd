"""Who consumes the payments: the mesh's own handlers, or the ordinary way in one of its forms."""

import sys
from typing import Literal, NamedTuple

from tools.stack.mesh import Mesh
from tools.stack.paths import PROJECT_ROOT
from tools.stack.role_process import RoleProcess

Kind = Literal["mesh", "ordinary"]


class Variant(NamedTuple):
    """`fetch` and `workers` are the ordinary way's: see tools/bench/ordinary.py."""

    kind: Kind
    fetch: int = 0
    workers: int = 1

    def __str__(self) -> str:
        if self.kind == "mesh":
            return "mesh"
        how = f"{self.workers} workers" if self.workers > 1 else "all of a fetch at once"
        return f"ordinary, fetch {self.fetch}, {how}"


MESH = Variant("mesh")
# One at a time; every fetch gathered; a pool of workers as large as that of connections, and twice that.
ORDINARY = (
    Variant("ordinary", fetch=1),
    Variant("ordinary", fetch=10),
    Variant("ordinary", fetch=50),
    Variant("ordinary", fetch=100, workers=10),
    Variant("ordinary", fetch=200, workers=20),
)


# What one Python process spends per ORM session decides, so the forms differ little; this one led most often.
DEFAULT_ORDINARY = ORDINARY[1]


class _OrdinaryProcess(RoleProcess):
    """The ordinary consumer, started and watched as a role is."""

    def launch(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tools.bench.ordinary"]
        self._process.launch(command, env={"PYTHONPATH": str(PROJECT_ROOT), **self.env})


def consumer(mesh: Mesh, variant: Variant) -> RoleProcess:
    """A process of the variant, not started. Both have the environment of the mesh's `handlers` role."""
    if variant.kind == "mesh":
        return mesh.add_process("handlers")
    name = f"ordinary-{variant.fetch}-{variant.workers}"
    env = mesh.env("handlers") | {"BENCH_FETCH": str(variant.fetch), "BENCH_WORKERS": str(variant.workers)}
    directory = mesh.stack.directory / f"{mesh.name}-{name}"
    return _OrdinaryProcess(name, "handlers", directory=directory, log_path=mesh.logs / f"{name}.log", env=env)
