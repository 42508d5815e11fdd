"""TLS where it is promised, with certificates made here: neighbours over HTTPS, NATS over mTLS, PostgreSQL verify-full."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from nats.errors import Error as NatsError
from pydantic import SecretStr
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from adapters.nats.connection import connect
from adapters.nats.tls import tls_of
from adapters.neighbours.client import Ask, Neighbour, Unavailable
from adapters.neighbours.pools import Limits
from adapters.postgres.database import Database
from adapters.settings import NatsSettings
from adapters.tls import TlsFiles, client_context
from tools.sandbox.certificates import Authority, Pair
from tools.sandbox.listener import HOST, Listener, ServerTls
from tools.stack.nats_server import NatsServer
from tools.stack.paths import give_to_server, passable, server_identity
from tools.stack.ports import free_ports
from tools.stack.process import ServerProcess

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
WAIT_SECONDS = 30
LIMITS = Limits(connect_seconds=5, read_seconds=5, deadline_seconds=10, tries=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("hospital CA")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    """Our side: the CA we trust, our certificate and key."""
    pair = authority.issue("billing").write(tmp_path / "client")
    return TlsFiles(authority.write(tmp_path / "ca.crt"), pair.certificate, pair.key)


# --- neighbours -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def https(authority: Authority, pair: Pair, directory: Path) -> AsyncIterator[str]:
    """A service that wants a client certificate of `authority`; yields its URL."""
    written = pair.write(directory / "server")
    tls = ServerTls(ca=authority.write(directory / "trusted.crt"), certificate=written.certificate, key=written.key)
    app = Starlette(routes=[Route("/", lambda _request: JSONResponse({"well": True}))])
    listener = Listener(app, free_ports(1)[0], tls)
    await listener.up()
    try:
        yield listener.url
    finally:
        listener.down()


async def outcome(url: str, files: TlsFiles) -> str:
    neighbour = Neighbour("peer", url, tls=client_context(files), limits=LIMITS)
    try:
        return await neighbour.ask(Ask("GET", "/"), lambda reply: reply.body.decode())
    except Unavailable as error:
        return error.outcome
    finally:
        await neighbour.aclose()


OK = '{"well":true}'


async def test_a_neighbour_with_a_certificate_of_our_ca_is_spoken_to(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    async with https(authority, authority.issue("peer", hosts=(HOST,)), tmp_path) as url:
        assert await outcome(url, files) == OK


@pytest.mark.parametrize("wrong", ["host", "expired", "not yet valid", "another CA"])
async def test_a_neighbour_that_cannot_prove_who_it_is_is_refused(
    wrong: str, authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    now, day = datetime.now(UTC), timedelta(days=1)
    stranger = Authority.create("hospital CA")  # the same name, another key
    pair = {
        "host": authority.issue("peer", hosts=("elsewhere.example",)),
        "expired": authority.issue("peer", hosts=(HOST,), valid_from=now - 2 * day, valid_until=now - day),
        "not yet valid": authority.issue("peer", hosts=(HOST,), valid_from=now + day, valid_until=now + 2 * day),
        "another CA": stranger.issue("peer", hosts=(HOST,)),
    }[wrong]
    async with https(authority, pair, tmp_path) as url:
        assert await outcome(url, files) == "unreachable"


async def test_without_our_certificate_a_neighbour_refuses_us(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    async with https(authority, authority.issue("peer", hosts=(HOST,)), tmp_path) as url:
        assert await outcome(url, files._replace(certificate=None, key=None)) == "unreachable"
        other = Authority.create("stranger").issue("billing").write(tmp_path / "stranger")
        assert await outcome(url, files._replace(certificate=other.certificate, key=other.key)) == "unreachable"


async def test_a_new_ca_and_a_torn_rotation(authority: Authority, files: TlsFiles, tmp_path: Path) -> None:
    """The CA changes without a restart; a certificate without its key (half a rotation) leaves the last good pair in use."""
    assert files.ca and files.certificate and files.key
    context = client_context(files)
    successor = Authority.create("next CA")

    async def ask(url: str) -> str:
        neighbour = Neighbour("peer", url, tls=context, limits=LIMITS)
        try:
            return await neighbour.ask(Ask("GET", "/"), lambda reply: reply.body.decode())
        except Unavailable as error:
            return error.outcome
        finally:
            await neighbour.aclose()

    async with https(authority, successor.issue("peer", hosts=(HOST,)), tmp_path) as url:
        assert await ask(url) == "unreachable"
        files.ca.write_bytes(authority.pem + successor.pem)
        assert await ask(url) == OK
        renewed = authority.issue("billing")
        files.certificate.write_bytes(renewed.certificate)  # and its key is still the old one's
        assert await ask(url) == OK
        files.key.write_bytes(renewed.key)
        assert await ask(url) == OK


# --- NATS -------------------------------------------------------------------------------------------------------------


def nats_settings(server: NatsServer, files: TlsFiles) -> NatsSettings:
    return NatsSettings(
        nats_url=SecretStr(server.url("handlers")),
        nats_tls_ca_file=files.ca,
        nats_tls_cert_file=files.certificate,
        nats_tls_key_file=files.key,
    )


@pytest.fixture
def nats_tls(authority: Authority, tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server that speaks TLS only, and only to clients with a certificate of the CA."""
    pair = authority.issue("nats", hosts=(HOST, "localhost")).write(tmp_path / "nats-tls")
    tls = TlsFiles(authority.write(tmp_path / "nats-ca.crt"), pair.certificate, pair.key)
    with NatsServer(tmp_path / "nats", tls=tls) as server:
        yield server


async def test_nats_over_mtls_and_a_certificate_renewed_before_a_reconnect(
    nats_tls: NatsServer, authority: Authority, files: TlsFiles
) -> None:
    assert files.ca and files.certificate and files.key
    settings = nats_settings(nats_tls, files)
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    client = await connect(settings.servers, tls=tls_of(settings), name="tls-test", on_reconnected=reconnected)
    try:
        assert nats_tls.monitor("varz")["tls_verify"] is True
        await client.flush()
        renewed = authority.issue("billing-renewed")
        files.key.write_bytes(renewed.key)
        files.certificate.write_bytes(renewed.certificate)
        nats_tls.restart()
        async with asyncio.timeout(WAIT_SECONDS):
            await back.wait()
        await client.flush()
        [connection] = nats_tls.monitor("connz?auth=true")["connections"]
        assert connection["tls_version"]
        subject = connection["tls_peer_certs"][0]["subject"]
        assert "billing-renewed" in subject
    finally:
        await client.close()


@pytest.mark.parametrize("wrong", ["no certificate", "stranger's certificate", "another CA"])
async def test_nats_refuses_and_is_refused(wrong: str, nats_tls: NatsServer, files: TlsFiles, tmp_path: Path) -> None:
    stranger = Authority.create("stranger")
    pair = stranger.issue("billing").write(tmp_path / "stranger")
    given = {
        "no certificate": files._replace(certificate=None, key=None),
        "stranger's certificate": files._replace(certificate=pair.certificate, key=pair.key),
        "another CA": files._replace(ca=stranger.write(tmp_path / "stranger-ca.crt")),
    }[wrong]
    settings = nats_settings(nats_tls, given)
    failed = asyncio.Event()

    def noted(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if event.get("event") == "nats_error":
            failed.set()
        return event

    structlog.configure(processors=[noted, structlog.processors.KeyValueRenderer()])
    attempt = asyncio.create_task(connect(settings.servers, tls=tls_of(settings), name="tls-test"))
    try:
        # `connect` goes on trying for ever: what shows the refusal is the error of a try.
        done, _ = await asyncio.wait(
            {attempt, asyncio.create_task(failed.wait())}, timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        assert done
        assert not attempt.done() or isinstance(attempt.exception(), NatsError | OSError)
        assert nats_tls.monitor("connz")["num_connections"] == 0
    finally:
        structlog.reset_defaults()
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres_tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's PostgreSQL with TLS only; yields `user:password@host:port/database`. The wheel's build has no TLS."""
    if not DEBIAN:
        pytest.skip("needs a PostgreSQL with TLS in /usr/lib/postgresql (Debian: apt-get install postgresql)")
    directory = Path("/var/tmp") / f"billing-tls-{secrets.token_hex(4)}"  # noqa: S108  nobody must pass through to it
    passable(directory)
    binaries, data, password = DEBIAN[-1].parent, directory / "data", secrets.token_hex(16)
    (directory / "password").write_text(password)
    pair = authority.issue("postgres", hosts=("localhost",)).write(directory / "server")
    authority.write(directory / "ca.crt")
    give_to_server(directory)
    identity = server_identity()
    as_server = {"user": identity.uid, "group": identity.gid, "extra_groups": []} if identity else {}
    subprocess.run(
        [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "billing",
            "--auth=scram-sha-256",
            f"--pwfile={directory / 'password'}",
            "-E",
            "UTF8",
        ],
        check=True,
        capture_output=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        **as_server,  # type: ignore[call-overload]
    )
    port = free_ports(1)[0]
    (data / "postgresql.conf").write_text(
        f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nfsync = off\nssl = on\n"
        f"ssl_cert_file = '{pair.certificate}'\nssl_key_file = '{pair.key}'\nssl_ca_file = '{directory / 'ca.crt'}'\n"
    )
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n")
    give_to_server(directory)
    process = ServerProcess("postgres-tls", directory, death_signal=signal.SIGQUIT)
    process.launch([binaries / "postgres", "-D", data], run_as=identity)
    try:
        process.wait_ready(lambda: "ready" in _pid_lines(data), WAIT_SECONDS)
        yield f"billing:{password}@{{host}}:{port}/postgres"
    finally:
        process.stop(signal.SIGINT, signal.SIGQUIT, WAIT_SECONDS)
        shutil.rmtree(directory, ignore_errors=True)


def _pid_lines(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except OSError:
        return []


def dsn(where: str, files: TlsFiles, host: str = "localhost") -> str:
    query = f"sslmode=verify-full&sslrootcert={files.ca}"
    if files.certificate is not None:
        query += f"&sslcert={files.certificate}&sslkey={files.key}"
    return f"postgresql://{where.format(host=host)}?{query}"


async def speaks(url: str) -> str:
    """What PostgreSQL says about the connection, or the kind of error."""
    database = Database(url, application_name="tls-test", pool_size=1)
    try:
        async with database.reading("t-1") as connection:
            return str(
                (
                    await connection.execute(text("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
                ).scalar()
            )
    except OSError as error:  # ssl.SSLError is one
        return type(error).__name__
    finally:
        await database.close()


async def test_postgres_verify_full(postgres_tls: str, files: TlsFiles, tmp_path: Path) -> None:
    assert (await speaks(dsn(postgres_tls, files))).startswith("TLSv1.")
    assert await speaks(dsn(postgres_tls, files, host="127.0.0.1")) == "SSLCertVerificationError"  # not its name
    stranger = Authority.create("stranger").write(tmp_path / "stranger.crt")
    assert await speaks(dsn(postgres_tls, files._replace(ca=stranger))) == "SSLCertVerificationError"
