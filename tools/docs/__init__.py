"""The interface documents in docs/api, generated from the registry, the models and the routes."""
