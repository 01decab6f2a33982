"""How a program writes to its members.

As JSON, without what is default anyway:

    {"language": "hi", "quiet_hours": ["21:00", "08:00"], "join_seconds": 300, "large_redemption": 5000,
     "channels": {"welcome": ["email", "inbox"]}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from typing import Any

from server.domain.members import CHANNELS
from server.domain.notifications.quiet_hours import QuietHours

MAX_JOIN_SECONDS = 24 * 3600
AT_NIGHT = QuietHours(time(21), time(8))


@dataclass(frozen=True, slots=True)
class NotificationTerms:
    """The terms of one program.

    ``language``: for members who name none, or one without templates. ``join_seconds``: so long after
    the first, what else is earned goes into the same message; 0 for never. ``large_redemption``:
    points from which on a redemption is worth a message. ``channels``: by occasion, those it may use;
    all where it isn't named, none to be silent.
    """

    language: str = "en"
    quiet_hours: QuietHours = AT_NIGHT
    join_seconds: int = 300
    large_redemption: int = 5000
    channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def channels_for(self, occasion: str) -> tuple[str, ...]:
        """The channels that messages of this occasion may use."""
        return self.channels.get(occasion, CHANNELS)


def dump(terms: NotificationTerms) -> dict[str, Any]:
    """The terms as JSON."""
    default, said = NotificationTerms(), dict[str, Any]()
    for name in ("language", "join_seconds", "large_redemption"):
        if getattr(terms, name) != getattr(default, name):
            said[name] = getattr(terms, name)
    if terms.quiet_hours != default.quiet_hours:
        hours = terms.quiet_hours
        said["quiet_hours"] = [f"{clock:%H:%M}" for clock in (hours.begin, hours.end)]
    if terms.channels:
        said["channels"] = {occasion: list(names) for occasion, names in terms.channels.items()}
    return said


def load(said: Mapping[str, Any]) -> NotificationTerms:
    """The terms that ``dump`` wrote down."""
    plain = {name: said[name] for name in ("language", "join_seconds", "large_redemption") if name in said}
    if "quiet_hours" in said:
        plain["quiet_hours"] = QuietHours(*map(time.fromisoformat, said["quiet_hours"]))
    if "channels" in said:
        plain["channels"] = {occasion: tuple(names) for occasion, names in said["channels"].items()}
    return NotificationTerms(**plain)
