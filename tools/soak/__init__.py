"""A mesh under load for half an hour: what grows, and whether it may."""
