"""The outside services: what we ask of each, and who answers."""
