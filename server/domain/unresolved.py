"""Requests of which nobody can say whom they concern, for their names lead nowhere by now."""

from dataclasses import fields
from uuid import UUID

from server.domain.commands import Command
from server.domain.errors import Refused
from server.domain.records import record


@record
class Unresolved(Command):
    """A command whose names lead to nobody, or not to one thing alone, when they are looked up.

    They may have led somewhere when the same request was accepted: it still gets its first reply, and
    only a new one is refused. ``said``: the digest of the command as the caller put it.
    ``refusal``: what a new one is told.
    """

    said: bytes
    refusal: Refused

    @staticmethod
    def of(command: Command, refusal: Refused) -> "Unresolved":
        """What is left of a command of which nobody knows whom it concerns."""
        common = {field.name: getattr(command, field.name) for field in fields(Command)}
        return Unresolved(**common, said=command.digest(), refusal=refusal)

    @property
    def members(self) -> tuple[UUID, ...]:
        """Nobody's wallets."""
        return ()

    def digest(self) -> bytes:
        """That of the command as it was put."""
        return self.said
