"""Bundle files → resources, each checked against the FHIR R4 models. One bad file or resource does not stop the others."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from tools.fhir_import.remarks import Remark

# What becomes commands, and what these are resolved through.
MAPPED = ("Patient", "Claim", "ExplanationOfBenefit", "ChargeItem", "Invoice", "PaymentNotice")
CONSULTED = ("Coverage", "Organization", "RelatedPerson", "Practitioner", "PractitionerRole", "Encounter")
# Faults that leave the shape of what is read as it should be: noted, and the resource is imported.
_HARMLESS = {"missing", "model_field_validation.missing", "extra_forbidden"}
_TYPE, _ID = re.compile(r"[A-Za-z]{1,64}"), re.compile(r"[A-Za-z0-9.-]{1,64}")  # FHIR R4 §2.24.0.1
_SHOWN_FAULTS = 3
_END_OF_FILE_CHARACTERS = 2
_ELEMENT_LENGTH = 40


class Resource(NamedTuple):
    """One resource of a bundle. `bundle` counts the files read, from 0; `place` is `entry[3]`."""

    type: str
    id: str
    data: dict[str, Any]
    full_url: str | None
    bundle: int
    source: str
    place: str

    @property
    def key(self) -> str:
        return f"{self.type}/{self.id}"


class Loaded(NamedTuple):
    """`files` is how many were bundles."""

    resources: list[Resource]
    remarks: list[Remark]
    files: int


def find_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and every *.json below the folders named, sorted. Raises FileNotFoundError with the path."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(str(path))
        found.update(dict.fromkeys(sorted(path.rglob("*.json")) if path.is_dir() else [path]))
    return list(found)


def load_files(paths: Sequence[Path]) -> Loaded:
    """Reads bundles from files. What cannot be read is remarked on, with the file and the place."""
    loaded = Loaded([], [], 0)
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = f"cannot be read: {error.strerror or type(error).__name__}"
            loaded.remarks.append(Remark("unmapped", "file_unreadable", "", "", reason, _shown(path)))
            continue
        read = read_bundle(content, _shown(path), loaded.files)
        loaded.resources.extend(read.resources)
        loaded.remarks.extend(read.remarks)
        loaded = loaded._replace(files=loaded.files + read.files)
    return loaded


def _shown(path: Path) -> str:
    """The path as text that can be printed whatever the file is called."""
    return os.fsencode(path).decode(errors="replace")


def read_bundle(content: bytes, source: str, bundle: int = 0) -> Loaded:
    """The resources of one bundle's bytes."""
    parsed = _parse(content)
    problem = parsed if isinstance(parsed, str) else _not_a_bundle(parsed)
    if problem is not None or isinstance(parsed, str):
        return Loaded([], [Remark("unmapped", "not_a_bundle", "", "", str(problem), source)], 0)
    loaded = Loaded([], [], 1)
    for index, entry in enumerate(parsed.get("entry", ())):
        _read_entry(entry, f"entry[{index}]", source, bundle, loaded)
    return loaded


def _parse(content: bytes) -> Any:
    """The JSON value, numbers as Decimal or int, or what is wrong with it as a str; a JSON string is wrong here as well."""
    text = ""
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        ends = error.pos >= len(text.rstrip()) - _END_OF_FILE_CHARACTERS or error.msg.startswith("Unterminated")
        return f"not JSON: {error.msg} at {where}" + (": the file ends too early, it looks truncated" if ends else "")
    except RecursionError:
        return "not FHIR: nested too deeply to be read"
    except ValueError as error:  # NaN, or an integer with more digits than Python converts
        return f"not JSON: {error}"
    return "not FHIR: a JSON string" if isinstance(value, str) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _not_a_bundle(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "not FHIR: not a JSON object"
    kind = value.get("resourceType")
    if not isinstance(kind, str):
        return "not FHIR: no resourceType"
    if kind != "Bundle":
        return f"a FHIR resource of type {kind}, not a Bundle" if _TYPE.fullmatch(kind) else "not FHIR: no resourceType"
    entries = value.get("entry", [])
    return None if isinstance(entries, list) else "not FHIR: Bundle.entry is not a list"


def _read_entry(entry: Any, place: str, source: str, bundle: int, loaded: Loaded) -> None:
    data = entry.get("resource") if isinstance(entry, dict) else None
    if not isinstance(data, dict) or not _is_type(data.get("resourceType")):
        text = "an entry without a resource"
        loaded.remarks.append(Remark("unmapped", "not_a_resource", "", place, text, source))
        return
    kind, full_url = data["resourceType"], entry.get("fullUrl")
    full_url = full_url if isinstance(full_url, str) else None
    identity = data.get("id") or (full_url or "").removeprefix("urn:uuid:").rpartition("/")[2]
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        text = f"a {kind} without a FHIR id in id or fullUrl: it could not be imported twice without being doubled"
        loaded.remarks.append(Remark("unmapped", "no_id", "", place, text, source))
        return
    resource = Resource(kind, identity, data, full_url, bundle, source, place)
    remark = _fault(resource) if kind in MAPPED or kind == "Coverage" else None
    if remark is not None:
        loaded.remarks.append(remark)
    if remark is None or remark.severity == "note":
        loaded.resources.append(resource)


def _is_type(value: Any) -> bool:
    return isinstance(value, str) and _TYPE.fullmatch(value) is not None


def _fault(resource: Resource) -> Remark | None:
    """What the FHIR models say against a resource; not their words, which quote values."""
    from fhir.resources.R4B import get_fhir_model_class
    from pydantic import BaseModel, ValidationError

    model: type[BaseModel] = get_fhir_model_class(resource.type)
    try:
        path = _text_for_object(resource.data, "")
        if path is not None:
            text = "not valid FHIR R4: JSON as text where an object or list belongs"
            return Remark("unmapped", "not_fhir", resource.key, path, text, resource.source)
        model.model_validate(resource.data)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
    except RecursionError:
        return Remark("unmapped", "not_fhir", resource.key, "", "nested too deeply to be read", resource.source)
    else:
        return None
    # An element that FHIR does not have is not named: its name could be anything, a person's too.
    paths = [
        _path((*fault["loc"][:-1], "…") if fault["type"] == "extra_forbidden" else fault["loc"]) for fault in faults
    ]
    places = [f"{path}: {fault['type']}" for path, fault in zip(paths, faults, strict=True)]
    text = "not valid FHIR R4: " + "; ".join(places[:_SHOWN_FAULTS]) + ("; …" if len(places) > _SHOWN_FAULTS else "")
    harmless = {fault["type"] for fault in faults} <= _HARMLESS
    return Remark(
        "note" if harmless else "unmapped",
        "invalid_but_readable" if harmless else "not_fhir",
        resource.key,
        paths[0],
        text,
        resource.source,
    )


def _text_for_object(data: Any, path: str) -> str | None:
    """The first place with JSON as text: the models take it for the object or list it describes, the mapping does not."""
    children: Iterable[tuple[Any, str]] = ()
    if isinstance(data, str) and data.lstrip()[:1] in ("{", "["):
        try:
            json.loads(data)
        except (ValueError, RecursionError):
            return None
        return path
    if isinstance(data, dict):
        children = ((value, f"{path}.{_path((name,))}".lstrip(".")) for name, value in data.items())
    elif isinstance(data, list):
        children = ((value, f"{path}[{index}]") for index, value in enumerate(data))
    return next((found for child in children if (found := _text_for_object(*child)) is not None), None)


def _path(location: tuple[int | str, ...]) -> str:
    """`item[0].net`. A key that is no FHIR element name is left out: it could be anything, a name too."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            known = step.isascii() and step.isidentifier() and len(step) <= _ELEMENT_LENGTH
            path += ("." if path else "") + (step if known else "…")
    return path
