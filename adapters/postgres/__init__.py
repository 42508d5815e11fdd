"""PostgreSQL: the schema, its migrations, the pool, and the two statements of a batch (load and save)."""
