"""Contact keys that KMS has wrapped: unwrapped over its wire protocol by a stand-in, since there is no KMS to be had here."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters.contact_keys import ContactKeyError, ContactKeys, Place

PLACE = Place("kabul-central", "account", "1", "guarantor")
KEY = bytes(range(32))
WAIT_SECONDS = 10


class StandIn:
    """Answers `Decrypt` as KMS does: a ciphertext is a name here, and the context it was wrapped with has to be given."""

    def __init__(self) -> None:
        self.wrapped = {b"wrapped-1": (KEY, {"purpose": "billing-contact-data", "key": "2026-01"})}
        self.asked = 0
        self.answering = threading.Event()
        self.answering.set()
        self.url = ""

    def answer(self, target: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked += 1
        self.answering.wait(WAIT_SECONDS)
        assert target == "TrentService.Decrypt"
        key, context = self.wrapped.get(base64.b64decode(body["CiphertextBlob"]), (b"", None))
        if context is None or body["EncryptionContext"] != context:
            return 400, {"__type": "InvalidCiphertextException"}
        return 200, {"Plaintext": base64.b64encode(key).decode(), "KeyId": "arn:aws:kms:me-central-1:0:key/1"}


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = stand_in.answer(self.headers["X-Amz-Target"], body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", stand_in.url)
    for name, value in (("REGION", "me-central-1"), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "me-central-1")
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()


def keys(path: Path, line: str) -> ContactKeys:
    path.write_text(line)
    return ContactKeys(path)


def wrapped(key_id: str, ciphertext: bytes) -> str:
    return f"{key_id} kms:{base64.b64encode(ciphertext).decode()}\n"


def test_a_wrapped_key_is_the_key_that_was_wrapped_and_asked_for_once(kms: StandIn, tmp_path: Path) -> None:
    opened = keys(tmp_path / "wrapped", wrapped("2026-01", b"wrapped-1"))
    sealed = opened.seal(PLACE, "Ahmad")
    plain = keys(tmp_path / "plain", f"2026-01 {base64.b64encode(KEY).decode()}\n")
    assert plain.open(PLACE, sealed) == opened.open(PLACE, sealed) == "Ahmad"
    assert kms.asked == 1


@pytest.mark.parametrize(("key_id", "ciphertext"), [("2026-07", b"wrapped-1"), ("2026-01", b"other")])
def test_a_key_of_another_name_or_of_nobody_is_refused_by_name(
    kms: StandIn, tmp_path: Path, key_id: str, ciphertext: bytes
) -> None:
    with pytest.raises(ContactKeyError, match="KMS refuses: InvalidCiphertextException"):
        keys(tmp_path / "keys", wrapped(key_id, ciphertext))


def test_a_rotation_does_not_wait_for_kms(kms: StandIn, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    opened = keys(path, wrapped("2026-01", b"wrapped-1"))
    old = opened.seal(PLACE, "Ahmad")
    kms.wrapped[b"wrapped-2"] = bytes(32), {"purpose": "billing-contact-data", "key": "2026-07"}
    kms.answering.clear()
    new = path.with_name("new")
    new.write_text(wrapped("2026-07", b"wrapped-2") + wrapped("2026-01", b"wrapped-1"))
    new.rename(path)
    assert opened.seal(PLACE, "Ahmad") == old  # while KMS is being asked
    kms.answering.set()
    deadline = time.monotonic() + WAIT_SECONDS
    while opened.seal(PLACE, "Ahmad") == old:
        assert time.monotonic() < deadline
    assert ":2026-07:" in opened.seal(PLACE, "Ahmad") and opened.open(PLACE, old) == "Ahmad"


def test_without_kms_there_is_no_start(kms: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    with pytest.raises(ContactKeyError, match="KMS does not answer"):
        keys(tmp_path / "keys", wrapped("2026-01", b"wrapped-1"))
