"""The object store against a real S3 server: whole objects or none, digests, links, regions, and what goes wrong."""

import asyncio
import hashlib
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
from botocore.exceptions import (  # type: ignore[import-untyped]
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
)
from pydantic import SecretStr

from adapters.objects import (
    ObjectCorrupt,
    ObjectNotFound,
    ObjectStore,
    ObjectStoreDenied,
    ObjectStoreError,
    ObjectStoreFull,
    ObjectStoreMisconfigured,
    ObjectStoreMisplaced,
    ObjectStoreUnavailable,
)
from adapters.objects.errors import translated
from adapters.objects.upload import PART_BYTES, Upload
from adapters.settings import ObjectStoreSettings
from tools.stack import SeaweedFS, Stack, seaweedfs

KEY = "local-1/t-1/statements/1405-08/one.pdf"
KMS_KEY = "billing-test-key"


@pytest.fixture(scope="module")
def server(stack: Stack) -> Iterator[SeaweedFS]:
    """A server of the module's own, with a key service of its own (SeaweedFS' local KMS), so that encryption is real."""
    patch = pytest.MonkeyPatch()
    plain = seaweedfs._identities
    kms = {"default_provider": "local", "providers": {"local": {"type": "local", "enableOnDemandCreate": True}}}
    patch.setattr(seaweedfs, "_identities", lambda state: {**plain(state), "kms": kms})
    with SeaweedFS(stack.directory / "objects-of-test-objects") as started:
        yield started
    patch.undo()


def settings(server: SeaweedFS, **other: object) -> ObjectStoreSettings:
    """Not validated: SeaweedFS' KMS has no ARNs."""
    whole = ObjectStoreSettings(
        object_store_bucket=server.bucket,
        object_store_endpoint_url=server.endpoint_url,
        object_store_access_key_id=SecretStr(server.access_key_id),
        object_store_secret_access_key=SecretStr(server.secret_access_key),
    )
    return whole.model_copy(update=other)


@pytest.fixture
async def store(server: SeaweedFS) -> AsyncIterator[ObjectStore]:
    async with ObjectStore.open(settings(server)) as opened:
        yield opened


async def test_what_is_put_is_what_is_got(store: ObjectStore) -> None:
    data = b"%PDF-1.7 \x00\xff"
    stored = await store.put(KEY, data, content_type="application/pdf", metadata={"run": "r-1"})
    assert stored == (KEY, len(data), hashlib.sha256(data).digest())
    assert await store.get(KEY) == data
    info = await store.head(KEY)
    assert info is not None
    assert (info.size_bytes, info.content_type, info.sha256) == (len(data), "application/pdf", stored.sha256)
    assert (info.metadata, info.encryption) == ({"run": "r-1"}, None)
    await store.put(KEY, b"again", content_type="text/plain")
    assert await store.get(KEY) == b"again"


async def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    assert await store.head("local-1/t-1/nothing") is None
    with pytest.raises(ObjectNotFound, match="get local-1/t-1/nothing: NoSuchKey"):
        await store.get("local-1/t-1/nothing")


async def test_a_digest_that_is_not_the_datas_is_refused_and_nothing_kept(store: ObjectStore) -> None:
    key = "local-1/t-1/damaged"
    with pytest.raises(ObjectCorrupt):
        await store.put(key, b"data", content_type="text/plain", sha256=hashlib.sha256(b"other").digest())
    assert await store.head(key) is None


async def test_damage_at_rest_is_noticed(store: ObjectStore) -> None:
    key = "local-1/t-1/rotten"
    async with store.upload(
        key, content_type="text/plain", metadata={"sha256": hashlib.sha256(b"a").hexdigest()}
    ) as up:
        await up.write(b"b")
    with pytest.raises(ObjectCorrupt, match="recorded SHA-256"):
        await store.get(key)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 12_345])
async def test_a_streamed_object_is_whole_at_the_end_and_not_before(store: ObjectStore, size: int) -> None:
    key, data = f"local-1/t-1/gl/{size}.csv", bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    async with store.upload(key, content_type="text/csv", metadata={"rows": "9"}) as upload:
        for at in range(0, size, 1_000_003):
            await upload.write(data[at : at + 1_000_003])
        assert upload.size_bytes == size
        assert await store.head(key) is None
    assert upload.stored == (key, size, hashlib.sha256(data).digest())
    assert await store.get(key) == data
    info = await store.head(key)
    assert info is not None
    assert (info.content_type, info.metadata) == ("text/csv", {"rows": "9"})


@pytest.mark.parametrize("size", [10, PART_BYTES + 10])
async def test_an_error_inside_leaves_what_was_there_and_no_parts(store: ObjectStore, size: int) -> None:
    key = f"local-1/t-1/aborted/{size}"
    await store.put(key, b"before", content_type="text/plain")
    with pytest.raises(ZeroDivisionError):
        async with store.upload(key, content_type="text/plain") as upload:
            await upload.write(bytes(size))
            raise ZeroDivisionError
    assert upload.stored is None
    assert await store.get(key) == b"before"
    assert await store.abandon_uploads("local-1/t-1/aborted/") == 0


async def test_cancellation_aborts_too(store: ObjectStore) -> None:
    key, written = "local-1/t-1/cancelled/x", asyncio.Event()

    async def write() -> None:
        async with store.upload(key, content_type="text/plain") as upload:
            await upload.write(bytes(PART_BYTES))
            written.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(write())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.head(key) is None
    assert await store.abandon_uploads("local-1/t-1/cancelled/") == 0


async def test_what_a_killed_process_left_can_be_dropped(server: SeaweedFS, store: ObjectStore) -> None:
    for name in ("left/a", "left/b", "other/c"):  # begun, and neither finished nor aborted, as after kill -9
        upload = Upload(store._client, {"Bucket": server.bucket, "Key": f"local-1/t-1/{name}"}, {})
        await upload.write(bytes(PART_BYTES))
    assert await store.abandon_uploads("local-1/t-1/left/") == 2
    assert await store.abandon_uploads("local-1/t-1/left/") == 0
    assert await store.abandon_uploads("local-1/t-1/other/") == 1


async def test_a_link_works_for_whoever_has_it_until_it_expires(store: ObjectStore) -> None:
    await store.put(KEY, b"linked", content_type="application/pdf")
    link, short = await store.presigned_get(KEY, 60), await store.presigned_get(KEY, 1)
    assert await asyncio.to_thread(_read, link) == b"linked"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await asyncio.to_thread(_read, link.replace("one.pdf", "two.pdf"))
    await asyncio.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await asyncio.to_thread(_read, short)
    for seconds in (0, 7 * 24 * 3600 + 1):
        with pytest.raises(ValueError, match="a link lives"):
            await store.presigned_get(KEY, seconds)


async def test_objects_are_encrypted_with_the_key_of_the_deployment(server: SeaweedFS) -> None:
    async with ObjectStore.open(settings(server, kms_key_arn=KMS_KEY)) as store:
        await store.put("local-1/t-1/secret", b"whole", content_type="text/plain")
        async with store.upload("local-1/t-1/secret-parts", content_type="text/plain") as upload:
            await upload.write(bytes(PART_BYTES + 1))
        for key, data in (("secret", b"whole"), ("secret-parts", bytes(PART_BYTES + 1))):
            info = await store.head(f"local-1/t-1/{key}")
            assert info is not None
            assert info.encryption == "aws:kms"
            assert await store.get(f"local-1/t-1/{key}") == data


async def test_a_bucket_of_another_region_ends_the_start(server: SeaweedFS) -> None:
    with pytest.raises(ObjectStoreMisplaced, match=r"is in us-east-1, .* in me-central-1") as raised:
        async with ObjectStore.open(settings(server, object_store_region="me-central-1")):
            pytest.fail("opened")
    assert (raised.value.code, raised.value.retryable) == ("object_store_misplaced", False)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"object_store_secret_access_key": SecretStr("x" * 40)}, ObjectStoreDenied),
        ({"object_store_access_key_id": SecretStr("NOBODY")}, ObjectStoreDenied),
        ({"object_store_bucket": "no-such-bucket"}, ObjectStoreMisconfigured),
        ({"object_store_endpoint_url": "http://127.0.0.1:1"}, ObjectStoreUnavailable),
        ({"object_store_endpoint_url": "http://nowhere.invalid"}, ObjectStoreUnavailable),
    ],
)
async def test_what_is_wrong_at_the_start_is_named_without_secrets(
    server: SeaweedFS, change: dict[str, object], kind: type[ObjectStoreError]
) -> None:
    with pytest.raises(kind) as raised:
        async with ObjectStore.open(settings(server, **change), attempts=1):
            pytest.fail("opened")
    assert type(raised.value) is kind
    assert "x" * 40 not in str(raised.value)
    assert server.secret_access_key not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (("InsufficientStorage", 507), ObjectStoreFull),
        (("QuotaExceeded", 403), ObjectStoreFull),
        (("XMinioStorageFull", 507), ObjectStoreFull),
        (("Unknown", 507), ObjectStoreFull),
        (("AccessDenied", 403), ObjectStoreDenied),
        (("SlowDown", 503), ObjectStoreUnavailable),
        (("InternalError", 500), ObjectStoreUnavailable),
        (("PermanentRedirect", 301), ObjectStoreMisplaced),
        (("KMS.NotFoundException", 400), ObjectStoreMisconfigured),
        (("EntityTooLarge", 400), ObjectStoreError),
        (("404", 404), ObjectNotFound),
    ],
)
def test_every_answer_has_one_meaning(error: tuple[str, int], kind: type[ObjectStoreError]) -> None:
    code, status = error
    answer = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")
    assert type(translated(answer, "put k")) is kind


def test_no_answer_is_unavailable_and_no_credentials_are_denied() -> None:
    for error in (
        EndpointConnectionError(endpoint_url="x"),
        ConnectTimeoutError(endpoint_url="x"),
        TimeoutError(),
        OSError(),
    ):
        assert type(translated(error, "put k")) is ObjectStoreUnavailable
    assert type(translated(NoCredentialsError(), "put k")) is ObjectStoreDenied


async def test_a_restart_is_ridden_out_and_an_outage_is_named(server: SeaweedFS) -> None:
    """Last: it kills the server."""
    async with (
        ObjectStore.open(settings(server), attempts=8) as patient,
        ObjectStore.open(settings(server), attempts=1) as hasty,
    ):
        await patient.put("local-1/t-1/kept", b"kept", content_type="text/plain")
        half = hasty.upload("local-1/t-1/half", content_type="text/plain")
        upload = await half.__aenter__()
        await upload.write(bytes(PART_BYTES))
        server.kill()
        with pytest.raises(ObjectStoreUnavailable) as raised:
            await hasty.put("local-1/t-1/lost", b"lost", content_type="text/plain")
        assert (raised.value.code, raised.value.retryable) == ("object_store_unavailable", True)
        with pytest.raises(ObjectStoreUnavailable):
            await half.__aexit__(None, None, None)
        back = threading.Timer(1.0, server.start)
        back.start()
        await patient.put("local-1/t-1/later", b"later", content_type="text/plain")
        await asyncio.to_thread(back.join)
        assert await patient.get("local-1/t-1/kept") == b"kept"
        assert await patient.get("local-1/t-1/later") == b"later"
        assert await patient.head("local-1/t-1/half") is None
        assert await patient.head("local-1/t-1/lost") is None


def _read(link: str) -> bytes:
    with urllib.request.urlopen(link, timeout=5) as response:  # noqa: S310  loopback
        return bytes(response.read())
