"""What can be done with templates: put in force, look up, take out of force, try out."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.actor import Actor
from server.domain.errors import FailedPrecondition, InvalidArgument, NotFound, Violation, invalid
from server.domain.notifications.occasions import Facts
from server.domain.notifications.templates import MAX_LANGUAGES, Content, Key, Template
from server.operations.collisions import repeated
from server.operations.rendering import RenderingError, example, mistakes, render
from server.operations.template_files import chosen, own
from server.store import locks
from server.store import templates as store
from server.store.database import Connection, Database

INVALID = "TEMPLATE_INVALID"


class Preview(NamedTuple):
    """What came of a template, and of which."""

    content: Content
    template: Template


class Templates:
    """The templates of all programs. ``clock`` tells the time, aware, in UTC."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    @repeated
    async def put(self, actor: Actor, key: Key, content: Content) -> Template:
        """Put the content in force; the template that is then. Raises InvalidArgument (TEMPLATE_INVALID)."""
        _check(key, content)
        program_id = actor.program_id
        async with self._database.transaction() as connection:
            await locks.take(connection, [locks.drafts_lock(program_id)])
            in_force = await store.in_force(connection, program_id)
            now = in_force.get(key)
            if now is not None and now.content == content:
                return now
            if len({k.language for k in in_force} | {key.language}) > MAX_LANGUAGES:
                raise FailedPrecondition(
                    "TEMPLATE_LANGUAGES_EXHAUSTED",
                    f"a program has templates in at most {MAX_LANGUAGES} languages",
                    {"limit": str(MAX_LANGUAGES)},
                )
            return await self._add(connection, actor, key, content)

    async def get(self, program_id: UUID, key: Key) -> Template:
        """The template in force for exactly this key. Raises NotFound."""
        async with self._database.connection() as connection:
            found = await store.in_force(connection, program_id, occasion=key.occasion, channel=key.channel)
        template = found.get(key) or own().get(key)
        if template is None:
            raise _not_found()
        return template

    async def page(
        self,
        program_id: UUID,
        *,
        occasion: str,
        channel: str,
        written_only: bool,
        after: Key | None,
        size: int,
    ) -> tuple[list[Template], bool]:
        """At most ``size`` templates in force after that key, and whether there are more."""
        async with self._database.connection() as connection:
            written = await store.in_force(connection, program_id, occasion=occasion, channel=channel)
        found: Mapping[Key, Template] = written if written_only else {**own(), **written}
        keys = sorted(
            key
            for key in found
            if (after is None or key > after)
            and occasion in ("", key.occasion)
            and channel in ("", key.channel)
        )
        return [found[key] for key in keys[:size]], len(keys) > size

    @repeated
    async def delete(self, actor: Actor, key: Key) -> None:
        """Take the program's template out of force. Raises NotFound if it has none."""
        async with self._database.transaction() as connection:
            await locks.take(connection, [locks.drafts_lock(actor.program_id)])
            in_force = await store.in_force(connection, actor.program_id, occasion=key.occasion)
            if key not in in_force:
                raise _not_found()
            await self._add(connection, actor, key, Content(), withdrawn=True)

    async def preview(
        self, program_id: UUID, key: Key, content: Content, facts: Mapping[str, str]
    ) -> Preview:
        """What comes of the content, or of the template in force if it is empty. Raises InvalidArgument."""
        template = Template(key, content)
        if content == Content():
            async with self._database.connection() as connection:
                terms = (await store.terms_of(connection, [program_id]))[program_id]
                given = await store.in_force(
                    connection, program_id, occasion=key.occasion, channel=key.channel
                )
            template = chosen(key.occasion, key.channel, (key.language, terms.language), given)
        else:
            _check(key, content, "template.")
        try:
            return Preview(render(template.key, template.content, _facts(key, facts)), template)
        except RenderingError as error:
            part, _, why = str(error).partition(": ")
            raise invalid(f"template.{part}", why, INVALID) from None

    async def _add(
        self, connection: Connection, actor: Actor, key: Key, content: Content, *, withdrawn: bool = False
    ) -> Template:
        version = await store.last_version(connection, actor.program_id, key) + 1
        template = Template(key, content, version)
        await store.add(
            connection,
            actor.program_id,
            template,
            withdrawn=withdrawn,
            created_at=self._clock(),
            actor=actor.label,
        )
        return template


def _check(key: Key, content: Content, path: str = "") -> None:
    if found := mistakes(key, content):
        raise InvalidArgument([Violation(f"{path}{m.field}", m.description) for m in found], INVALID)


def _facts(key: Key, given: Mapping[str, str]) -> Facts:
    """The example with what is given instead. Raises InvalidArgument."""
    facts = dict(example(key.occasion))
    for name, value in given.items():
        if name not in facts:
            raise invalid("facts", f"must be of {', '.join(sorted(facts))}")
        if not isinstance(facts[name], int):
            facts[name] = value
        elif value.isascii() and value.isdigit() and len(value) <= 18:
            facts[name] = int(value)
        else:
            raise invalid("facts", f"{name} must be a whole number")
    return facts


def _not_found() -> NotFound:
    return NotFound("TEMPLATE_NOT_FOUND", "no such template")
