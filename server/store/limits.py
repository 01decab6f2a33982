"""What processes share of rate limits: one number a subject, in Redis, for as long as it matters."""

from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from server.domain.limits import MOST_BURSTS_AHEAD, Limit

PREFIX = "laurel:limit:"

# Limit.charge, for several subjects at once. KEYS: one a subject. ARGV: the time, 0 for
# the server's own; then for each subject the interval, how far ahead its tat can be at
# most, the calls to charge, and how far ahead the caller knows it to be. Answers how far
# ahead each is afterwards. A subject whose tat is past is as good as unknown.
CHARGE = """
local now = tonumber(ARGV[1])
if now == 0 then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end
local answers = {}
for i, key in ipairs(KEYS) do
  local interval, most = tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1])
  local used, known = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1])
  local tat = tonumber(redis.call('GET', key) or now)
  local ahead = math.min(math.max(tat - now, known, 0), most) + used * interval
  if ahead > 0 then
    redis.call('SET', key, string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000))
  end
  answers[i] = ahead
end
return answers
"""


@dataclass(frozen=True, slots=True)
class Charge:
    """Calls of one subject to be charged. ``known``: as for Limit.charge, in microseconds."""

    subject: str
    limit: Limit
    used: int
    known: int


class LimitStore:
    """The shared numbers."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._charge = redis.register_script(CHARGE)

    async def charge(self, charges: Sequence[Charge], at: int = 0) -> list[int]:
        """How far ahead each subject's tat is after its charge, in microseconds.

        ``at`` is the time in microseconds since 1970, Redis's own if 0. Raises RedisError
        or OSError.
        """
        arguments = [at]
        for charge in charges:
            limit = charge.limit
            most = MOST_BURSTS_AHEAD * limit.burst * limit.interval
            arguments += (limit.interval, most, charge.used, charge.known)
        answers: list[int] = await self._charge([PREFIX + c.subject for c in charges], arguments)
        return answers

    async def answers(self) -> None:
        """Return if Redis answers. Raises RedisError or OSError."""
        await self._redis.ping()
