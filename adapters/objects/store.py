"""One bucket of any S3, in the region of the deployment, or nothing."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from hashlib import sha256 as sha256_of
from typing import Any, NamedTuple, Self

from botocore.config import Config  # type: ignore[import-untyped]

from adapters.objects.errors import (
    ObjectCorrupt,
    ObjectNotFound,
    ObjectStoreError,
    ObjectStoreMisplaced,
    translating,
)
from adapters.objects.upload import Stored, Upload
from adapters.settings import ObjectStoreSettings

ATTEMPTS = (
    5  # with botocore's jittered exponential back-off: about 8 s in all, longer than a rolling restart of a server
)
_CONNECT_TIMEOUT_SECONDS = 3
_READ_TIMEOUT_SECONDS = 30
_ABORT_TIMEOUT_SECONDS = 10
_CONNECTIONS = 20
MAX_PRESIGNED_SECONDS = 7 * 24 * 3600  # S3's own limit for signature version 4
_DIGEST = "sha256"  # metadata name: S3 keeps no SHA-256 of an object that came in parts
# What S3 calls the region that has no name, and an old name it still gives out.
_LOCATIONS = {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}


class ObjectInfo(NamedTuple):
    """`sha256` None: written by somebody else, or in parts. `encryption` is S3's name: None, AES256 or aws:kms."""

    key: str
    size_bytes: int
    content_type: str
    sha256: bytes | None
    encryption: str | None
    metadata: Mapping[str, str]
    modified_at: datetime


class ObjectStore:
    """Made by `open`. Safe to use from many tasks of one event loop."""

    def __init__(self, client: Any, settings: ObjectStoreSettings) -> None:
        self._client = client
        self._bucket = settings.object_store_bucket
        self._encryption: dict[str, Any] = {}
        if settings.kms_key_arn is not None:
            self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": settings.kms_key_arn}

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ObjectStoreSettings, *, attempts: int = ATTEMPTS) -> AsyncIterator[Self]:
        """A store for the length of a block.

        Raises ObjectStoreMisplaced where the bucket is not in `object_store_region`, ObjectStoreMisconfigured where there is
        no such bucket, and what every call may raise: ObjectStoreUnavailable, ObjectStoreDenied.
        """
        import aioboto3  # type: ignore[import-untyped]  # here: most processes open no store, and it is a fifth of their start

        async with aioboto3.Session().client("s3", **_client_options(settings, attempts)) as client:
            await _check_region(client, settings)
            yield cls(client, settings)

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str,
        sha256: bytes | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        """Writes an object whole; the same key again replaces it. S3 checks the digest: ObjectCorrupt when `sha256` is not
        that of `data`. Metadata is ASCII and never about a patient."""
        digest = sha256 if sha256 is not None else sha256_of(data).digest()
        options = self._options(content_type, {**(metadata or {}), _DIGEST: digest.hex()})
        with translating(f"put {key}"):
            await self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ChecksumSHA256=b64encode(digest).decode(), **options
            )
        return Stored(key, len(data), digest)

    @asynccontextmanager
    async def upload(
        self, key: str, *, content_type: str, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Upload]:
        """Writes an object of any size in parts: `await upload.write(…)`; after the block `upload.stored` is what was kept.

        An exception or cancellation inside the block aborts: what stood under the key before, stands. A process that is
        killed leaves parts that nobody sees; `abandon_uploads` drops them.
        """
        upload = Upload(self._client, {"Bucket": self._bucket, "Key": key}, self._options(content_type, metadata))
        try:
            yield upload
            await upload.finish()
        except BaseException:
            # Best effort, and whole even when cancelled again: the first error is the one to hear about.
            with suppress(ObjectStoreError, TimeoutError):
                await asyncio.shield(asyncio.wait_for(upload.abort(), _ABORT_TIMEOUT_SECONDS))
            raise

    async def abandon_uploads(self, prefix: str) -> int:
        """Drops unfinished uploads below `prefix`, whoever began them; how many. Call it before writing there again."""
        with translating(f"list uploads of {prefix}"):
            found = await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix)
            uploads = [each for each in found.get("Uploads", ()) if each["Key"].startswith(prefix)]
            for each in uploads:
                await self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=each["Key"], UploadId=each["UploadId"]
                )
        return len(uploads)

    async def get(self, key: str) -> bytes:
        """The whole object, checked against its recorded digest where it has one.

        Raises ObjectNotFound, ObjectCorrupt. For objects that fit in memory: statements, manifests, logos.
        """
        with translating(f"get {key}"):
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            async with answer["Body"] as body:
                data = bytes(await body.read())
        recorded = answer["Metadata"].get(_DIGEST)
        if recorded is not None and recorded != sha256_of(data).hexdigest():
            raise ObjectCorrupt(f"get {key}: the bytes are not those of the recorded SHA-256")
        return data

    async def head(self, key: str) -> ObjectInfo | None:
        """What is known about an object without reading it; None where there is none."""
        try:
            with translating(f"head {key}"):
                answer = await self._client.head_object(Bucket=self._bucket, Key=key)
        except ObjectNotFound:
            return None
        metadata = dict(answer["Metadata"])
        digest = metadata.pop(_DIGEST, None)
        return ObjectInfo(
            key=key,
            size_bytes=int(answer["ContentLength"]),
            content_type=str(answer["ContentType"]),
            sha256=bytes.fromhex(digest) if digest else None,
            encryption=answer.get("ServerSideEncryption"),
            metadata=metadata,
            modified_at=answer["LastModified"],
        )

    async def presigned_get(self, key: str, seconds: int) -> str:
        """A link that anybody who has it may read the object with for `seconds` (at most 7 days). Never log it."""
        if not 1 <= seconds <= MAX_PRESIGNED_SECONDS:
            raise ValueError(f"a link lives for 1 to {MAX_PRESIGNED_SECONDS} seconds")
        with translating(f"presign {key}"):
            link = await self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=seconds
            )
        return str(link)

    def _options(self, content_type: str, metadata: Mapping[str, str] | None) -> dict[str, Any]:
        return {"ContentType": content_type, "Metadata": dict(metadata or {}), **self._encryption}


def _client_options(settings: ObjectStoreSettings, attempts: int) -> dict[str, Any]:
    endpoint, key_id = settings.object_store_endpoint_url, settings.object_store_access_key_id
    secret = settings.object_store_secret_access_key
    config = Config(
        signature_version="s3v4",
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=_READ_TIMEOUT_SECONDS,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # Bucket names as host names need DNS that a local S3 does not have.
        s3={"addressing_style": "path" if endpoint else "auto"},
        # We send SHA-256 ourselves; the SDK's own trailing checksums are not understood by every S3.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return {
        "endpoint_url": endpoint,
        "region_name": settings.object_store_region,
        "aws_access_key_id": key_id.get_secret_value() if key_id else None,
        "aws_secret_access_key": secret.get_secret_value() if secret else None,
        "config": config,
    }


async def _check_region(client: Any, settings: ObjectStoreSettings) -> None:
    """GetBucketLocation says where the bucket is. Data must not leave its region, so a wrong answer ends the start."""
    bucket = settings.object_store_bucket
    with translating(f"locate bucket {bucket}"):
        answer = await client.get_bucket_location(Bucket=bucket)
    found = answer.get("LocationConstraint")
    region = _LOCATIONS.get(found, found)
    if region != settings.object_store_region:
        raise ObjectStoreMisplaced(
            f"bucket {bucket} is in {region}, and this deployment keeps its data in {settings.object_store_region}"
        )
