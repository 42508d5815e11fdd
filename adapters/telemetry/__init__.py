"""Logs, traces, metrics and health: the same for every role."""
