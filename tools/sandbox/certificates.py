"""A private certificate authority for development and tests: real X.509, P-256, made in milliseconds.

authority = Authority.create("billing sandbox CA")
authority.issue("tenant-service", hosts=("127.0.0.1", "localhost")).write(directory / "server")
"""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_FOR = timedelta(days=7)  # longer than any stack runs unattended; the process makes new ones when it starts
_CLOCK_SKEW = timedelta(minutes=5)
_PURPOSES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


class WrittenPair(NamedTuple):
    certificate: Path
    key: Path


class Pair(NamedTuple):
    """A certificate and its private key, both PEM. `serial` is its number as Python's `getpeercert` writes it."""

    certificate: bytes
    key: bytes
    serial: str

    def write(self, stem: Path) -> WrittenPair:
        """`<stem>.crt` and `<stem>.key`, each replaced in one step; the key is its owner's alone."""
        paths = WrittenPair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        stem.parent.mkdir(parents=True, exist_ok=True)
        _replace(paths.key, self.key, 0o600)
        _replace(paths.certificate, self.certificate, 0o644)
        return paths


class Authority(NamedTuple):
    """A self-signed CA."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), *_validity(None, None))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, self.pem, 0o644)
        return path

    def issue(
        self,
        name: str,
        *,
        hosts: Sequence[str] = (),
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
    ) -> Pair:
        """A leaf for a server (its `hosts`, names or addresses) or a client (none needed)."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(name), self.certificate.subject, key.public_key(), *_validity(valid_from, valid_until))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self.key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        serial = f"{certificate.serial_number:X}"
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM), private, serial.zfill(len(serial) + len(serial) % 2)
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _validity(start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return start or now - _CLOCK_SKEW, end or now + VALID_FOR


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _replace(path: Path, content: bytes, mode: int) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    unfinished.touch(mode=mode)
    unfinished.write_bytes(content)
    unfinished.replace(path)
