"""What Piccolo wants to know about the migrations."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

APP_CONFIG = AppConfig(app_name="laurel", migrations_folder_path=Path(__file__).parent / "steps")
