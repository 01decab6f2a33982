"""The issuer as a part of the local stack: when it is there, and how servers come to trust it."""

from collections.abc import Mapping
from pathlib import Path

import redis.asyncio
import yaml
from starlette.applications import Starlette

from laurel.issuer import keys
from laurel.issuer.app import IssuerApp
from laurel.issuer.users import trust
from server import issuers
from server.issuers import IssuersError, is_loopback
from server.rpc.access import declared_scopes
from server.settings import Settings

# Where the application is mounted.
PATH = "/issuer"
FILE = "issuer.json"
TRUST = "issuers.yaml"
VARIABLE = "LAUREL_ISSUER_FILE"


def why_not(environment: Mapping[str, str], host: str) -> str:
    """Why the stack has no issuer of its own; "" if it has one."""
    for name, value in environment.items():
        if name.startswith("LAUREL_OIDC_") and value:
            return f"{name} names a real issuer"
    if environment.get("LAUREL_TLS_CERTIFICATE_FILE"):
        return "servers that speak TLS are not only for tries"
    return "" if is_loopback(host) else f"{host} can be reached from elsewhere"


def prepare(folder: Path, host: str, port: int) -> dict[str, str]:
    """Make keys, and the settings by which servers serve the issuer and trust it."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}{PATH}"
    keys.prepare(folder / FILE, url)
    (folder / TRUST).write_text(yaml.safe_dump(trust(url), sort_keys=False))
    return {VARIABLE: str(folder / FILE), "LAUREL_OIDC_FILE": str(folder / TRUST)}


def application(file: str, settings: Settings, store: redis.asyncio.Redis) -> Starlette:
    """The issuer of that file, to be mounted at ``PATH``.

    Raises IssuersError if the server trusts any other issuer: who may log in as anybody
    without a password has no place beside real people. Raises Failure for a file of
    something else.
    """
    local = keys.load(Path(file))
    trusted = {issuer.issuer for issuer in issuers.load(settings, declared_scopes())}
    if trusted != {local.url}:
        raise IssuersError(
            f"{VARIABLE} is set, and the issuers that are trusted are not just the local stack's own: "
            f"{', '.join(sorted(trusted)) or 'none'}"
        )
    return IssuerApp(local, store).app()
