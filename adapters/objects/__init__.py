"""The object store: statements, exports and logos in any S3."""

from adapters.objects.errors import (
    ObjectCorrupt,
    ObjectNotFound,
    ObjectStoreDenied,
    ObjectStoreError,
    ObjectStoreFull,
    ObjectStoreMisconfigured,
    ObjectStoreMisplaced,
    ObjectStoreUnavailable,
)
from adapters.objects.store import ObjectInfo, ObjectStore
from adapters.objects.upload import Stored, Upload

__all__ = [
    "ObjectCorrupt",
    "ObjectInfo",
    "ObjectNotFound",
    "ObjectStore",
    "ObjectStoreDenied",
    "ObjectStoreError",
    "ObjectStoreFull",
    "ObjectStoreMisconfigured",
    "ObjectStoreMisplaced",
    "ObjectStoreUnavailable",
    "Stored",
    "Upload",
]
