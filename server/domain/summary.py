"""What a member holds, as it is at one version: enough to show a balance without looking it up."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from server.domain.books import MemberState
from server.domain.ledger import Wallet
from server.domain.outlook import Activating, Expiring, Outlook, outlook

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Summary(NamedTuple):
    """A member's tier, lifetime points, and wallets with what is coming in them.

    ``next_due``: none of it changes by the clock before; None if nothing ever will.
    """

    version: int
    tier: str
    lifetime: int
    next_due: datetime | None
    wallets: Mapping[str, tuple[Wallet, Outlook]]

    def wallet(self, point_type: str) -> tuple[Wallet, Outlook]:
        """The wallet, empty if it was never touched."""
        return self.wallets.get(point_type) or (Wallet(point_type), Outlook())

    def holds_at(self, moment: datetime) -> bool:
        """Whether nothing may have fallen due by then."""
        return self.next_due is None or moment < self.next_due


def summary_of(member: MemberState) -> Summary:
    """The summary of a member in whose wallets nothing is overdue."""
    moments = [w.next_due for w in member.wallets.values() if w.next_due is not None]
    return Summary(
        member.version,
        member.facts.tier,
        member.facts.lifetime,
        min(moments, default=None),
        {t: (wallet, outlook(member, t)) for t, wallet in member.wallets.items()},
    )


def dump(summary: Summary) -> str:
    """The summary as JSON, to be read by ``load``."""
    version, tier, lifetime, next_due, wallets = summary
    return json.dumps(
        [
            version,
            tier,
            lifetime,
            _number(next_due),
            [_dumped(wallet, coming) for wallet, coming in wallets.values()],
        ],
        separators=(",", ":"),
    )


def load(text: str | bytes) -> Summary:
    """What ``dump`` was given, without what only decisions need."""
    version, tier, lifetime, next_due, wallets = json.loads(text)
    return Summary(version, tier, lifetime, _moment(next_due), dict(map(_loaded, wallets)))


def _dumped(wallet: Wallet, coming: Outlook) -> list[Any]:
    return [
        *wallet[:6],
        [[points, _number(moment)] for points, moment in coming.expiring],
        coming.expiring_later,
        coming.never_expiring,
        [[points, _number(moment), event_type] for points, moment, event_type in coming.activating],
        coming.activating_later,
    ]


def _loaded(row: list[Any]) -> tuple[str, tuple[Wallet, Outlook]]:
    *figures, expiring, expiring_later, never_expiring, activating, activating_later = row
    coming = Outlook(
        tuple(Expiring(points, EPOCH + moment * MICROSECOND) for points, moment in expiring),
        expiring_later,
        never_expiring,
        tuple(Activating(points, _moment(moment), event_type) for points, moment, event_type in activating),
        activating_later,
    )
    return figures[0], (Wallet(*figures), coming)


def _number(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - EPOCH) // MICROSECOND


def _moment(number: int | None) -> datetime | None:
    return None if number is None else EPOCH + number * MICROSECOND
