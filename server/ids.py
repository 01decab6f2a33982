"""Identifiers: UUIDs of the database driver's own type.

It is a ``uuid.UUID`` in every respect, but does in C what that does in Python. A purchase hashes,
prints and encodes some fifty identifiers; with these it costs a twelfth less CPU in the committer.
"""

from uuid import UUID

import uuid_utils
from asyncpg.pgproto import pgproto


def new_id() -> UUID:
    """A UUIDv7: ids made later sort later, also within a millisecond."""
    return pgproto.UUID(uuid_utils.uuid7().bytes)


def parsed(text: str) -> UUID:
    """The UUID that a text says. Raises ValueError; reads more forms than one, as UUID() does."""
    return pgproto.UUID(text)
