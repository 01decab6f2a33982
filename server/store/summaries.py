"""Summaries of members in Redis, generation by generation.

A generation has a mark: how far of the log it has come. What is written and how far that is are one script,
so a Redis that lost something lost both; and one whose mark is missing, or older than what was
written, is good for nothing any more.
"""

from collections.abc import Collection, Mapping
from uuid import UUID

from redis.asyncio import Redis

from server.domain.summary import Summary, dump, load
from server.store.ledger import MemberOf
from server.store.log import Position

PROJECTION = "member_summary"
PREFIX = "laurel:summary:"
VERSION_DIGITS = 20
AT_ONCE = 500

# KEYS: the mark, then one a member. ARGV: where who writes begins and ends, then one a member: the version,
# in twenty digits, before the text. Texts compare as what they say: digits of one width. A summary is never
# replaced by an older one, and a generation that lacks what came before is left alone. Answers 1 or 0.
PUT = """
local mark = redis.call('GET', KEYS[1])
if not mark or mark < ARGV[1] then
  return 0
end
for i = 2, #KEYS do
  local known = redis.call('GETRANGE', KEYS[i], 0, 19)
  if known <= string.sub(ARGV[i + 1], 1, 20) then
    redis.call('SET', KEYS[i], ARGV[i + 1])
  end
end
if ARGV[2] > mark then
  redis.call('SET', KEYS[1], ARGV[2])
end
return 1
"""

# What is written of a member: the summary, or the version of one that has none any more.
Entry = Summary | int


class SummaryStore:
    """The summaries. Every method raises RedisError or OSError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._put = redis.register_script(PUT)

    async def begin(self, generation: UUID, place: Position) -> None:
        """An empty generation from that place of the log on."""
        await self._redis.set(_mark(generation), written(place))

    async def place(self, generation: UUID) -> str:
        """How far it has come, in the writing of ``written``; "" if it isn't there."""
        mark = await self._redis.get(_mark(generation))
        return "" if mark is None else mark.decode()

    async def put(
        self, generation: UUID, before: Position, end: Position, entries: Mapping[MemberOf, Entry]
    ) -> bool:
        """Write what members have after the events from ``before`` to ``end``; False if it can't be whole."""
        keys = [_mark(generation), *(_key(generation, member) for member in entries)]
        texts = [written(before), written(end), *map(_text, entries.values())]
        return bool(await self._put(keys, texts))

    async def add(self, generation: UUID, entries: Mapping[MemberOf, Entry]) -> bool:
        """Write what members have, whatever the place; False if the generation isn't there any more."""
        keys = [_mark(generation), *(_key(generation, member) for member in entries)]
        return bool(await self._put(keys, ["", "", *map(_text, entries.values())]))

    async def read(self, generation: UUID, members: Collection[MemberOf]) -> dict[MemberOf, bytes] | None:
        """What is written of those of whom anything is; None if the generation isn't there."""
        mark, *texts = await self._redis.mget(
            [_mark(generation), *(_key(generation, member) for member in members)]
        )
        if mark is None:
            return None
        return {member: text for member, text in zip(members, texts, strict=True) if text is not None}

    async def drop(self, generation: UUID) -> None:
        """Forget a generation, its mark first: from then on nobody reads it."""
        await self._redis.unlink(_mark(generation))
        keys: list[bytes] = []
        async for key in self._redis.scan_iter(f"{_mark(generation)}:*", count=AT_ONCE):
            keys.append(key)
            if len(keys) == AT_ONCE:
                await self._redis.unlink(*keys)
                keys.clear()
        if keys:
            await self._redis.unlink(*keys)


def version_in(text: bytes) -> int:
    """The version of what is written of a member."""
    return int(text[:VERSION_DIGITS])


def summary_in(text: bytes) -> Summary | None:
    """The summary in what is written of a member, None if there is none any more."""
    return load(text[VERSION_DIGITS:]) if len(text) > VERSION_DIGITS else None


def written(place: Position) -> str:
    """A place of the log, so that texts compare as places do."""
    return f"{place.epoch:010}.{place.xid:020}.{place.position:020}"


def _text(entry: Entry) -> str:
    if isinstance(entry, int):
        return f"{entry:0{VERSION_DIGITS}}"
    return f"{entry.version:0{VERSION_DIGITS}}{dump(entry)}"


def _mark(generation: UUID) -> str:
    return f"{PREFIX}{generation.hex}"


def _key(generation: UUID, member: MemberOf) -> str:
    return f"{PREFIX}{generation.hex}:{member[0].hex}:{member[1].hex}"
