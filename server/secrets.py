"""The keys that must not be in the database: of the ledger, of personal data, of page tokens, of checkpoints.

One JSON file, readable by its owner only:

    {"ledger": {"current": "1", "keys": {"1": "<64 hex digits>"}},
     "master": {"current": "1", "keys": {"1": "<64 hex digits>"}},
     "checkpoint": {"current": "1", "keys": {"1": "<64 hex digits>"}},
     "blind_index": "<64 hex digits>", "page_token": "<64 hex digits>"}

``checkpoint`` holds Ed25519 seeds, and files from before there were checkpoints lack it.
Old keys stay listed, so that what was written with them can be read; ``current``
names the one that is used from now on.
"""

import json
import os
import secrets as randomness
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys by id, and the id of the one in use."""

    current: str
    keys: dict[str, bytes] = field(repr=False)

    @property
    def key(self) -> bytes:
        """The key in use."""
        return self.keys[self.current]


@dataclass(frozen=True, slots=True)
class Secrets:
    """Every key a server needs."""

    ledger: Keyring
    master: Keyring
    blind_index: bytes = field(repr=False)
    page_token: bytes = field(repr=False)
    checkpoint: Keyring | None = None


class SecretsError(Exception):
    """The file can't be used; the message says why and never what it holds."""


def generate(path: Path) -> None:
    """Write a file of fresh keys that only its owner can read; never over an existing one."""

    content = {
        "ledger": {"current": "1", "keys": {"1": _fresh()}},
        "master": {"current": "1", "keys": {"1": _fresh()}},
        "checkpoint": {"current": "1", "keys": {"1": _fresh()}},
        "blind_index": _fresh(),
        "page_token": _fresh(),
    }
    _write(path, content)


def add_checkpoint_key(path: Path) -> str:
    """Give the file a fresh key for checkpoints, in use from the next start on; its id.

    Raises SecretsError for a file that can't be used, OSError where it can't be replaced.
    """
    load(path)
    content = json.loads(path.read_text())
    part = content.setdefault("checkpoint", {"current": "", "keys": {}})
    key_id = str(max((int(i) for i in part["keys"] if i.isdigit()), default=0) + 1)
    part["keys"][key_id] = _fresh()
    part["current"] = key_id
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    _write(draft, content)
    draft.replace(path)
    return key_id


def load(path: Path) -> Secrets:
    """Read the file. Raises SecretsError naming the path and the part that is wrong."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SecretsError(f"{path}: {type(error).__name__}; is it readable JSON?") from None

    def keyring(name: str) -> Keyring:
        part = _part(content, name, dict, path)
        keys = {str(i): _key(value, f"{name}.keys.{i}", path) for i, value in part.get("keys", {}).items()}
        current = str(part.get("current"))
        if current not in keys:
            raise SecretsError(f"{path}: {name}.current names no key of {name}.keys")
        return Keyring(current, keys)

    return Secrets(
        ledger=keyring("ledger"),
        master=keyring("master"),
        blind_index=_key(_part(content, "blind_index", str, path), "blind_index", path),
        page_token=_key(_part(content, "page_token", str, path), "page_token", path),
        checkpoint=keyring("checkpoint") if "checkpoint" in content else None,
    )


def _fresh() -> str:
    return randomness.token_hex(KEY_BYTES)


def _write(path: Path, content: Any) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _part(content: Any, name: str, kind: type, path: Path) -> Any:
    value = content.get(name) if isinstance(content, dict) else None
    if not isinstance(value, kind):
        raise SecretsError(f"{path}: {name} is missing or of the wrong type")
    return value


def _key(value: Any, name: str, path: Path) -> bytes:
    try:
        key = bytes.fromhex(value)
    except (TypeError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise SecretsError(f"{path}: {name} must be {KEY_BYTES * 2} hex digits")
    return key
