"""The whole embedded stack: NATS, PostgreSQL and, when asked, S3, under one directory."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Literal, Self

import psutil

from tools.stack.nats_server import NatsServer
from tools.stack.paths import locked, passable, stack_root
from tools.stack.ports import free_ports
from tools.stack.postgres import PostgresServer
from tools.stack.process import StackError, is_alive, kill_tree, read_pid_file
from tools.stack.seaweedfs import SeaweedFS

Role = Literal["api", "handlers", "worker", "migrate", "operator"]

# Which NATS user and which PostgreSQL role each role of the service connects as.
_NATS_USER: dict[Role, str] = {
    "api": "shim",
    "handlers": "handlers",
    "worker": "worker",
    "migrate": "admin",
    "operator": "operator",
}
_POSTGRES_ROLE: dict[Role, str | None] = {
    "api": None,
    "handlers": "billing_app",
    "worker": "billing_app",
    "migrate": "billing_owner",
    "operator": "billing_read",
}
_OWNER_FILE = "owner.json"
_POLL_SECONDS = 0.02
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


class Stack:
    """One named stack under `.stack/<name>/`. One process owns (starts and stops) it; a `Stack` of the same name in
    another is a handle on the same servers.

    An ephemeral stack is deleted when it stops, and by the next start if its owner died. Every server dies with the
    process that started it, even with kill -9.
    """

    def __init__(
        self,
        name: str = "dev",
        *,
        objects: bool = False,
        ephemeral: bool = False,
        sync_interval: str = "always",
        database: str = "billing",
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError("a stack's name is up to 41 lower-case letters, digits, _ or -")
        self.name = name
        self.directory = stack_root() / name
        self.database = database
        self.nats = NatsServer(self.directory / "nats", sync_interval=sync_interval)
        self.postgres = PostgresServer(self.directory / "postgres")
        self.objects = SeaweedFS(self.directory / "objects")
        self._wants_objects = objects
        self._ephemeral = ephemeral
        self._owner_path = self.directory / _OWNER_FILE

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start every server, all at once, and return when all are healthy and the database exists.

        Raises `StackError` when another process owns this stack, or a server does not start (then none is left).
        """
        self._take_ownership()
        try:
            servers = self._servers()
            for server in servers:
                server.launch()
            for server in servers:
                server.wait_ready()
            if not self.postgres.database_exists(self.database):
                self.postgres.create_database(self.database)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop every server, replicas and servers that tests added below the directory included."""
        for server in self._servers():
            server.stop()
        _kill_servers(self.directory)
        self._owner_path.unlink(missing_ok=True)
        if self._ephemeral:
            shutil.rmtree(self.directory, ignore_errors=True)

    def owner_pid(self) -> int | None:
        """The pid of the process that runs this stack, or None when it does not run."""
        owner = read_pid_file(self._owner_path)
        return owner.pid if owner else None

    def stop_owner(self, timeout_seconds: float = 30) -> bool:
        """SIGTERM the process that runs this stack, and wait for its end. False when none did.

        Not SIGINT: a shell makes background commands ignore it.
        """
        owner = read_pid_file(self._owner_path)
        if owner is None:
            return False
        owner.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_seconds
        while is_alive(owner):  # psutil's own wait would wait for its parent to notice, too
            if time.monotonic() > deadline:
                raise StackError(f"the owner of stack {self.name}, pid {owner.pid}, does not end")
            time.sleep(_POLL_SECONDS)
        return True

    def env(self, role: Role, *, database: str | None = None, nats: NatsServer | None = None) -> dict[str, str]:
        """Environment variables with which a process of `role` finds this stack. No secrets of other roles.

        What the stack does not run (JWKS_URL, TENANT_SERVICE_URL, …) is the sandbox's to add.
        """
        variables = {
            "ENVIRONMENT": "development",
            "REGION": "local-1",
            "COUNTRY_PROFILE": "AFG",
            "NATS_URL": (nats or self.nats).url(_NATS_USER[role]),
            "NATS_REPLICAS": "1",
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": str(free_ports(1)[0]),
            **self._database_env(role, database or self.database),
        }
        if role == "api":
            variables |= {"HTTP_HOST": "127.0.0.1", "HTTP_PORT": str(free_ports(1)[0])}
        if role == "worker":
            variables |= {"WORKER": "true"}
        if self._wants_objects and role in ("handlers", "worker"):
            variables |= self._objects_env()
        return variables

    def _database_env(self, role: Role, database: str) -> dict[str, str]:
        postgres_role = _POSTGRES_ROLE[role]
        if postgres_role is None:
            return {}
        variables = {"DATABASE_URL": self.postgres.dsn(postgres_role, database)}
        if role in ("handlers", "worker"):
            variables["DATABASE_READ_URL"] = self.postgres.dsn("billing_read", database)
        if role == "worker":
            variables["DATABASE_RELAY_URL"] = self.postgres.dsn("billing_relay", database)
        return variables

    def _objects_env(self) -> dict[str, str]:
        return {
            "OBJECT_STORE_BUCKET": self.objects.bucket,
            "OBJECT_STORE_ENDPOINT_URL": self.objects.endpoint_url,
            "OBJECT_STORE_ACCESS_KEY_ID": self.objects.access_key_id,
            "OBJECT_STORE_SECRET_ACCESS_KEY": self.objects.secret_access_key,
        }

    def _servers(self) -> list[NatsServer | PostgresServer | SeaweedFS]:
        """Slowest to start first."""
        return [*([self.objects] if self._wants_objects else []), self.postgres, self.nats]

    def _take_ownership(self) -> None:
        with locked(stack_root() / "stacks.lock"):
            if self.owner_pid() not in (None, os.getpid()):
                raise StackError(f"stack {self.name} already runs, started by pid {self.owner_pid()}")
            _sweep(stack_root())
            _kill_servers(self.directory)
            passable(self.directory)
            owner = {"pid": os.getpid(), "created": psutil.Process().create_time(), "ephemeral": self._ephemeral}
            self._owner_path.write_text(json.dumps(owner))


def _sweep(root: Path) -> None:
    """Clean up after owners that died: end servers that outlived them, delete what was ephemeral."""
    for owner_path in root.glob(f"*/{_OWNER_FILE}"):
        if read_pid_file(owner_path) is not None:
            continue
        _kill_servers(owner_path.parent)
        if json.loads(owner_path.read_text() or "{}").get("ephemeral"):
            shutil.rmtree(owner_path.parent, ignore_errors=True)


def _kill_servers(directory: Path) -> None:
    for pid_path in directory.glob("*/server.pid"):
        process = read_pid_file(pid_path)
        if process is not None:
            kill_tree(process)
        pid_path.unlink(missing_ok=True)
