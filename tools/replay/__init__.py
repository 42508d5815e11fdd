"""The JetStream replay tool: what is selected, how it is sent again, and how it is proved to be harmless (docs/replay.md)."""
