"""Documents that people read: statements as PDF and JSON."""
