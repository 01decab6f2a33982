"""Where Piccolo finds the database: ``PICCOLO_CONF=migrations.piccolo_conf piccolo migrations check``.

`laurel migrate` says by ``chosen`` which engine it means.
"""

import os
from contextvars import ContextVar

from piccolo.conf.apps import AppRegistry
from piccolo.engine.postgres import PostgresEngine

APP_REGISTRY = AppRegistry(apps=["migrations.piccolo_app"])
chosen: ContextVar[PostgresEngine | None] = ContextVar("chosen", default=None)


def __getattr__(name: str) -> PostgresEngine:
    # Piccolo asks for DB by name, each time anew. Its engines connect when they are made,
    # so none is made before somebody asks.
    if name == "DB":
        return chosen.get() or PostgresEngine({"dsn": os.environ["LAUREL_DATABASE_URL"]})
    raise AttributeError(name)
