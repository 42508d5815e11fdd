"""The whole service on one machine: a stack, a migrated database, streams, and every role as a process of its own.

    with Mesh(Stack("dev")) as mesh:
        mesh.add_tenant("kabul-central")
        mesh["handlers"].kill()
        mesh["handlers"].start()

`Mesh.isolated(stack)` shares a running stack's PostgreSQL (a database of its own) and brings a NATS server of its own, so
that a test module has a whole mesh in about three seconds and may break any part of it but PostgreSQL.
"""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import nats

from schemas.tenant import TenantProfile
from tools.sandbox.issuer import Issuer
from tools.sandbox.process import Sandbox
from tools.stack.nats_cluster import NatsCluster
from tools.stack.nats_server import NatsServer
from tools.stack.paths import PROJECT_ROOT
from tools.stack.process import StackError
from tools.stack.role_process import SERVICE_ROLES, RoleProcess, ServiceRole
from tools.stack.stack import Role, Stack
from tools.stack.tenant_file import TenantFile

_MIGRATE_TIMEOUT_SECONDS = 120
# Several roles and a test share one PostgreSQL of 200 connections.
_POOL_SIZE = "10"


class Mesh:
    """Processes by name: `mesh["handlers"]`, `mesh["worker"]`, `mesh["api"]`, and what `add_process` adds."""

    def __init__(
        self,
        stack: Stack,
        *,
        name: str = "",
        database: str | None = None,
        nats: NatsServer | None = None,
        tenants: Iterable[TenantProfile | str] = (),
        roles: Sequence[ServiceRole] = SERVICE_ROLES,
        sandbox: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`stack` is started, and stopped at the end, unless it runs already. `env` goes to every role, over the defaults.

        `name` tells apart several meshes on one stack. `roles` are what `start` starts; [] for none. `sandbox`: the roles ask a
        sandbox of outside services over mTLS, in place of reading a file of tenants (which is faster to start).
        """
        self.stack, self.name = stack, name
        self.database = database or stack.database
        self.nats = nats or stack.nats
        self.directory = stack.directory / (name or "mesh")
        self.logs = self.directory / "logs" if name else stack.directory / "logs"
        self.tenants = TenantFile(self.directory / "tenants.json")
        self._first_tenants, self._roles, self._env = tuple(tenants), tuple(roles), dict(env or {})
        self._processes: dict[str, RoleProcess] = {}
        self._owns_stack = self._owns_nats = self._drops_database = False
        self._template: str | None = None
        self._issuer: Issuer | None = None
        # Pid files lie one level below the stack, where a later start finds what outlived a crash.
        directory = stack.directory / f"{name or 'role'}-sandbox"
        self._sandbox = Sandbox(directory, self.tenants.path) if sandbox else None

    @classmethod
    def isolated(
        cls,
        stack: Stack,
        *,
        template: str | None = None,
        tenants: Iterable[TenantProfile | str] = (),
        roles: Sequence[ServiceRole] = SERVICE_ROLES,
        sandbox: bool = False,
        env: Mapping[str, str] | None = None,
        cluster: bool = False,
    ) -> Self:
        """A mesh with a database (a copy of `template`, migrated, when given) and a NATS server of its own, both gone at the end.

        `cluster`: three NATS servers with mTLS, a `NatsCluster`.
        """
        name = f"mesh-{uuid.uuid4().hex[:8]}"
        directory = stack.directory / f"{name}-nats"
        server: NatsServer = NatsServer(directory)
        if cluster:
            server = made = NatsCluster(directory)
            env = made.env() | dict(env or {})
        mesh = cls(
            stack,
            name=name,
            database=name.replace("-", "_"),
            nats=server,
            tenants=tenants,
            roles=roles,
            sandbox=sandbox,
            env=env,
        )
        mesh._owns_nats = mesh._drops_database = True
        mesh._template = template
        return mesh

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __getitem__(self, name: str) -> RoleProcess:
        return self._processes[name]

    def __iter__(self) -> Iterator[RoleProcess]:
        return iter(self._processes.values())

    def start(self) -> Self:
        """Servers, migrations, streams, then every role at once; returns when all say they are ready.

        Raises StackError with the end of a log where one does not; then nothing is left running.
        """
        try:
            self._start_servers()
            self.directory.mkdir(parents=True, exist_ok=True)
            self.tenants.add()
            if self._sandbox is not None:
                self._sandbox.launch()
            if self._template is None:
                self.migrate()
            else:
                self._declare()
            for tenant in self._first_tenants:
                self.add_tenant(tenant)
            self._issuer = Issuer().start()
            if self._sandbox is not None:
                self._sandbox.wait_ready()
            for role in self._roles:
                self.add_process(role).launch()
            for process in self:
                process.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Roles first (they drain), then what this mesh brought: its NATS server, its database, its stack."""
        with ExitStack() as last:  # in reverse order, each whatever the others raise
            if self._owns_stack:
                last.callback(self.stack.stop)
            if self._drops_database and self.stack.postgres.is_running():
                last.callback(self.stack.postgres.drop_database, self.database)
            if self._owns_nats:
                last.callback(self.nats.stop)
            if self._issuer is not None:
                last.callback(self._issuer.stop)
            if self._sandbox is not None:
                last.callback(self._sandbox.stop)
            self._stop_processes()

    def _stop_processes(self) -> None:
        if not self._processes:
            return
        with ThreadPoolExecutor(len(self._processes)) as executor:  # each may take a while to drain
            stopping = [executor.submit(process.stop) for process in self]
        for stopped in stopping:
            stopped.result()

    def add_process(
        self,
        role: ServiceRole,
        name: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> RoleProcess:
        """One more process of a role, not started yet: `add_process("handlers", "handlers-2").start()`.

        `prefix` is a program that becomes the role, `env` for example `{"HANDLER_GROUPS": "payments"}`. Raises ValueError for a
        name that is taken.
        """
        name = name or role
        if name in self._processes:
            raise ValueError(f"there is a process {name} already")
        # Pid files lie one level below the stack, where a later start finds what outlived a crash.
        directory = self.stack.directory / f"{self.name or 'role'}-{name}"
        process = RoleProcess(
            name,
            role,
            directory=directory,
            log_path=self.logs / f"{name}.log",
            env=self.env(role) | dict(env or {}),
            prefix=prefix,
        )
        self._processes[name] = process
        return process

    def add_tenant(self, tenant: TenantProfile | str) -> TenantProfile:
        """Make a tenant known to the running roles. A bare id is a hospital of the deployment's own region and country."""
        profile = self.profile(tenant) if isinstance(tenant, str) else tenant
        self.tenants.add(profile)
        return profile

    def profile(self, tenant_id: str) -> TenantProfile:
        env = self.env("operator")
        return TenantProfile(
            tenant_id=tenant_id, name=tenant_id, region=env["REGION"], country_profile=env["COUNTRY_PROFILE"]
        )

    def migrate(self, *arguments: str, code: Path = PROJECT_ROOT) -> str:
        """`billing migrate`, as a process; returns what it printed. Raises StackError when it fails.

        `code`: a directory with another release; a role of it is `add_process(…, env={"PYTHONPATH": str(code)})`.
        """
        result = subprocess.run(
            [sys.executable, "-m", "tools.cli", "migrate", *arguments],
            env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(code), **self.env("migrate")},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=_MIGRATE_TIMEOUT_SECONDS,
        )
        if result.returncode != 0:
            raise StackError(f"billing migrate failed with exit code {result.returncode}: {result.stderr.strip()}")
        return result.stdout

    def _declare(self) -> None:
        """A copy of a migrated database lacks only the streams; a process of its own would take ten times as long as they do."""
        from adapters.nats.topology import reconcile

        async def declare() -> None:
            connection = await nats.connect(**self.nats.client_options("admin"))
            try:
                await reconcile(connection, replicas=self.nats.replicas, dev=True)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as executor:  # the caller may have an event loop of its own
            executor.submit(asyncio.run, declare()).result()

    def env(self, role: Role) -> dict[str, str]:
        """The environment of a process of `role`; `operator` is a person at the command line. Ports are new each time."""
        variables = self.stack.env(role, database=self.database, nats=self.nats)
        variables["LOG_FORMAT"] = "json"
        if self._sandbox is not None and role in ("handlers", "worker"):
            variables |= self._sandbox.env()
        else:
            variables["TENANT_DIRECTORY_FILE"] = str(self.tenants.path)
        if role == "api":
            variables |= self.issuer.env()
        if role in ("handlers", "worker"):
            variables["DATABASE_POOL_SIZE"] = _POOL_SIZE
        return variables | self._env

    @property
    def sandbox(self) -> Sandbox:
        """The outside services. Raises StackError for a mesh without."""
        if self._sandbox is None:
            raise StackError("the mesh was made without a sandbox")
        return self._sandbox

    @property
    def issuer(self) -> Issuer:
        """The token issuer that the shim trusts. Raises StackError before `start`."""
        if self._issuer is None:
            raise StackError("the mesh has not been started")
        return self._issuer

    @property
    def http_url(self) -> str:
        """The HTTP shim's base URL."""
        env = self["api"].env
        return f"http://{env['HTTP_HOST']}:{env['HTTP_PORT']}"

    def token(self, tenant: str, scopes: Sequence[str] = (), ttl_seconds: int = 3600) -> str:
        """A bearer token the shim accepts; without `scopes`, one with all of them."""
        return self.issuer.mint(tenant, scopes or all_scopes(), ttl_seconds)

    def nats_url(self, user: str = "operator") -> str:
        """The NATS URL of a role (`operator`, `handlers`, `admin`, …)."""
        return self.nats.url(user)

    def tenant_nats_url(self, tenant: str) -> str:
        """The NATS URL of a tenant's own user, which may only reach its own subjects and listen below `_INBOX.<tenant>.`."""
        return self.nats.add_tenant(tenant)

    def dsn(self, role: str = "billing_app") -> str:
        """The PostgreSQL URL of `billing_app`, `billing_read`, `billing_relay`, `billing_owner` or `postgres`."""
        return self.stack.postgres.dsn(role, self.database)

    def log_paths(self) -> dict[str, Path]:
        """Log files by process and server name."""
        paths = {process.name: process.log_path for process in self}
        return paths | {"nats": self.nats.log_path, "postgres": self.stack.postgres.log_path}

    def _start_servers(self) -> None:
        if self.stack.owner_pid() is None:
            self.stack.start()
            self._owns_stack = True
        if self._owns_nats:
            self.nats.start()
        if not self.stack.postgres.database_exists(self.database):
            self.stack.postgres.create_database(self.database, self._template)


def all_scopes() -> list[str]:
    """Every scope there is."""
    from schemas.registry import COMMANDS, QUERIES, CommandSpec, QuerySpec

    specs: list[CommandSpec | QuerySpec] = [*COMMANDS.values(), *QUERIES.values()]

    return sorted({spec.scope for spec in specs})
