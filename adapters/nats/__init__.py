"""NATS: connections, streams and durables, fetching, acknowledging, publishing."""
