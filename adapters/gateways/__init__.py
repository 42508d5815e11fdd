"""Payment gateways: one interface, an adapter per kind, and what keeps a bad one from hurting anybody else."""
