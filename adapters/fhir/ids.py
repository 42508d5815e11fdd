"""Ids of our resources on the FHIR gateway: derived, so that every push of one row meets the same resource."""

from uuid import UUID, uuid5

_NAMESPACE = UUID("6f1d0b1e-5f0c-5d55-9f9b-0c4a1e6c2d10")


def resource_id(tenant_id: str, kind: str, key: UUID) -> str:
    """Of the row `key` as a resource of type `kind`. With the tenant in it: clients choose ids, and tenants share a gateway."""
    return str(uuid5(_NAMESPACE, f"{tenant_id}/{kind}/{key}"))


def reference(tenant_id: str, kind: str, key: UUID) -> dict[str, str]:
    return {"reference": f"{kind}/{resource_id(tenant_id, kind, key)}"}
