"""The static tenant directory of a mesh: a file that stands in for the tenant and terminology services."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from schemas.tenant import TenantProfile
from tools.stack.paths import locked

# Every code of these systems counts as valid: the sandbox is no terminology server.
CODE_SYSTEMS = {
    "http://loinc.org": "*",
    "http://snomed.info/sct": "*",
    "http://hl7.org/fhir/sid/icd-10": "*",
    "http://hl7.org/fhir/sid/cvx": "*",  # vaccines
    "http://www.ama-assn.org/go/cpt": "*",
    "urn:hospital:services": "*",
}


class TenantFile:
    """Running roles read the file again when it changes, so a tenant that was added is known at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, *profiles: TenantProfile) -> None:
        """Add tenants, or replace those of the same id."""
        with locked(self.path.with_suffix(".lock")):
            tenants = {profile.tenant_id: profile for profile in (*self.profiles(), *profiles)}
            self._write(tenants.values())

    def profiles(self) -> list[TenantProfile]:
        if not self.path.exists():
            return []
        stored = json.loads(self.path.read_text(encoding="utf-8"))["tenants"]
        return [TenantProfile.model_validate_json(json.dumps(each)) for each in stored]

    def _write(self, tenants: Iterable[TenantProfile]) -> None:
        # Defaults are left out: another release reads the file, too, as long as only what it knows is used.
        stated = [tenant.model_dump(mode="json", exclude_defaults=True) for tenant in tenants]
        content = {"tenants": stated, "code_systems": CODE_SYSTEMS}
        # Replaced in one step: a reader never sees half a file.
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        unfinished.replace(self.path)
