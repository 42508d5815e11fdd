"""Resources by reference: urn:uuid, absolute and relative URLs, contained ones; duplicates across bundles; chains that circle."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from tools.fhir_import.bundles import MAPPED, Resource
from tools.fhir_import.remarks import Remark, Unmapped


class Found(NamedTuple):
    """What a reference leads to. A contained resource's `key` is its container's with `#id`."""

    type: str
    key: str
    data: dict[str, Any]


class Index:
    """All resources of all bundles of one import."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.remarks: list[Remark] = []
        self.resources: dict[str, Resource] = {}
        self._conflicting: set[str] = set()
        self._by_url: dict[tuple[int | None, str], str] = {}
        for resource in resources:
            self._add(resource)
        for key in self._conflicting:
            del self.resources[key]

    def _add(self, resource: Resource) -> None:
        if resource.full_url:
            # Within its bundle first: a urn:uuid means something there only.
            self._by_url.setdefault((resource.bundle, resource.full_url), resource.key)
            self._by_url.setdefault((None, resource.full_url), resource.key)
        known = self.resources.setdefault(resource.key, resource)
        if known is resource or resource.type not in MAPPED:
            return
        if known.data == resource.data:
            text = "the same resource again: imported once"
            self.remarks.append(Remark("note", "repeated", resource.key, "", text, resource.source))
        else:
            self._conflicting.add(resource.key)
            text = "two different resources of this id: neither is imported, since nothing says which one is true"
            self.remarks.append(Remark("unmapped", "conflicting_duplicate", resource.key, "", text, resource.source))

    def of_type(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources.values() if resource.type == kind]

    def resolve(self, holder: Resource, reference: Any, path: str, *types: str) -> Found:
        """What a Reference leads to. Raises Unmapped: missing, not in the bundles, or of another type than `types`."""
        literal = reference.get("reference") if isinstance(reference, dict) else None
        if not isinstance(literal, str) or not literal:
            raise Unmapped("missing_reference", path, f"no reference to a {' or '.join(types)}")
        found = _contained(holder, literal) if literal.startswith("#") else self._entry(holder, literal)
        if found is None:
            raise Unmapped("missing_reference", path, "what it refers to is in none of the bundles")
        if types and found.type not in types:
            raise Unmapped("wrong_reference", path, f"refers to a {found.type}, not to a {' or '.join(types)}")
        return found

    def _entry(self, holder: Resource, literal: str) -> Found | None:
        literal = literal.partition("/_history/")[0]
        tail = "/".join(literal.split("/")[-2:])
        candidates = (
            self._by_url.get((holder.bundle, literal)),
            tail if "/" in tail else None,
            self._by_url.get((None, literal)),
        )
        for key in candidates:
            if key in self._conflicting:
                raise Unmapped("conflicting_duplicate", "", f"refers to {key}, of which there are two")
            if key in self.resources:
                resource = self.resources[key]
                return Found(resource.type, resource.key, resource.data)
        return None

    def follow(self, start: Resource, step: "Chain") -> list[Resource]:
        """`start` and what each leads to by `step`, the last one last. Raises Unmapped where the chain comes back on itself."""
        chain = [start]
        while (reference := step.next(chain[-1].data)) is not None:
            found = self.resolve(chain[-1], reference, step.path, start.type)
            if any(found.key == seen.key for seen in chain):
                circle = " → ".join([*(seen.key for seen in chain), found.key])
                raise Unmapped("circular_reference", step.path, f"the references go round in a circle: {circle}")
            if found.key not in self.resources:  # contained: nothing else can refer to it
                break
            chain.append(self.resources[found.key])
        return chain


class Chain(NamedTuple):
    """A reference from a resource to another of its type: the element's path, and its name in the data."""

    path: str
    element: str
    where: tuple[str, str] | None = None
    inner: str | None = None

    def next(self, data: dict[str, Any]) -> Any:
        """The first reference of that element, or None."""
        for each in as_list(data.get(self.element)):
            if self.where is None or each.get(self.where[0]) == self.where[1]:
                return each.get(self.inner) if self.inner else each
        return None


# A merged patient: bills go to the record that replaced it.
REPLACED_BY = Chain("link.other", "link", where=("type", "replaced-by"), inner="other")
PART_OF = Chain("partOf", "partOf")
RELATED_CLAIM = Chain("related.claim", "related", inner="claim")


def _contained(holder: Resource, literal: str) -> Found | None:
    if literal == "#":
        return Found(holder.type, holder.key, holder.data)
    for each in as_list(holder.data.get("contained")):
        if each.get("id") == literal[1:] and isinstance(each.get("resourceType"), str):
            return Found(each["resourceType"], f"{holder.key}{literal}", each)
    return None


def as_list(value: Any) -> list[dict[str, Any]]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, dict)]
