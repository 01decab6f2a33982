"""Migrations written as SQL: migrations/sql/NNNN_name.sql."""

from pathlib import Path

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.engine.finder import engine_finder
from piccolo.engine.postgres import PostgresEngine

FOLDER = Path(__file__).parent / "sql"


def from_file(migration_id: str, description: str, name: str) -> MigrationManager:
    """The migration that runs the statements of ``name`` in one transaction."""
    manager = MigrationManager(migration_id=migration_id, app_name="laurel", description=description)
    statements = (FOLDER / name).read_text()

    async def run() -> None:
        engine = engine_finder()
        transaction = engine.current_transaction.get() if isinstance(engine, PostgresEngine) else None
        if transaction is None:
            raise RuntimeError("Laurel's migrations need PostgreSQL and run in a transaction")
        # Piccolo's own calls take one statement; the connection takes a file of them.
        await transaction.connection.execute(statements)

    manager.add_raw(run)
    return manager
