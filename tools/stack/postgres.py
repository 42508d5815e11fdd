"""A PostgreSQL 16 server on loopback: scram passwords, the billing roles, kept data, a streaming replica."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tools.stack.paths import give_to_server, locked, passable, postgres_binaries, server_identity, stack_root
from tools.stack.ports import free_ports
from tools.stack.process import ServerProcess, StackError

SUPERUSER = "postgres"
ROLES = ("billing_owner", "billing_app", "billing_relay", "billing_read")
_REPLICATION_ROLE = "billing_replication"
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,62}")
_READY_TIMEOUT_SECONDS = 30
_STOP_TIMEOUT_SECONDS = 20

_SETTINGS = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''        # a deep checkout would exceed the 107 bytes of a socket path
max_connections = 200
shared_buffers = 256MB
huge_pages = off
wal_level = replica
max_wal_senders = 8
wal_keep_size = 256MB               # a paused replica of a test catches up without a slot
max_wal_size = 2GB
checkpoint_timeout = 15min
fsync = on                          # promises are tested on what production does
synchronous_commit = on
random_page_cost = 1.1
jit = off                           # short statements only
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
password_encryption = scram-sha-256
scram_iterations = 1000             # hundreds of test connections; loopback only
autovacuum_naptime = 10s
"""
_HBA = """\
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


class PostgresServer:
    """One server in one directory. A second object on the same directory, in any process, is the same server.

    The port and the passwords are chosen once and kept, so a restart comes back at the same DSN with the same data.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        # SIGQUIT is PostgreSQL's immediate shutdown: it takes its children with it.
        self._process = ServerProcess("postgres", directory, death_signal=signal.SIGQUIT)
        self._state_path = directory / "state.json"
        self.prefix: Sequence[str] = ()  # a program that becomes the server, with its arguments

    def __enter__(self) -> Self:
        return self if self.is_running() else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def log_path(self) -> Path:
        return self._process.log_path

    @property
    def port(self) -> int:
        return int(self._state()["port"])

    def dsn(self, role: str, database: str) -> str:
        """`postgresql://role:password@127.0.0.1:port/database` of one of `ROLES` or of the superuser `postgres`."""
        state = self._state()
        if role not in state["passwords"]:
            raise StackError(f"no PostgreSQL role {role}; known: {', '.join(sorted(state['passwords']))}")
        return f"postgresql://{role}:{state['passwords'][role]}@127.0.0.1:{state['port']}/{database}"

    def start(self) -> Self:
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start without waiting; follow with `wait_ready`. The first time, a fresh cluster is laid down."""
        with locked(passable(self.directory) / "state.lock"):
            if not self._state_path.exists():
                self._create_cluster()
        command = [*self.prefix, str(postgres_binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        self._process.launch(command, run_as=server_identity())

    def wait_ready(self) -> None:
        self._process.wait_ready(self._accepts_connections, _READY_TIMEOUT_SECONDS)
        state = self._state()
        if not state["roles_created"]:
            self.execute(_create_roles(state["passwords"]))
            self._write_state(state | {"roles_created": True})

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, committed data is on disk."""
        self._process.stop(signal.SIGINT, signal.SIGQUIT, _STOP_TIMEOUT_SECONDS)

    def kill(self) -> None:
        """kill -9 of the server and all its backends: a crash."""
        self._process.kill()
        # Nothing of it is left, but its parent may be another process that has not reaped it yet, and PostgreSQL
        # takes a zombie for a running server.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def is_running(self) -> bool:
        return self._process.is_running()

    def pid(self) -> int | None:
        return self._process.pid()

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database that `billing_owner` owns, as a copy of `template` when given (nobody may be in it)."""
        source = f" TEMPLATE {_identifier(template)}" if template else ""
        self.execute(f"CREATE DATABASE {_identifier(name)} OWNER billing_owner{source}")

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists; sessions in it are ended."""
        self.execute(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")

    def database_exists(self, name: str) -> bool:
        # The name is an identifier, so it cannot end the literal.
        return self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{_identifier(name)}'") == "1"  # noqa: S608

    def execute(self, sql: str, database: str = SUPERUSER) -> str:
        """Run SQL as the superuser and return psql's unaligned output. Raises `StackError` with PostgreSQL's words."""
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port)]
        arguments = [*command[1:], "-U", SUPERUSER, "-d", database]
        return self._run(command[0], arguments, stdin=sql).strip()

    def start_replica(self, directory: Path | None = None) -> "PostgresReplica":
        """A streaming replica of this server, started and caught up to now."""
        replica = PostgresReplica(directory or self.directory.parent / f"{self.directory.name}-replica")
        state = self._state()
        arguments = ["-h", "127.0.0.1", "-p", str(self.port), "-U", _REPLICATION_ROLE, "-D", str(replica.data)]
        passable(replica.directory)
        shutil.rmtree(replica.data, ignore_errors=True)
        password = state["passwords"][_REPLICATION_ROLE]
        self._run("pg_basebackup", [*arguments, "-R", "-X", "stream", "-c", "fast"], password=password)
        give_to_server(replica.data)
        # Its own port; the passwords and roles come with the copy.
        replica._write_state(state | {"port": free_ports(1)[0]})
        replica.start()
        return replica

    def _create_cluster(self) -> None:
        password = _lay_down_cluster(self.data)
        passwords = {role: secrets.token_hex(16) for role in (*ROLES, _REPLICATION_ROLE)} | {SUPERUSER: password}
        self._write_state({"port": free_ports(1)[0], "passwords": passwords, "roles_created": False})

    def _accepts_connections(self) -> bool:
        """The server's own word: the last line of its pid file. A stale file is one with another pid."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) == 8 and lines[0] == str(self.pid()) and lines[7].strip() == "ready"

    def _run(self, program: str, arguments: list[str], *, stdin: str = "", password: str | None = None) -> str:
        password = password or self._state()["passwords"][SUPERUSER]
        return _run_client(program, arguments, stdin=stdin, env={"PGPASSWORD": password})

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text())
        except FileNotFoundError:
            raise StackError(f"no PostgreSQL server was started in {self.directory}") from None
        return state

    def _write_state(self, state: dict[str, Any]) -> None:
        unfinished = self._state_path.with_suffix(f".{os.getpid()}.partial")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(state, indent=2))
        unfinished.replace(self._state_path)


class PostgresReplica(PostgresServer):
    """A streaming replica. It has its primary's roles and databases, and refuses writes."""

    def pause_replay(self) -> None:
        """Stop applying what arrives: from now on, reads are stale. Returns when replay has really stopped."""
        self.execute("SELECT pg_wal_replay_pause()")
        self._process.wait_ready(
            lambda: self.execute("SELECT pg_get_wal_replay_pause_state()") == "paused", _READY_TIMEOUT_SECONDS
        )

    def resume_replay(self) -> None:
        self.execute("SELECT pg_wal_replay_resume()")

    def wait_for(self, position: str) -> None:
        """Wait until the log position (`pg_current_wal_lsn()` of the primary, like `0/3000060`) is applied."""
        if not re.fullmatch(r"[0-9A-F]+/[0-9A-F]+", position):
            raise ValueError("not a log position")
        reached = f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"  # checked above
        self._process.wait_ready(lambda: self.execute(reached) == "t", _READY_TIMEOUT_SECONDS)


def _lay_down_cluster(data: Path) -> str:
    """Copy the cached empty cluster to `data`, making it the first time. Returns the superuser's password."""
    cache = passable(stack_root() / "cache") / "postgres-16"
    with locked(cache.with_suffix(".lock")):
        if not (cache / "password").exists():
            _initdb(cache)
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(cache / "data", data, symlinks=True)
    (data / "postgresql.conf").write_text(_SETTINGS)
    (data / "pg_hba.conf").write_text(_HBA)
    data.chmod(0o700)
    give_to_server(data)
    return (cache / "password").read_text()


def _initdb(cache: Path) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    work = passable(cache) / "work"
    work.mkdir()
    password_file = work / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(secrets.token_hex(16))
    give_to_server(work)
    arguments = ["-D", str(work / "data"), "-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}"]
    # Without syncing: the copy is what runs, and a half-written cache is made again.
    _run_client(
        "initdb", [*arguments, "--no-locale", "--encoding=UTF8", "--no-sync", "--no-instructions"], as_server=True
    )
    (work / "data").rename(cache / "data")
    password_file.rename(cache / "password")


def _run_client(
    program: str,
    arguments: list[str],
    *,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    as_server: bool = False,
) -> str:
    """Run a PostgreSQL client program. Raises `StackError` with what it said."""
    identity = server_identity() if as_server else None
    result = subprocess.run(
        [str(postgres_binaries() / program), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **(env or {})},
        user=identity.uid if identity else None,
        group=identity.gid if identity else None,
        extra_groups=[] if identity else None,
    )
    if result.returncode != 0:
        raise StackError(f"{program} failed: {(result.stderr or result.stdout).strip()}")
    return result.stdout


def _create_roles(passwords: Mapping[str, str]) -> str:
    """No role here is a superuser or bypasses row-level security. What they may do is granted by migrations."""
    options = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"
    statements = [f"CREATE ROLE {role} {options} PASSWORD '{passwords[role]}';" for role in ROLES]
    statements.append(f"CREATE ROLE {_REPLICATION_ROLE} LOGIN REPLICATION PASSWORD '{passwords[_REPLICATION_ROLE]}';")
    return "BEGIN;\n" + "\n".join(statements) + "\nCOMMIT;"


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"not a plain lower-case identifier: {name!r}")
    return name
