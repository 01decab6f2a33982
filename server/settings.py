"""Settings, read from the environment as LAUREL_<NAME>; the local stack fills in the rest.

Nothing here is printed: secrets live in files or in ``SecretStr``.
"""

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.domain.limits import read_limit, read_limits


class AccessLog(StrEnum):
    """Which calls get a line in the log."""

    NONE = "none"
    FAULTS = "faults"  # those that failed by a fault of ours, and the slow
    SAMPLED = "sampled"  # and those whose trace is sampled
    ALL = "all"


class Settings(BaseSettings):
    """What a server process needs to know."""

    model_config = SettingsConfigDict(env_prefix="LAUREL_", extra="ignore")

    database_url: SecretStr = Field(
        description="PostgreSQL 15 or newer, as postgresql://user:password@host/name"
    )
    redis_url: SecretStr = Field(description="Redis 6.2 or newer, as redis://host:port/0 or unix:///path")
    secrets_file: Path = Field(description="JSON with the ledger, master, blind-index and page-token keys")
    host: str = Field(default="127.0.0.1", description="address that gRPC listens on")
    port: int = Field(
        default=50051, ge=0, le=65535, description="port that gRPC listens on; 0 picks a free one"
    )
    database_connections: int = Field(default=7, ge=2, le=100, description="connections per server process")
    batch_size: int = Field(
        default=128, ge=1, le=1024, description="most commands in one database transaction"
    )
    queue_size: int = Field(default=4096, ge=1, description="most commands waiting; more are refused at once")
    default_deadline_seconds: float = Field(default=10.0, gt=0, description="for calls that set no deadline")
    max_deadline_seconds: float = Field(default=60.0, gt=0, description="longer deadlines are cut to this")
    max_message_bytes: int = Field(
        default=4 * 1024 * 1024, ge=1024, description="larger requests are refused"
    )
    streams: int = Field(default=1000, ge=0, description="streams open in one process, over gRPC and REST")
    streams_per_caller: int = Field(default=50, ge=0, description="of these, those of one credential")
    stream_idle_seconds: float = Field(
        default=300.0, gt=0, description="a stream on which a client says nothing for so long is ended"
    )
    drain_seconds: float = Field(default=10.0, ge=0, description="time for calls under way on SIGTERM")
    grace_seconds: float = Field(
        default=0.0, ge=0, description="how long calls are taken after SIGTERM, for balancers to notice"
    )
    credential_cache_seconds: float = Field(
        default=20.0, ge=0, le=60, description="a revoked key is refused at the latest after this"
    )
    access_log: AccessLog = Field(
        default=AccessLog.FAULTS,
        description="calls that get a line in the log: none, faults (and slow ones), sampled (too), all",
    )
    slow_call_seconds: float = Field(default=1.0, gt=0, description="a call that takes longer is slow")
    credential_limits: str = Field(
        default="read=20000:20000 write=10000:10000 redeem=5000:5000 admin=1000:10000",
        description="calls a second, and at once, of one credential by rate class; a class left out has none",
    )
    member_limits: str = Field(
        default="read=50:500 write=20:200 redeem=5:250 admin=20:200",
        description="calls a second, and at once, about one member by rate class; a class left out has none",
    )
    failure_limit: str = Field(
        default="100:1000",
        description="wrong credentials a second, and at once, from one address; empty for any number",
    )
    ops_host: str = Field(default="127.0.0.1", description="address of /metrics, /livez and /readyz")
    ops_port: int | None = Field(
        default=9464, ge=0, le=65535, description="their port; 0 picks a free one, empty: none"
    )
    tls_certificate_file: str = Field(
        default="", description="PEM of the server's certificate and its chain; plaintext if empty"
    )
    tls_key_file: str = Field(default="", description="PEM of the certificate's private key")
    tls_client_ca_file: str = Field(
        default="", description="PEM of the authority whose certificates clients must show; none if empty"
    )
    webhook_loopback: bool = Field(
        default=False, description="whether webhooks may be on this machine, by http too; for development"
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")
    oidc_issuer: str = Field(default="", description="URL of the issuer of members' tokens; empty for none")
    oidc_audience: str = Field(default="", description="what the tokens' `aud` must hold")
    oidc_program: str = Field(default="", description="name of the program whose members log in there")
    oidc_acr_values: str = Field(
        default="", description="the issuer's `acr` of strong logins, the preferred first, parted by blanks"
    )
    oidc_token_type: str = Field(
        default="at+jwt", description="the header `typ` of access tokens; JWT for issuers that say that"
    )
    oidc_file: str = Field(default="", description="YAML with several issuers, or with staff, instead")

    @field_validator("credential_limits", "member_limits")
    @classmethod
    def _limits(cls, text: str) -> str:
        read_limits(text)
        return text

    @field_validator("failure_limit")
    @classmethod
    def _limit(cls, text: str) -> str:
        read_limit(text)
        return text

    @field_validator("ops_port", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value
