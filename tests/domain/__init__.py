"""Pure tests of the domain: no servers, no clock, no I/O."""
