"""An object written piece by piece. It appears whole when the block ends well, and not at all when it does not."""

import hashlib
from base64 import b64encode
from typing import Any, NamedTuple

from adapters.objects.errors import translating

# S3 takes 10,000 parts of 5 MiB and more: 8 MiB parts reach 78 GiB, and the buffer is the memory an upload needs.
PART_BYTES = 8 * 1024 * 1024


class Stored(NamedTuple):
    """An object that is in the store. `sha256` is the digest of its bytes."""

    key: str
    size_bytes: int
    sha256: bytes


class Upload:
    """Given out by `ObjectStore.upload`. Memory: one part, whatever the size of the object."""

    def __init__(self, client: Any, target: dict[str, str], options: dict[str, Any]) -> None:
        """`target` is the bucket and key, `options` what the object is created with."""
        self._client, self._target, self._options = client, target, options
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._upload_id: str | None = None
        self._parts: list[dict[str, Any]] = []
        self.stored: Stored | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        return self._size_bytes

    async def write(self, data: bytes | memoryview) -> None:
        """Raises ObjectStoreError; the upload is then aborted by the end of the block."""
        self._digest.update(data)
        self._size_bytes += len(data)
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            part = bytes(self._buffer[:PART_BYTES])
            del self._buffer[:PART_BYTES]
            await self._send(part)

    async def finish(self) -> Stored:
        """What is left is sent and the object made visible. Called by the end of the block."""
        digest = self._digest.digest()
        with translating(f"put {self._target['Key']}"):
            if self._upload_id is None:
                await self._client.put_object(
                    **self._target, **self._options, Body=bytes(self._buffer), ChecksumSHA256=b64encode(digest).decode()
                )
            else:
                if self._buffer:
                    await self._send(bytes(self._buffer))
                await self._client.complete_multipart_upload(
                    **self._target, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
                )
        self.stored = Stored(self._target["Key"], self._size_bytes, digest)
        return self.stored

    async def abort(self) -> None:
        """Drops the parts that were sent. Raises ObjectStoreError; nothing is visible either way."""
        if self._upload_id is not None:
            with translating(f"abort {self._target['Key']}"):
                await self._client.abort_multipart_upload(**self._target, UploadId=self._upload_id)

    async def _send(self, part: bytes) -> None:
        with translating(f"put {self._target['Key']}"):
            if self._upload_id is None:
                created = await self._client.create_multipart_upload(**self._target, **self._options)
                self._upload_id = str(created["UploadId"])
            number = len(self._parts) + 1
            sent = await self._client.upload_part(
                **self._target, UploadId=self._upload_id, PartNumber=number, Body=part
            )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})
