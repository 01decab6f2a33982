"""Settings of the REST shim, read from the environment as LAUREL_<NAME>."""

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.limits import Limits


class GatewaySettings(BaseSettings):
    """What the shim needs to know. Those without ``http`` in the name are the server's too."""

    model_config = SettingsConfigDict(env_prefix="LAUREL_", extra="ignore")

    http_host: str = Field(default="127.0.0.1", description="address that REST listens on")
    http_port: int = Field(
        default=8080, ge=0, le=65535, description="port that REST listens on; 0 picks a free one"
    )
    http_origins: str = Field(
        default="",
        description="origins whose pages may use REST (CORS), parted by blanks; `*` for all, empty for none",
    )
    http_json_depth: int = Field(
        default=64, ge=1, le=500, description="how deep objects and arrays of a body may nest"
    )
    http_streams: int = Field(default=1000, ge=0, description="streams and WebSockets open in one process")
    http_streams_per_caller: int = Field(
        default=50, ge=0, description="of these, those of one credential, or of one address without any"
    )
    http_idle_seconds: float = Field(
        default=300.0, gt=0, description="a stream on which nothing is said for so long is ended"
    )
    http_keep_alive_seconds: float = Field(
        default=15.0, gt=0, description="how often a silent stream of events says that it is still there"
    )
    max_deadline_seconds: float = Field(default=60.0, gt=0, description="longer deadlines are cut to this")
    max_message_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="larger requests are refused"
    )
    grace_seconds: float = Field(
        default=0.0, ge=0, description="how long requests are taken after SIGTERM, while readiness says no"
    )
    drain_seconds: float = Field(default=10.0, ge=0, description="time for calls under way on SIGTERM")
    ops_host: str = Field(default="127.0.0.1", description="address of /metrics, /livez and /readyz")
    ops_port: int | None = Field(
        default=9464, ge=0, le=65535, description="their port; 0 picks a free one, empty: none"
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("ops_port", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins one by one."""
        return tuple(self.http_origins.split())

    @property
    def limits(self) -> Limits:
        """The bounds of the shim."""
        return Limits(
            body=self.max_message_bytes,
            depth=self.http_json_depth,
            max_deadline=self.max_deadline_seconds,
            streams=self.http_streams,
            streams_per_caller=self.http_streams_per_caller,
            idle_seconds=self.http_idle_seconds,
            keep_alive_seconds=self.http_keep_alive_seconds,
        )
