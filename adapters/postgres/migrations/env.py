"""Alembic's entry: runs the revisions that `adapters.postgres.migrate` asks for, each in a transaction of its own."""

from alembic import context

from adapters.postgres.migrations.protection import TIMEOUTS
from adapters.postgres.tables import metadata

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql", target_metadata=metadata, literal_binds=True, transaction_per_migration=True
    )
    for statement in TIMEOUTS:
        context.execute(statement)
else:
    connection = context.config.attributes["connection"]
    for statement in TIMEOUTS:
        connection.exec_driver_sql(statement)
    connection.commit()
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)

with context.begin_transaction():
    context.run_migrations()
