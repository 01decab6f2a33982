"""How long what a dead worker held stays where it was."""

import asyncio
from collections import defaultdict
from collections.abc import Collection

from tests.faults.shop import Shop

# Each time that a consumer comes on.
MOVED = """
CREATE TABLE moved (consumer text, moved_at timestamptz);
CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO moved VALUES (NEW.consumer, NEW.moved_at); RETURN NULL; END $$;
CREATE TRIGGER noted AFTER UPDATE OF moved_at ON subscription FOR EACH ROW EXECUTE FUNCTION note_move();
"""
# What is leased: consumers by these processes, deliveries by anybody, since that is not written down.
HELD = """
SELECT consumer, token, extract(epoch FROM clock_timestamp())::float8 FROM subscription
 WHERE leased_until > clock_timestamp() AND split_part(holder, ':', 2)::int = ANY($1)
 UNION ALL
SELECT delivery_id::text, token, extract(epoch FROM clock_timestamp())::float8 FROM delivery
 WHERE status = 'pending' AND token > 0 AND next_attempt_at > now()
"""
CAME_ON = """
SELECT consumer, extract(epoch FROM moved_at)::float8 FROM moved
 UNION ALL
SELECT delivery_id::text, extract(epoch FROM attempted_at)::float8 + milliseconds / 1000.0
  FROM delivery_attempt
 UNION ALL
SELECT delivery_id::text, extract(epoch FROM finished_at)::float8 FROM delivery
"""
WAITING = "SELECT count(*) FROM delivery WHERE status = 'pending' AND next_attempt_at <= now()"
FEW = 20


class Takeovers:
    """Remembers what dead workers held, each by the lease under which they did. Needs MOVED."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        # By name: the lease's token, and when its holder died.
        self._lost: dict[str, tuple[int, float]] = {}

    def died(self, pids: Collection[int]) -> None:
        """These are dead by now."""
        for name, token, at in asyncio.run(self._shop.rows(HELD, list(pids))):
            if name not in self._lost or self._lost[name][0] != token:
                self._lost[name] = token, at

    def took(self) -> list[tuple[float, str]]:
        """After how many seconds each consumer came on, and each delivery was tried; the longest last."""
        came_on: defaultdict[str, list[float]] = defaultdict(list)
        for name, at in asyncio.run(self._shop.rows(CAME_ON)):
            came_on[name].append(at)
        # What never came on again had ended as its holder died, and was not seen to have. Who calls has
        # waited for everything to be done, so nothing is still held.
        later = {
            name: [at - since for at in came_on[name] if at > since]
            for name, (_, since) in self._lost.items()
        }
        return sorted((min(seconds), name) for name, seconds in later.items() if seconds)


def few_wait(shop: Shop) -> bool:
    """Whether next to nothing is due to be sent: what is taken over comes after that."""
    [[waiting]] = asyncio.run(shop.rows(WAITING))
    return bool(waiting < FEW)


def held(shop: Shop) -> list[str]:
    """The deliveries that somebody has."""
    return [row[0] for row in asyncio.run(shop.rows(HELD, []))]
