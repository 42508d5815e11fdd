"""Tools around the mesh: the command line, the embedded stack, the sandbox. Nothing in production imports them."""
