"""Rows of the books as FHIR R4 resources."""
