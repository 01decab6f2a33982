"""Where Piccolo finds the database: ``PICCOLO_CONF=migrations.piccolo_conf piccolo migrations check``.

`laurel migrate` puts its own engine into ``DB``.
"""

import os

from piccolo.conf.apps import AppRegistry
from piccolo.engine.postgres import PostgresEngine

APP_REGISTRY = AppRegistry(apps=["migrations.piccolo_app"])
DB: PostgresEngine


def __getattr__(name: str) -> PostgresEngine:
    # Piccolo's engines connect when they are made, so not before one is asked for.
    if name == "DB":
        return PostgresEngine({"dsn": os.environ["LAUREL_DATABASE_URL"]})
    raise AttributeError(name)
