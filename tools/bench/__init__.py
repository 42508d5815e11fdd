"""`billing bench`: what the mesh does on this machine, always beside something measured in the same run."""
