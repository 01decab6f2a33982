"""Settings of a worker process, read from the environment as LAUREL_<NAME>."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.notifications.smtp import read_sender, read_server


class ChannelSettings(BaseSettings):
    """Where messages to members leave. A worker sends nothing through a channel without a setting."""

    model_config = SettingsConfigDict(env_prefix="LAUREL_", extra="ignore", hide_input_in_errors=True)

    smtp_url: SecretStr = Field(
        default=SecretStr(""), description="the mail server, as smtp://user:password@host:587 or smtps://..."
    )
    mail_from: str = Field(default="Laurel <laurel@localhost>", description="who mails are from")
    mail_folder: str = Field(default="", description="mails are put there as files, if there is no server")
    sms_url: SecretStr = Field(
        default=SecretStr(""), description="the provider of SMS, as a URL of Apprise with {to} in it"
    )
    push_url: SecretStr = Field(
        default=SecretStr(""), description="the provider of push, as a URL of Apprise with {to} in it"
    )

    @field_validator("sms_url", "push_url")
    @classmethod
    def _with_place(cls, value: SecretStr) -> SecretStr:
        if (url := value.get_secret_value()) and ("://" not in url or "{to}" not in url):
            raise ValueError(
                "must be a URL of Apprise with {to} where the number, or the member's id, belongs"
            )
        return value

    @field_validator("smtp_url")
    @classmethod
    def _server(cls, value: SecretStr) -> SecretStr:
        if url := value.get_secret_value():
            read_server(url)
        return value

    @field_validator("mail_from")
    @classmethod
    def _sender(cls, value: str) -> str:
        read_sender(value)
        return value

    @property
    def closed_channels(self) -> frozenset[str]:
        """The channels to members that aren't set up."""
        given = {
            "email": self.smtp_url.get_secret_value() or self.mail_folder,
            "sms": self.sms_url.get_secret_value(),
            "push": self.push_url.get_secret_value(),
        }
        return frozenset(name for name, setting in given.items() if not setting)


class WorkerSettings(ChannelSettings):
    """What a worker needs to know. Those without ``worker`` in the name are the server's too."""

    database_url: SecretStr = Field(
        description="PostgreSQL 15 or newer, as postgresql://user:password@host/name"
    )
    redis_url: SecretStr = Field(description="Redis 6.2 or newer, as redis://host:port/0 or unix:///path")
    secrets_file: Path = Field(description="JSON with the ledger, master, blind-index and page-token keys")
    due_seconds: float = Field(
        default=60.0,
        ge=0,
        description="how often to do what has fallen due, as expiries; 0 for never, nor warnings",
    )
    checkpoint_file: str = Field(
        default="", description="checkpoints of the ledger are appended there; none are taken if empty"
    )
    checkpoint_seconds: float = Field(
        default=60.0, ge=1, description="how often, by one of the workers that share the database"
    )
    worker_database_connections: int = Field(
        default=6, ge=2, le=100, description="connections per worker process"
    )
    worker_lease_seconds: float = Field(
        default=10.0, ge=0.5, description="somebody else takes over from a worker that hangs for so long"
    )
    worker_drain_seconds: float = Field(default=10.0, ge=0, description="time for work under way on SIGTERM")
    webhook_loopback: bool = Field(
        default=False, description="whether webhooks may be on this machine, by http too; for development"
    )
    worker_ops_host: str = Field(default="127.0.0.1", description="address of /metrics, /livez and /readyz")
    worker_ops_port: int | None = Field(
        default=9484, ge=0, le=65535, description="their port; 0 picks a free one, empty: none"
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("worker_ops_port", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value
