"""FHIR R4 bundles → billing commands: a pure mapping to a plan, and a runner that publishes it (docs/fhir-import.md)."""
