"""Mounted secrets: followed when they change, kept when a rotation is caught half way, and never shown by accident."""

import os
import pickle
import time
from pathlib import Path

import pytest
import structlog
from prometheus_client import REGISTRY

from adapters import secrets
from adapters.secrets import MAX_BYTES, InvalidSecretName, Secret, SecretDirectory

NAME = "PAYMENT_GATEWAY_API_KEY_kabul-hospital"


class Mount:
    """A directory as Kubernetes mounts a secret: `NAME -> ..data/NAME`, `..data -> ..<version>`, swapped with one rename."""

    def __init__(self, path: Path) -> None:
        self.path, self._version = path, 0

    def swap(self, values: dict[str, bytes]) -> None:
        self._version += 1
        version = self.path / f"..{self._version}"
        version.mkdir()
        for name, value in values.items():
            (version / name).write_bytes(value)
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        new = self.path / "..data_tmp"
        new.symlink_to(version.name)
        new.rename(self.path / "..data")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    mount = Mount(tmp_path)
    mount.swap({NAME: b"first\n"})
    return mount


def _value(directory: SecretDirectory, name: str = NAME) -> str | None:
    secret = directory.get(name)
    return None if secret is None else secret.reveal()


def _count(outcome: str) -> float:
    return REGISTRY.get_sample_value("billing_secret_reads_total", {"outcome": outcome}) or 0.0


def test_a_swapped_directory_counts_at_once(mount: Mount) -> None:
    directory = SecretDirectory(mount.path)
    assert _value(directory) == "first"
    changes = _count("changed")
    with structlog.testing.capture_logs() as logs:
        mount.swap({NAME: b"second\r\n"})
        assert _value(directory) == "second"
    assert [(line["event"], line["secret_name"]) for line in logs] == [("secret_changed", NAME)]
    assert "second" not in repr(logs)
    assert _count("changed") == changes + 1


def test_an_equal_value_is_no_news(mount: Mount) -> None:
    directory = SecretDirectory(mount.path)
    assert _value(directory) == "first"
    with structlog.testing.capture_logs() as logs:
        mount.swap({NAME: b"first\n"})
        assert _value(directory) == "first"
    assert logs == []


def test_an_unchanged_file_is_not_read_again(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = SecretDirectory(mount.path)
    assert _value(directory) == "first"
    monkeypatch.setattr(secrets, "_read", None)  # a second reading would raise TypeError
    assert _value(directory) == "first"


UNUSABLE = {
    "empty": b"",
    "only a line break": b"\n",
    "blank": b"  \t ",
    "too long": b"x" * (MAX_BYTES + 1),
    "not text": b"caf\xe9",
    "two lines": b"one\ntwo",
    "a header of its own": b"one\r\nX-Evil: yes",
    "nul": b"one\0",
}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_file_leaves_the_last_good_value(mount: Mount, content: bytes) -> None:
    directory = SecretDirectory(mount.path)
    assert _value(directory) == "first"
    stale = REGISTRY.get_sample_value("billing_secrets_stale")
    assert stale is not None
    with structlog.testing.capture_logs() as logs:
        mount.swap({NAME: content})
        assert _value(directory) == "first"
        assert _value(directory) == "first"
    assert [(line["event"], line["secret_name"], line["last_good"]) for line in logs] == [
        ("secret_unusable", NAME, True)
    ]
    assert REGISTRY.get_sample_value("billing_secrets_stale") == stale + 1
    mount.swap({NAME: b"second"})
    assert _value(directory) == "second"
    assert REGISTRY.get_sample_value("billing_secrets_stale") == stale


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_file_is_no_secret_at_first(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert SecretDirectory(tmp_path).get(NAME) is None


def test_a_file_written_in_place_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_text("first")
    directory = SecretDirectory(tmp_path)
    assert _value(directory) == "first"
    with file.open("w") as writing:
        writing.write("sec")
        writing.flush()
        assert _value(directory) == "first"  # half of it is there
        writing.write("ond")
    _age(file, secrets.SETTLE_SECONDS)
    assert _value(directory) == "second"


def test_a_rename_counts_at_once(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("first")
    directory = SecretDirectory(tmp_path)
    assert _value(directory) == "first"
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").rename(tmp_path / NAME)
    assert _value(directory) == "second"


def test_a_secret_taken_away_is_obeyed_after_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_text("first")
    directory = SecretDirectory(tmp_path)
    assert _value(directory) == "first"
    (tmp_path / NAME).unlink()
    assert _value(directory) == "first"
    monkeypatch.setattr(secrets, "GONE_AFTER_SECONDS", 0.0)
    assert _value(directory) is None
    (tmp_path / NAME).write_text("again")
    assert _value(directory) == "again"


def test_one_that_appears_later_is_found(tmp_path: Path) -> None:
    directory = SecretDirectory(tmp_path)
    assert directory.get(NAME) is None
    (tmp_path / NAME).write_text("now")
    assert _value(directory) == "now"


@pytest.mark.parametrize("name", ["", ".", "..", "..data", "../x", "a/b", "/etc/passwd", "a\0b", "x" * 129, "a\n"])
def test_names_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSecretName) as caught:
        SecretDirectory(tmp_path).get(name)
    assert name == "" or name not in str(caught.value)


def test_what_is_no_file_is_no_secret_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "PIPE")
    (tmp_path / "DIRECTORY").mkdir()
    directory = SecretDirectory(tmp_path)
    assert directory.get("PIPE") is None
    assert directory.get("DIRECTORY") is None


def test_a_credentials_file_may_have_lines(tmp_path: Path) -> None:
    (tmp_path / "NATS_CREDS").write_text("-----BEGIN\nline\n-----END\n")
    secret = SecretDirectory(tmp_path).get("NATS_CREDS", multiline=True)
    assert secret is not None
    assert secret.reveal().splitlines() == ["-----BEGIN", "line", "-----END"]


def test_the_environment_answers_in_development_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENT_GATEWAY_API_KEY_KABUL_HOSPITAL", "from the environment")
    assert SecretDirectory(tmp_path).get(NAME) is None
    assert SecretDirectory(None).get(NAME) is None
    development = SecretDirectory(tmp_path, environment_fallback=True)
    assert _value(development) == "from the environment"
    (tmp_path / NAME).write_text("from the file")
    assert _value(development) == "from the file"
    assert development.payment_gateway_key("kabul-hospital") == Secret("from the file")
    assert development.payment_gateway_key("herat") is None


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s %r" % (secret, secret), repr([secret])]  # noqa: UP031
    assert [text for text in shown if "hunter2" in text] == []
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")
    assert secret.reveal() == "hunter2"


def _age(file: Path, seconds: float) -> None:
    then = time.time_ns() - int((seconds + 1) * 1e9)
    os.utime(file, ns=(then, then))
