"""How a program writes to its members, as options of `laurel programs` and in words."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import time
from typing import Any

import click

from server.domain.ledger import MAX_POINTS
from server.domain.members import CHANNELS, language_code
from server.domain.notifications.occasions import OCCASIONS
from server.domain.notifications.quiet_hours import NONE, QuietHours
from server.domain.notifications.terms import MAX_JOIN_SECONDS, NotificationTerms

ALL, SILENT = "all", "none"


def _language(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else language_code(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}") from None


def _quiet_hours(_ctx: click.Context, _option: click.Parameter, value: str | None) -> QuietHours | None:
    if value is None or value == SILENT:
        return None if value is None else NONE
    clocks = value.split("-")
    try:
        begin, end = (time.fromisoformat(clock) for clock in clocks if len(clock) == len("21:00"))
    except ValueError:
        begin = end = time(0)
    if begin == end or len(clocks) != 2:
        raise click.BadParameter(f"{value!r}: write two times such as 21:00-08:00, or {SILENT}")
    return QuietHours(begin, end)


def _channels(
    _ctx: click.Context, _option: click.Parameter, value: tuple[str, ...]
) -> Mapping[str, tuple[str, ...]]:
    said: dict[str, tuple[str, ...]] = {}
    for part in value:
        occasion, _, names = part.partition("=")
        if occasion not in OCCASIONS:
            raise click.BadParameter(f"{occasion!r} is no occasion; there is {', '.join(OCCASIONS)}")
        if occasion in said:
            raise click.BadParameter(f"{occasion} stands there twice")
        wanted = {ALL: list(CHANNELS), SILENT: []}.get(names, names.split(","))
        if not names or not set(wanted) <= set(CHANNELS):
            raise click.BadParameter(
                f"{part!r}: write {occasion}={ALL}, {SILENT} or some of {','.join(CHANNELS)}"
            )
        said[occasion] = tuple(channel for channel in CHANNELS if channel in wanted)
    return said


# Options by the name of the term that they set.
OPTIONS: Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "language": click.option(
        "--language",
        callback=_language,
        help="The language of messages to members who name none, such as en or hi.",
    ),
    "quiet_hours": click.option(
        "--quiet-hours",
        callback=_quiet_hours,
        help=f"When no message leaves, where the member lives, such as 21:00-08:00; {SILENT} for never.",
    ),
    "join_seconds": click.option(
        "--join-seconds",
        type=click.IntRange(0, MAX_JOIN_SECONDS),
        help="What is earned so long after a first purchase is told along with it; 0 for each by itself.",
    ),
    "large_redemption": click.option(
        "--large-redemption",
        type=click.IntRange(1, MAX_POINTS),
        help="Members are told when so many points or more are redeemed at once.",
    ),
    "channels": click.option(
        "--tell",
        "channels",
        multiple=True,
        callback=_channels,
        help=f"OCCASION=CHANNEL,CHANNEL, OCCASION={ALL} or OCCASION={SILENT}: where members may be told of "
        "it; repeatable.",
    ),
}


def notification_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each term; those that aren't given are None or empty."""
    for option in reversed(list(OPTIONS.values())):
        command = option(command)
    return command


def revised(terms: NotificationTerms, given: Mapping[str, Any]) -> NotificationTerms:
    """The terms with what the options say."""
    plain = {name: given[name] for name in OPTIONS if name != "channels" and given[name] is not None}
    told = {**terms.channels, **given["channels"]}
    # An occasion that may use all is as one that was never named.
    return replace(terms, channels={o: names for o, names in told.items() if names != CHANNELS}, **plain)


def as_json(terms: NotificationTerms) -> dict[str, Any]:
    """All terms."""
    hours = terms.quiet_hours
    return {
        "language": terms.language,
        "quietHours": "" if hours.begin == hours.end else f"{hours.begin:%H:%M}-{hours.end:%H:%M}",
        "joinSeconds": terms.join_seconds,
        "largeRedemption": terms.large_redemption,
        "tell": {occasion: list(terms.channels_for(occasion)) for occasion in OCCASIONS},
    }


def in_words(terms: NotificationTerms) -> list[tuple[str, str]]:
    """The same for people: a name and a text each."""
    said = as_json(terms)
    return [
        ("messages", f"in {terms.language} to who names no language"),
        ("quiet hours", said["quietHours"] or "none"),
        (
            "bursts",
            f"{terms.join_seconds:,} seconds become one message" if terms.join_seconds else "never joined",
        ),
        ("large redemption", f"from {terms.large_redemption:,} points on members are told"),
        *((f"tell {occasion}", ", ".join(names) or "nobody") for occasion, names in said["tell"].items()),
    ]
