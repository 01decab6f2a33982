"""Steps as their callers would send them: commands, with the ids of what earlier ones brought."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from server.domain.activity import PURCHASE, Line
from server.domain.actor import Actor, CallerKind
from server.domain.commands import (
    Adjust,
    ApproveAdjustment,
    CaptureHold,
    Command,
    Earn,
    Item,
    Merge,
    Outcome,
    PlaceHold,
    Redeem,
    Refund,
    RejectAdjustment,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.household_commands import (
    ChangeSeat,
    Contribute,
    Dissolve,
    EndSeat,
    FormHousehold,
    Invite,
    Join,
)
from server.domain.program import Program
from tests.server.model.histories import FRUIT, NOTHING, STAFF, VISIT, Step

Said = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What callers have been told by now.

    ``outcomes``: of each step, None for what was refused. ``invitations``: by the step that made them.
    ``sitting``: who sits in a household.
    """

    outcomes: Sequence[Outcome | None]
    invitations: Mapping[int, UUID]
    sitting: Callable[[UUID], Sequence[UUID]]

    def about(self, step: Step) -> Outcome | None:
        """What became of the step that this one is about."""
        return self.outcomes[step.of] if 0 <= step.of < len(self.outcomes) else None


def command(program: Program, step: Step, place: int, now: datetime, known: Known) -> Command:
    """The step as its caller would send it at that moment."""
    kind, particulars = _PARTICULARS[step.what]
    said: Said = {
        "actor": _actor(program, step.by),
        "request_id": f"r{place}",
        "received_at": now,
        "member_id": step.who,
        "member_given": str(step.who),
        "reference": step.order,
        "store": "",
        "channel": "",
        "occurred_at": now - timedelta(hours=step.late) if step.late else None,
        "business_date": None,
        "part": "",
    }
    return kind(**{**said, **particulars(step, known, now)})


def _actor(program: Program, name: str) -> Actor:
    kind, number = (CallerKind.STAFF, 3) if name else (CallerKind.TERMINAL, 2)
    return Actor(kind, program.program_id, UUID(int=number), name or "till", "pos", frozenset())


def _purchase(step: Step, _: Known, __: datetime) -> Said:
    lines = tuple(
        Line(f"{n}", sku, "fruit" if sku in FRUIT else "", quantity, Decimal(amount) / 100)
        for n, (sku, quantity, amount) in enumerate(step.basket, 1)
    )
    total = sum((line.amount for line in lines), Decimal(0))
    return {"event_type": PURCHASE, "currency": "INR", "amount": total, "lines": lines}


def _visit(_: Step, __: Known, ___: datetime) -> Said:
    return {"event_type": VISIT}


def _points(step: Step, _: Known, __: datetime) -> Said:
    return {"points": step.points, "point_type": step.wallet}


def _spending(step: Step, known: Known, now: datetime) -> Said:
    return {"from_household": step.shared, **_points(step, known, now)}


def _owner(step: Step, about: Outcome | None) -> UUID:
    """Whose it is, a pool's perhaps; a stranger thinks it is theirs."""
    return step.who if about is None or step.stranger else about.member_id


def _hold(step: Step, known: Known, _: datetime) -> Said:
    about = known.about(step)
    hold_id = about.hold.hold_id if about is not None and about.hold is not None else NOTHING
    return {"member_id": _owner(step, about), "hold_id": hold_id}


def _capture(step: Step, known: Known, now: datetime) -> Said:
    about = known.about(step)
    spender_id = None if about is None or step.stranger else about.spender_id
    said = {"points": step.points, "keep_rest": step.keep_rest, "spender_id": spender_id}
    return said | _hold(step, known, now)


def _return(step: Step, known: Known, _: datetime) -> Said:
    about = known.about(step)
    items = tuple(Item("", sku, quantity) for sku, quantity, _ in step.basket)
    purchase = None if step.what == "match" else NOTHING if about is None else about.event_id
    return {"event_id": purchase, "purchase_given": str(purchase or ""), "items": items}


def _refund(step: Step, known: Known, _: datetime) -> Said:
    about = known.about(step)
    transaction_id = NOTHING if about is None else about.awards[0].transaction_id
    return {"member_id": _owner(step, about), "transaction_id": transaction_id, "points": step.points}


def _transfer(step: Step, known: Known, now: datetime) -> Said:
    return {"to_member_id": step.to, "to_given": str(step.to), **_points(step, known, now)}


def _adjust(step: Step, known: Known, now: datetime) -> Said:
    expires_at = None if step.days is None else now + timedelta(days=step.days)
    whose = {"member_id": _household_id(step, known)} if step.shared else {}
    return {"expires_at": expires_at, **whose, **_points(step, known, now)}


def _decision(step: Step, known: Known, _: datetime) -> Said:
    about = known.about(step)
    if about is None or about.adjustment_id is None:
        return {"adjustment_id": NOTHING}
    return {"member_id": about.member_id, "adjustment_id": about.adjustment_id}


def _merge(step: Step, _: Known, __: datetime) -> Said:
    return {"merged_member_id": step.to}


def _form(step: Step, _: Known, __: datetime) -> Said:
    return {"contributes": bool(step.contributes)}


def _household_id(step: Step, known: Known) -> UUID:
    about = known.about(step)
    return NOTHING if about is None or about.household_id is None else about.household_id


def _of_household(step: Step, known: Known, _: datetime) -> Said:
    acting_id = None if step.acting == STAFF else step.who if step.acting == NOTHING else step.acting
    return {"household_id": _household_id(step, known), "acting_id": acting_id}


def _invite(step: Step, known: Known, now: datetime) -> Said:
    said = _of_household(step, known, now)
    token = f"{said['household_id']} {len(known.outcomes)}"
    return said | {
        "member_id": said["household_id"],
        "token_hash": hashlib.sha256(token.encode()).digest(),
        "may_spend": step.may_spend is not False,
        "seconds": 0 if step.days is None else step.days * 86_400,
    }


def _join(step: Step, known: Known, _: datetime) -> Said:
    return {
        "household_id": _household_id(step, known),
        "invitation_id": known.invitations.get(step.of, NOTHING),
        "contributes": bool(step.contributes),
    }


def _change(step: Step, known: Known, now: datetime) -> Said:
    terms = {
        "may_spend": step.may_spend,
        "contributes": step.contributes,
        "make_head": step.make_head,
    }
    return _of_household(step, known, now) | terms


def _dissolve(step: Step, known: Known, now: datetime) -> Said:
    said = _of_household(step, known, now)
    return said | {"member_id": said["household_id"], "sitting": tuple(known.sitting(said["household_id"]))}


# What each kind of step says beyond what every command says.
_PARTICULARS: Mapping[str, tuple[Callable[..., Command], Callable[[Step, Known, datetime], Said]]] = {
    "purchase": (Earn, _purchase),
    "visit": (Earn, _visit),
    "redeem": (Redeem, _spending),
    "hold": (PlaceHold, _spending),
    "capture": (CaptureHold, _capture),
    "void": (VoidHold, _hold),
    "return": (Return, _return),
    "match": (Return, _return),
    "refund": (Refund, _refund),
    "transfer": (Transfer, _transfer),
    "adjust": (Adjust, _adjust),
    "approve": (ApproveAdjustment, _decision),
    "reject": (RejectAdjustment, _decision),
    "merge": (Merge, _merge),
    "form": (FormHousehold, _form),
    "invite": (Invite, _invite),
    "join": (Join, _join),
    "change": (ChangeSeat, _change),
    "contribute": (Contribute, _points),
    "leave": (EndSeat, _of_household),
    "dissolve": (Dissolve, _dissolve),
}
