"""`billing replay export` and `import`: whole files go round, damaged ones and foreign tenants do not get in."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from nats.aio.client import Client

from adapters.nats.topology import COMMANDS_STREAM
from schemas.tenant import TenantProfile
from tests.fixtures.servers import TEMPLATE
from tests.integration.pipeline_support import stream_messages
from tests.integration.replay_support import act, billing, books, on_nats, paid
from tools.stack import Stack
from tools.stack.mesh import Mesh

COUNT = 40
TENANT = "files-hospital"


@pytest.fixture(scope="module")
def source(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE, tenants=(TENANT,), roles=("handlers", "worker")) as running:
        on_nats(running, lambda client: paid(client, TENANT, COUNT))
        yield running


@pytest.fixture(scope="module")
def target(stack: Stack) -> Iterator[Mesh]:
    with Mesh.isolated(stack, template=TEMPLATE, roles=("handlers", "worker")) as running:
        yield running


@pytest.fixture(scope="module")
def exported(source: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "commands.jsonl.zst"
    result = billing(source, "replay", "export", str(path), "--tenant", TENANT, "--reason", "a test", "--json")
    assert (result.code, result.data["count"]) == (0, COUNT + 1), result.err
    return path


async def _commands(client: Client) -> int:
    return (await client.jetstream().stream_info(COMMANDS_STREAM)).state.messages


def test_an_export_has_every_message_with_its_headers(source: Mesh, exported: Path) -> None:
    with exported.open("rb") as file:
        lines = [json.loads(line) for line in zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()]
    assert (lines[0]["region"], lines[0]["stream"]) == ("local-1", COMMANDS_STREAM)
    assert (lines[-1]["end"], lines[-1]["count"]) == (True, COUNT + 1)
    stored = on_nats(source, lambda client: stream_messages(client, COMMANDS_STREAM, f"billing.v1.cmd.{TENANT}.>"))
    assert [line["headers"] for line in lines[1:-1]] == [message.headers for message in stored]
    assert [line["data"].encode() for line in lines[1:-1]] == [message.data for message in stored]


def test_an_import_is_applied_once_however_often(source: Mesh, target: Mesh, exported: Path) -> None:
    target.add_tenant(TENANT)
    shown = billing(target, "replay", "import", str(exported), "--json")
    assert (shown.code, shown.data["count"], shown.data["executed"]) == (0, COUNT + 1, False)
    first = act(target, "replay", "import", str(exported))
    assert (first.code, first.data["applied"]) == (0, COUNT + 1), first.err
    after = books(target, TENANT)
    assert after[TENANT][0] == books(source, TENANT)[TENANT][0]
    second = act(target, "replay", "import", str(exported))
    assert second.code == 0, second.err
    # Within its duplicate window the stream drops them, and nobody answers: that is known at once, not waited for.
    assert (second.data["applied"], second.data["duplicate"], second.data["unheard"]) == (0, COUNT + 1, 0)
    assert books(target, TENANT) == after


def test_an_import_of_a_tenant_that_belongs_elsewhere_sends_nothing(target: Mesh, exported: Path) -> None:
    elsewhere = TenantProfile(tenant_id=TENANT, name="far", region="ae-dubai-1", country_profile="ARE")
    target.add_tenant(elsewhere)
    before = on_nats(target, _commands)
    refused = act(target, "replay", "import", str(exported))
    target.add_tenant(TENANT)
    assert refused.code == 2
    assert "residency_violation" in refused.err
    assert on_nats(target, _commands) == before


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _without_last_line(data: bytes) -> bytes:
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(data).splitlines(keepends=True)
    return zstandard.ZstdCompressor().compress(b"".join(lines[:-1]))


def _one_message_less(data: bytes) -> bytes:
    lines = zstandard.ZstdDecompressor().decompressobj().decompress(data).splitlines(keepends=True)
    return zstandard.ZstdCompressor().compress(b"".join([*lines[:5], *lines[6:]]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "cut off"),
        (_without_last_line, "the last line of a whole export is missing"),
        (_one_message_less, "do not match the export's own count and hash"),
        (lambda _: b"not zstd at all", "not a zstd file"),
        (lambda _: b"", "cut off"),
        (lambda _: zstandard.ZstdCompressor().compress(b'{"hello": 1}\n'), "not an export"),
        (lambda _: zstandard.ZstdCompressor().compress(b"hello\n"), "line 1: not JSON"),
    ],
)
def test_a_damaged_file_is_refused_before_anything_is_sent(
    target: Mesh, exported: Path, tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    damaged = tmp_path / "damaged.zst"
    damaged.write_bytes(damage(exported.read_bytes()))
    before = on_nats(target, _commands)
    result = act(target, "replay", "import", str(damaged))
    assert result.code == 2
    assert words in result.err
    assert on_nats(target, _commands) == before


def test_an_export_overwrites_nothing_and_needs_a_reason(source: Mesh, exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    again = billing(source, "replay", "export", str(exported), "--reason", "x")
    assert again.code == 2
    assert "exists already" in again.err
    assert exported.read_bytes() == content
    nameless = billing(source, "replay", "export", str(tmp_path / "new.zst"))
    assert nameless.code == 2
    assert not list(tmp_path.iterdir())


def test_deleted_messages_in_the_range_are_named(source: Mesh, tmp_path: Path) -> None:
    """In a stream that allows deletes; ours do not, others' may."""

    async def prepare(client: Client) -> None:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="LOOSE", subjects=["loose.>"])
        for number in range(10):
            await jetstream.publish("loose.a", str(number).encode())
        await jetstream.delete_msg("LOOSE", 4)
        await jetstream.purge_stream("LOOSE", seq=3)

    on_nats(source, prepare)
    path = tmp_path / "loose.zst"
    arguments = ("--stream", "LOOSE", "--from-sequence", "1", "--reason", "a test")
    result = billing(source, "replay", "export", str(path), *arguments)
    assert result.code == 0
    assert "messages of the range have expired" in result.err
    assert result.out.startswith("6 messages") or result.out.startswith("7 messages")
