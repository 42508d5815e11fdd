"""Makes what compose.yaml's services need and git must not hold: passwords, a CA and certificates, configurations with them.

    python -m tools.deploy.compose_init DIRECTORY

One folder per service below DIRECTORY (each a volume), nobody's secrets in another's. Passwords and the CA are made once
and kept in `init/`; everything else is written again each time, so certificates are never older than the last `up`.
"""

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tools.sandbox.certificates import Authority
from tools.stack.nats_permissions import ROLES, Permissions, tenant_permissions, tenant_user

SERVICE_UID = 10001  # the image's user
POSTGRES_UID = 999  # of the official image on Debian
NATS_SERVERS = ("nats-1", "nats-2", "nats-3")
NATS_ACCOUNT = "BILLING"
TENANTS = ("kabul-central", "dubai-marina", "herat-clinic")
DATABASE_ROLES = ("billing_owner", "billing_app", "billing_relay", "billing_read")
REPLICATION_ROLE = "billing_replication"
# Which NATS user and which PostgreSQL roles each service connects as; the variables they are given in.
NATS_USERS = {"api": "shim", "handlers": "handlers", "worker": "worker", "migrate": "admin", "operator": "operator"}
DATABASE_USERS = {
    "handlers": {"DATABASE_URL": "billing_app", "DATABASE_READ_URL": "billing_read"},
    "worker": {
        "DATABASE_URL": "billing_app",
        "DATABASE_READ_URL": "billing_read",
        "DATABASE_RELAY_URL": "billing_relay",
    },
    "migrate": {"DATABASE_URL": "billing_owner"},
    "operator": {"DATABASE_URL": "billing_read"},
}
MAX_PAYLOAD_BYTES = 1_048_576
_CA_VALID_FOR = timedelta(days=3650)
_LEAF_VALID_FOR = timedelta(days=397)


def main(directory: Path) -> None:
    kept = _kept(directory / "init")
    authority = _authority(kept)
    passwords: dict[str, str] = kept["passwords"]
    _nats(directory / "nats", authority, passwords)
    _postgres(directory / "postgres", authority, passwords, "postgres")
    _postgres(directory / "postgres-replica", authority, passwords, "postgres-replica")
    _service_credentials(directory, authority, passwords)
    _object_store(directory, kept)
    (directory / "sandbox").mkdir(parents=True, exist_ok=True)
    _give(directory / "sandbox", SERVICE_UID)


def _kept(directory: Path) -> dict[str, Any]:
    """What has to outlive a restart, since servers keep it, too."""
    path = directory / "kept.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    users = [*NATS_USERS.values(), *map(tenant_user, TENANTS), *DATABASE_ROLES, REPLICATION_ROLE, "postgres"]
    certificate, key = _new_authority()
    made = {
        "passwords": {user: secrets.token_hex(16) for user in users},
        "s3": {"accessKey": secrets.token_hex(10).upper(), "secretKey": secrets.token_hex(20)},
        "ca": {"certificate": certificate, "key": key},
    }
    _write(path, json.dumps(made, indent=2))
    return made


def _new_authority() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "billing compose CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _CA_VALID_FOR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _authority(kept: Mapping[str, Any]) -> Authority:
    certificate = x509.load_pem_x509_certificate(kept["ca"]["certificate"].encode())
    key = serialization.load_pem_private_key(kept["ca"]["key"].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  we wrote it
    return Authority(certificate, key)


def _certificates(directory: Path, authority: Authority, name: str, hosts: Sequence[str], stem: str) -> None:
    authority.write(directory / "ca.crt")
    valid_until = datetime.now(UTC) + _LEAF_VALID_FOR
    authority.issue(name, hosts=hosts, valid_until=valid_until).write(directory / stem)


# ---- NATS ----


def _nats(directory: Path, authority: Authority, passwords: Mapping[str, str]) -> None:
    _certificates(directory, authority, "nats", (*NATS_SERVERS, "localhost", "127.0.0.1"), "server")
    for server in NATS_SERVERS:
        _write(directory / f"{server}.conf", json.dumps(nats_config(server, passwords), indent=2))


def nats_config(server: str, passwords: Mapping[str, str], directory: str = "/run/billing") -> dict[str, Any]:
    """One node of the cluster; NATS reads JSON as configuration."""
    tls = {
        "cert_file": f"{directory}/server.crt",
        "key_file": f"{directory}/server.key",
        "ca_file": f"{directory}/ca.crt",
        "verify": True,
    }
    users = [_user(user, passwords[user], ROLES[user]) for user in NATS_USERS.values()]
    users += [
        _user(tenant_user(tenant), passwords[tenant_user(tenant)], tenant_permissions(tenant)) for tenant in TENANTS
    ]
    return {
        "server_name": server,
        "listen": "0.0.0.0:4222",
        # Health checks and KEDA's question; inside the network only.
        "http": "0.0.0.0:8222",
        "max_payload": MAX_PAYLOAD_BYTES,
        "tls": tls,
        # A PubAck for a payment means it is on three disks.
        "jetstream": {"store_dir": "/data", "sync_interval": "always", "max_file_store": 20 * 2**30},
        "cluster": {
            "name": "billing",
            "listen": "0.0.0.0:6222",
            "tls": tls,
            "routes": [f"tls://{peer}:6222" for peer in NATS_SERVERS],
        },
        "accounts": {NATS_ACCOUNT: {"jetstream": "enabled", "users": users}},
    }


def _user(name: str, password: str, granted: Permissions) -> dict[str, Any]:
    publish = {"allow": list(granted.publish), "deny": list(granted.publish_denied)}
    permissions = {"publish": publish, "subscribe": {"allow": list(granted.subscribe)}}
    return {"user": name, "password": password, "permissions": permissions}


# ---- PostgreSQL ----

_HBA = """\
local   all           all                  trust
hostssl all           all             all  scram-sha-256 clientcert=verify-ca
hostssl replication   billing_replication  all  scram-sha-256 clientcert=verify-ca
"""


def _postgres(directory: Path, authority: Authority, passwords: Mapping[str, str], host: str) -> None:
    _certificates(directory, authority, host, (host, "localhost", "127.0.0.1"), "server")
    _write(directory / "pg_hba.conf", _HBA)
    _write(directory / "superuser-password", passwords["postgres"])
    if host == "postgres":
        _write(directory / "roles.sql", roles_sql(passwords))
    else:
        _write(directory / "pgpass", f"*:*:*:{REPLICATION_ROLE}:{passwords[REPLICATION_ROLE]}\n")
    _give(directory, POSTGRES_UID)


def roles_sql(passwords: Mapping[str, str]) -> str:
    """No role is a superuser or passes row-level security; what each may do is granted by migrations."""
    options = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"
    statements = [f"CREATE ROLE {role} {options} PASSWORD '{passwords[role]}';" for role in DATABASE_ROLES]
    statements.append(f"CREATE ROLE {REPLICATION_ROLE} LOGIN REPLICATION PASSWORD '{passwords[REPLICATION_ROLE]}';")
    statements.append("CREATE DATABASE billing OWNER billing_owner;")
    return "\n".join(statements) + "\n"


# ---- our own roles ----


def _service_credentials(directory: Path, authority: Authority, passwords: Mapping[str, str]) -> None:
    for service, user in NATS_USERS.items():
        own = directory / service
        _certificates(own, authority, f"billing-{service}", (), "client")
        servers = [f"tls://{user}:{passwords[user]}@{server}:4222" for server in NATS_SERVERS]
        _write(own / "NATS_URL", ",".join(servers))
        for variable, role in DATABASE_USERS.get(service, {}).items():
            host = "postgres-replica" if variable == "DATABASE_READ_URL" else "postgres"
            _write(own / variable, f"postgresql://{role}:{passwords[role]}@{host}:5432/billing")
        _give(own, SERVICE_UID)


def _object_store(directory: Path, kept: Mapping[str, Any]) -> None:
    identity = {"name": "billing", "credentials": [kept["s3"]], "actions": ["Admin", "Read", "Write", "List"]}
    _write(directory / "seaweedfs" / "s3.json", json.dumps({"identities": [identity]}))
    for service in ("handlers", "worker"):
        _write(directory / service / "OBJECT_STORE_ACCESS_KEY_ID", kept["s3"]["accessKey"])
        _write(directory / service / "OBJECT_STORE_SECRET_ACCESS_KEY", kept["s3"]["secretKey"])
        _give(directory / service, SERVICE_UID)


def _write(path: Path, text: str) -> None:
    """Replaced in one step; only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.touch(mode=0o600)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _give(directory: Path, uid: int) -> None:
    """To the user the service runs as; only root can, and a test need not be."""
    if os.geteuid() != 0:
        return
    for path in (directory, *directory.rglob("*")):
        os.chown(path, uid, uid)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
