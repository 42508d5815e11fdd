"""What can be wrong with the object store, as stable codes: a job shows them, and `retryable` decides what it does next.

Told by S3's error code and HTTP status, never by message text. Messages carry no credentials and no presigned URL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)


class ObjectStoreError(Exception):
    """`code` is stable. `retryable`: the same call may succeed later without anybody changing anything here."""

    code = "object_store_failed"
    retryable = False


class ObjectStoreUnavailable(ObjectStoreError):
    """Not reached, too slow, or it says that it has a problem of its own; retries did not help."""

    code = "object_store_unavailable"
    retryable = True


class ObjectStoreFull(ObjectStoreError):
    """No room or no quota left. Retryable: room is made on the other side."""

    code = "object_store_full"
    retryable = True


class ObjectStoreDenied(ObjectStoreError):
    """Wrong or missing credentials, or no permission."""

    code = "object_store_denied"


class ObjectStoreMisconfigured(ObjectStoreError):
    """The bucket or the encryption key does not exist, or the request cannot be made of these settings."""

    code = "object_store_misconfigured"


class ObjectStoreMisplaced(ObjectStoreError):
    """The bucket, or a key, is not of this deployment's region."""

    code = "object_store_misplaced"


class ObjectNotFound(ObjectStoreError):
    code = "object_not_found"


class ObjectCorrupt(ObjectStoreError):
    """The bytes are not those of the recorded SHA-256."""

    code = "object_corrupt"


# Error codes of AWS S3 and of the servers that speak it (MinIO, Ceph, SeaweedFS).
_BY_CODE: dict[str, type[ObjectStoreError]] = {
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion"), ObjectNotFound),
    **dict.fromkeys(("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"), ObjectCorrupt),
    **dict.fromkeys(
        ("InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"), ObjectStoreFull
    ),
    **dict.fromkeys(
        ("NoSuchBucket", "KMS.NotFoundException", "KMS.DisabledException", "InvalidBucketName"),
        ObjectStoreMisconfigured,
    ),
    **dict.fromkeys(("RequestTimeout", "SlowDown", "Throttling", "RequestTimeTooSkewed"), ObjectStoreUnavailable),
    **dict.fromkeys(("PermanentRedirect", "AuthorizationHeaderMalformed"), ObjectStoreMisplaced),
}
_BY_STATUS: dict[int, type[ObjectStoreError]] = {
    301: ObjectStoreMisplaced,  # AWS: the bucket is in another region
    401: ObjectStoreDenied,
    403: ObjectStoreDenied,
    404: ObjectNotFound,
    408: ObjectStoreUnavailable,
    429: ObjectStoreUnavailable,
    507: ObjectStoreFull,
}


def translated(error: BaseException, what: str) -> ObjectStoreError:
    """The error that tells what S3's, or the way to it, means. `what` names the operation and its key."""
    if isinstance(error, ClientError):
        code, status = _code_and_status(error.response)
        kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
        kind = kind or (ObjectStoreUnavailable if status >= 500 else ObjectStoreError)
        return kind(f"{what}: {code} (HTTP {status})")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ObjectStoreDenied(f"{what}: no credentials")
    return ObjectStoreUnavailable(f"{what}: {type(error).__name__}")


@contextmanager
def translating(what: str) -> Iterator[None]:
    """Raises ObjectStoreError for what botocore and the network raise inside the block."""
    try:
        yield
    except (ClientError, BotoCoreError, OSError, TimeoutError) as error:
        raise translated(error, what) from error


def _code_and_status(response: Any) -> tuple[str, int]:
    code = str(response.get("Error", {}).get("Code", ""))
    return code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
