"""What is decided: pure and synchronous. No I/O, no clock, no randomness; imports schemas only."""
