"""What breaks, on purpose: a mixed workload with a recorded history, faults of every kind injected while it runs, and a checker
that proves the promises on what is left (docs/faults.md)."""
