"""Passwords of PostgreSQL and NATS and the issuer's keys are changed while payments run, and no payment fails.

The hard order: the old password stops working first, every connection made with it is cut, and the new one reaches the mounted
files only a moment later. A client does what the API asks of it: after a 503 or a 202 it sends the same payment again.
"""

import asyncio
import base64
import binascii
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters.nats.connection import connect
from adapters.nats.login import CredentialsLogin
from tests.fixtures.servers import TEMPLATE
from tools.stack import Stack
from tools.stack.mesh import Mesh
from tools.stack.paths import binary
from tools.stack.ports import free_ports
from tools.stack.process import ServerProcess

pytestmark = [pytest.mark.faults, pytest.mark.timeout(110)]

TENANT = "kabul-central"
CLIENTS = 4
PAYMENT_SECONDS = 20.0  # within which a payment is applied, whatever happens
PAUSE_SECONDS = 0.02  # between two payments of a client: load, not a benchmark
LATE_SECONDS = 0.3  # by which the files follow the servers
LOGINS = {"handlers": ("billing_app", "DATABASE_URL"), "worker": ("billing_relay", "DATABASE_RELAY_URL")}


class Mounted:
    """The roles' secrets in files, and database users of this test's own: the stack's are everybody's."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self._stack, self._directory = stack, directory
        self._users = {role: f"rotated_{role}_{secrets.token_hex(4)}" for role in LOGINS}
        directory.mkdir(exist_ok=True)

    def create(self, mesh: Mesh) -> dict[str, dict[str, str]]:
        """The environment of each role, over the mesh's own."""
        for role, user in self._users.items():
            self._execute(f"CREATE ROLE {user} LOGIN IN ROLE {LOGINS[role][0]} PASSWORD '{user}'")
            self.write_database(mesh, role, user)
        for role in ("api", "handlers", "worker"):
            self.write(f"{role}-NATS_URL", mesh.nats_url("shim" if role == "api" else role))
        found = {role: {"NATS_URL": "", "NATS_URL_FILE": self.path(f"{role}-NATS_URL")} for role in (*LOGINS, "api")}
        for role, (_, variable) in LOGINS.items():
            found[role] |= {variable: "", f"{variable}_FILE": self.path(f"{role}-{variable}")}
        return found

    def drop(self) -> None:
        for user in self._users.values():
            self._execute(f"DROP ROLE IF EXISTS {user}")

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def write(self, name: str, value: str) -> None:
        new = self._directory / f"{name}.new"
        new.write_text(value + "\n")
        new.rename(self._directory / name)

    def write_database(self, mesh: Mesh, role: str, password: str) -> None:
        server, variable = f"127.0.0.1:{self._stack.postgres.port}", LOGINS[role][1]
        self.write(f"{role}-{variable}", f"postgresql://{self._users[role]}:{password}@{server}/{mesh.database}")

    async def rotate_databases(self, mesh: Mesh) -> None:
        passwords = {role: secrets.token_hex(16) for role in LOGINS}
        for role, password in passwords.items():
            user = self._users[role]
            await asyncio.to_thread(self._execute, f"ALTER ROLE {user} PASSWORD '{password}'")
            await asyncio.to_thread(
                self._execute, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"
            )
        await asyncio.sleep(LATE_SECONDS)  # new connections are refused meanwhile
        for role, password in passwords.items():
            self.write_database(mesh, role, password)

    async def rotate_nats(self, mesh: Mesh) -> None:
        users = {"api": "shim", "handlers": "handlers", "worker": "worker"}
        urls = {role: await asyncio.to_thread(mesh.nats.rotate_password, user) for role, user in users.items()}
        await asyncio.sleep(LATE_SECONDS)
        for role, url in urls.items():
            self.write(f"{role}-NATS_URL", url)

    def _execute(self, statement: str) -> None:
        self._stack.postgres.execute(statement)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def rig(stack: Stack, directory: Path) -> Iterator[tuple[Mesh, Mounted]]:
    mounted = Mounted(stack, directory)
    with Mesh.isolated(stack, template=TEMPLATE, tenants=(TENANT,), roles=()) as mesh:
        try:
            for role, env in mounted.create(mesh).items():
                mesh.add_process(role, env=env).launch()  # type: ignore[arg-type]
            for process in mesh:
                process.wait_ready()
            yield mesh, mounted
        finally:
            for process in mesh:
                process.stop()
    mounted.drop()  # nothing of theirs is left: the database went with the mesh


class Cashiers:
    """Clients that pay, one payment after the other each, until told to stop."""

    def __init__(self, mesh: Mesh, http: httpx.AsyncClient) -> None:
        self._mesh, self._http = mesh, http
        self.paid = 0
        self.answers: Counter[str] = Counter()
        self._account = ""
        self._stopped = asyncio.Event()
        self._paid_one = asyncio.Condition()

    @asynccontextmanager
    async def paying(self) -> AsyncIterator["Cashiers"]:
        opened = await self._send("/v1/accounts", {"patient": "Patient/1", "currency": "AFN"}, str(uuid4()))
        self._account = opened["result"]["account_id"]
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(self._pay_on())
            try:
                yield self
            finally:
                self._stopped.set()

    async def more(self, payments: int) -> None:
        """Wait until that many more are through."""
        goal = self.paid + payments
        async with asyncio.timeout(2 * PAYMENT_SECONDS):
            async with self._paid_one:
                await self._paid_one.wait_for(lambda: self.paid >= goal)

    async def _pay_on(self) -> None:
        while not self._stopped.is_set():
            amount = {"amount_minor": 100, "currency": "AFN"}
            body = {"account_id": self._account, "amount": amount, "method": "cash"}
            await self._send("/v1/payments", body, str(uuid4()))
            async with self._paid_one:
                self.paid += 1
                self._paid_one.notify_all()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _send(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Until it is decided; anything but success is a failure of the test."""
        deadline = time.monotonic() + PAYMENT_SECONDS
        while time.monotonic() < deadline:
            headers = {"Authorization": f"Bearer {self._mesh.token(TENANT)}", "Idempotency-Key": key}
            response = await self._http.post(path, json=body, headers=headers)
            self.answers[str(response.status_code)] += 1
            if response.status_code in (200, 201):
                decided: dict[str, Any] = response.json()
                return decided
            assert response.status_code in (202, 503), response.text
            await asyncio.sleep(0.05)
        raise AssertionError(f"not applied in {PAYMENT_SECONDS:g} s: {dict(self.answers)}")


async def test_rotations_under_load(rig: tuple[Mesh, Mounted]) -> None:
    mesh, mounted = rig
    before = {process.name: process.pid() for process in mesh}
    async with httpx.AsyncClient(base_url=mesh.http_url, timeout=PAYMENT_SECONDS) as http:
        async with Cashiers(mesh, http).paying() as cashiers:
            await cashiers.more(20)
            assert set(cashiers.answers) == {"200", "201"} or set(cashiers.answers) == {"201"}
            mesh.issuer.rotate()
            await cashiers.more(20)
            mesh.issuer.retire_old_keys()
            await cashiers.more(20)
            assert set(cashiers.answers) <= {"200", "201"}, "a rotation of the issuer's keys was noticed"
            await mounted.rotate_databases(mesh)
            await cashiers.more(40)
            await mounted.rotate_nats(mesh)
            await cashiers.more(40)
            await mounted.rotate_databases(mesh)
            await cashiers.more(20)
    assert {process.name: process.pid() for process in mesh} == before, "a role ended"
    await _books_right(mesh, cashiers.paid)


async def _books_right(mesh: Mesh, payments: int) -> None:
    """Every payment once, and its event published."""
    connection = await asyncpg.connect(mesh.dsn("postgres"))
    try:
        assert await connection.fetchval("SELECT count(*) FROM payment") == payments
        async with asyncio.timeout(PAYMENT_SECONDS):
            while await connection.fetchval("SELECT count(*) FROM outbox WHERE stream = 'events'"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


# --- NATS credentials files (JWT) -------------------------------------------------------------------------------------


NKEY_PREFIXES = {"operator": 14 << 3, "account": 0, "user": 20 << 3}


class Nkey:
    """An Ed25519 key as NATS writes it: base32 of kind, key and CRC-16."""

    def __init__(self, kind: str) -> None:
        self._prefix, self._key = NKEY_PREFIXES[kind], Ed25519PrivateKey.generate()

    @property
    def public(self) -> str:
        return _base32(bytes((self._prefix,)) + self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        seed_prefix = 18 << 3
        head = bytes((seed_prefix | self._prefix >> 5, (self._prefix & 31) << 3))
        return _base32(head + self._key.private_bytes_raw())

    def sign(self, claims: dict[str, Any]) -> str:
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        claims = {"iat": int(time.time()), "iss": self.public, "jti": secrets.token_hex(8)} | claims
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_base64(self._key.sign(signed.encode()))}"


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _credentials(account: Nkey, expires_in_seconds: int | None = None) -> str:
    user = Nkey("user")
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    claims: dict[str, Any] = {"sub": user.public, "nats": {"type": "user", "version": 2} | unlimited}
    if expires_in_seconds is not None:
        claims["exp"] = int(time.time()) + expires_in_seconds
    return (
        f"-----BEGIN NATS USER JWT-----\n{account.sign(claims)}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )


# nats-py leaves the streams of refused attempts to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_credentials_file_is_followed(tmp_path: Path) -> None:
    """A user JWT that runs out, with an unusable file in between: the connection comes back with the new one."""
    operator, account = Nkey("operator"), Nkey("account")
    limits = {"conn": -1, "subs": -1, "data": -1, "payload": -1, "leaf": -1, "imports": -1, "exports": -1}
    claims = {"sub": account.public, "name": "A", "nats": {"type": "account", "version": 2, "limits": limits}}
    (port,) = free_ports(1)
    config = {
        "listen": f"127.0.0.1:{port}",
        "operator": operator.sign({"sub": operator.public, "nats": {"type": "operator", "version": 2}}),
        "resolver": "MEMORY",
        "resolver_preload": {account.public: operator.sign(claims)},
    }
    (tmp_path / "nats.conf").write_text("\n".join(_line(key, value) for key, value in config.items()))
    server = ServerProcess("nats-jwt", tmp_path / "server")
    server.launch([binary("nats-server"), "--config", tmp_path / "nats.conf"])
    file = tmp_path / "billing.creds"
    file.write_text(_credentials(account, expires_in_seconds=2))
    back, away = asyncio.Event(), asyncio.Event()

    async def reconnected() -> None:
        back.set()

    async def disconnected() -> None:
        away.set()

    try:
        async with asyncio.timeout(30):
            login = CredentialsLogin(file)
            client = await connect(
                f"nats://127.0.0.1:{port}",
                login=login,
                name="jwt",
                on_reconnected=reconnected,
                on_disconnected=disconnected,
            )
            _replace(file, "")  # nats-py by itself would now read for ever
            await away.wait()
            _replace(file, "-----BEGIN NATS USER JWT-----\n")
            await asyncio.sleep(LATE_SECONDS)
            assert not client.is_connected
            _replace(file, _credentials(account))
            await back.wait()
            await client.flush()
            await client.close()
    finally:
        server.kill()


def _line(key: str, value: Any) -> str:
    return f"{key}: {json.dumps(value) if isinstance(value, dict) else value}"


def _replace(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.rename(path)
