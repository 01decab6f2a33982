"""Whatever a command may be refused for, and whatever may go wrong in deciding it, its neighbours commit."""

import ast
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from loyalty.v1 import error_reason_pb2
from uuid_utils.compat import uuid7

from server.domain.commands import (
    Adjust,
    ApproveAdjustment,
    CaptureHold,
    Command,
    Merge,
    Outcome,
    PlaceHold,
    Refund,
    RejectAdjustment,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.household_commands import ChangeSeat, Dissolve, EndSeat, FormHousehold, Invite, Join
from server.domain.households import MAX_OPEN_INVITATIONS, MAX_SEATS
from server.domain.ledger import MAX_WALLET
from server.domain.program import Clawback, LedgerTerms
from server.domain.reviews import MOST_PENDING, PutAside, RejectReview
from server.store.database import Database
from tests.server.operations.test_committer import BASE, Shop, opened, reason
from tests.support.programs import new_program

DOMAIN = Path(__file__).parents[3] / "server" / "domain"
# What decides about commands; the others check what is no command, such as a rule that is to be stored.
DECIDING = (
    *(DOMAIN / "decisions").glob("*.py"),
    *(
        DOMAIN / f"{name}.py"
        for name in ("points", "ledger", "draft", "due", "households", "reviews", "program")
    ),
    *(DOMAIN / f"{name}.py" for name in ("event_types", "adjustments", "rules/evaluate")),
)
LIMIT = {"rule": "limit", "type": "redeem", "then": [{"limit": {"max": 900}}]}
MOST = 5000

Poison = Callable[["Scene"], Awaitable[Command]]


class Scene:
    """A shop, and what has to have happened before a command is refused."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    async def member(self, balance: int = 0) -> UUID:
        return await self.shop.member(balance=balance)

    def command(self, kind: type[Command], member_id: UUID, **said: Any) -> Any:
        return kind(**{**self.shop.common(member_id), **said})

    async def do(self, kind: type[Command], member_id: UUID, **said: Any) -> Outcome:
        return await self.shop.submit(self.command(kind, member_id, **said))

    async def home(self, others: int = 0, *, may_spend: bool = True) -> tuple[UUID, list[UUID]]:
        """A household, and who sits there, the head first."""
        head = await self.member()
        household_id = (await self.do(FormHousehold, head, contributes=False)).household_id
        assert household_id is not None
        seated = [head]
        for _ in range(others):
            seated.append(member_id := await self.member())
            await self.shop.submit(await self.joining(household_id, member_id, may_spend=may_spend))
        return household_id, seated

    async def joining(self, household_id: UUID, member_id: UUID, *, may_spend: bool = True) -> Command:
        token_hash = uuid7().bytes
        offer = {"household_id": household_id, "token_hash": token_hash, "may_spend": may_spend}
        await self.do(Invite, household_id, **offer)
        async with self.shop.database.connection() as connection:
            invitation_id = await connection.fetchval(
                "SELECT invitation_id FROM household_invitation WHERE token_hash = $1", token_hash
            )
        taken = {"household_id": household_id, "invitation_id": invitation_id, "contributes": False}
        joining: Command = self.command(Join, member_id, **taken)
        return joining

    async def hold(self) -> tuple[UUID, UUID]:
        """A member with 20 points, and a hold of 10 of them."""
        member_id = await self.member(20)
        held = await self.do(PlaceHold, member_id, points=10)
        assert held.hold is not None
        return member_id, held.hold.hold_id

    async def spent(self) -> tuple[UUID, UUID]:
        """A member, and a redemption of 10 points."""
        member_id = await self.member(20)
        redeemed = await self.shop.submit(self.shop.redemption(member_id, 10))
        return member_id, redeemed.awards[0].transaction_id

    async def bought(self) -> tuple[UUID, UUID]:
        """A member, and a purchase that earned 20 points."""
        member_id = await self.member()
        return member_id, (await self.shop.submit(self.shop.purchase(member_id, 20))).event_id

    async def asked(self, points: int = 20_000) -> tuple[UUID, UUID]:
        """A member, and an adjustment that waits for a second person."""
        member_id = await self.member()
        return member_id, (await self.do(Adjust, member_id, points=points)).adjustment_id or uuid7()

    def late(self, member_id: UUID) -> Command:
        """An entry that came too late."""
        said = {"said": uuid7().bytes * 2, "kind": "accrue", "entry": "{}", "why": "OCCURRED_TOO_LONG_AGO"}
        common = self.shop.common(member_id) | {"occurred_at": datetime(2001, 1, 1, tzinfo=UTC)}
        return PutAside(**common, **said)


async def no_such_member(scene: Scene) -> Command:
    return scene.shop.purchase(uuid7(), 10)


async def suspended(scene: Scene) -> Command:
    return scene.shop.purchase(await scene.shop.member("suspended"), 10)


async def merged(scene: Scene) -> Command:
    first, second, third = [await scene.member() for _ in range(3)]
    await scene.do(Merge, first, merged_member_id=second)
    merge: Command = scene.command(Merge, third, merged_member_id=second)
    return merge


async def poor(scene: Scene) -> Command:
    return scene.shop.redemption(await scene.member(9), 10)


async def too_many_points_at_once(scene: Scene) -> Command:
    return scene.shop.redemption(await scene.member(1000), 901)


async def full_wallet(scene: Scene) -> Command:
    member_id, adjustment_id = await scene.asked(MAX_WALLET)
    second = replace(scene.shop.actor, name="somebody else", credential_id=uuid7())
    await scene.do(ApproveAdjustment, member_id, adjustment_id=adjustment_id, actor=second)
    return scene.shop.purchase(member_id, 1)


async def dollars(scene: Scene) -> Command:
    return scene.shop.purchase(await scene.member(), 10, currency="USD")


async def order_again(scene: Scene) -> Command:
    purchase = scene.shop.purchase(member_id := await scene.member(), 10)
    await scene.shop.submit(purchase)
    return scene.shop.purchase(member_id, 10, reference=purchase.reference)


async def request_again(scene: Scene) -> Command:
    purchase = scene.shop.purchase(member_id := await scene.member(), 10)
    await scene.shop.submit(purchase)
    return scene.shop.purchase(member_id, 11, request_id=purchase.request_id)


async def danced(scene: Scene) -> Command:
    return scene.shop.purchase(await scene.member(), 0, event_type="DANCED")


async def long_ago(scene: Scene) -> Command:
    return scene.shop.purchase(await scene.member(), 10, occurred_at=datetime(2001, 1, 1, tzinfo=UTC))


async def tomorrow(scene: Scene) -> Command:
    return scene.shop.purchase(await scene.member(), 10, occurred_at=datetime(2101, 1, 1, tzinfo=UTC))


async def unknown_wallet(scene: Scene) -> Command:
    return scene.shop.redemption(await scene.member(9), 1, point_type="stars")


async def wrong_attribute(scene: Scene) -> Command:
    wrong = {"event_type": "REVIEW", "attributes": {"stars": "five"}}
    return scene.shop.purchase(await scene.member(), 0, **wrong)


async def no_adjustment(scene: Scene) -> Any:
    return scene.command(ApproveAdjustment, await scene.member(), adjustment_id=uuid7())


async def own_adjustment(scene: Scene) -> Any:
    member_id, adjustment_id = await scene.asked()
    return scene.command(ApproveAdjustment, member_id, adjustment_id=adjustment_id)


async def adjustment_rejected(scene: Scene) -> Any:
    member_id, adjustment_id = await scene.asked()
    await scene.do(RejectAdjustment, member_id, adjustment_id=adjustment_id)
    return scene.command(ApproveAdjustment, member_id, adjustment_id=adjustment_id)


async def no_hold(scene: Scene) -> Any:
    return scene.command(VoidHold, await scene.member(), hold_id=uuid7())


async def more_than_held(scene: Scene) -> Any:
    member_id, hold_id = await scene.hold()
    return scene.command(CaptureHold, member_id, hold_id=hold_id, points=11)


async def hold_over(scene: Scene) -> Any:
    member_id, hold_id = await scene.hold()
    await scene.do(VoidHold, member_id, hold_id=hold_id)
    return scene.command(CaptureHold, member_id, hold_id=hold_id)


async def merge_with_a_hold(scene: Scene) -> Any:
    member_id, _ = await scene.hold()
    return scene.command(Merge, await scene.member(), merged_member_id=member_id)


async def merge_of_who_sits_somewhere(scene: Scene) -> Any:
    _, [head] = await scene.home()
    return scene.command(Merge, await scene.member(), merged_member_id=head)


async def no_redemption(scene: Scene) -> Any:
    return scene.command(Refund, await scene.member(), transaction_id=uuid7())


async def more_than_redeemed(scene: Scene) -> Any:
    member_id, transaction_id = await scene.spent()
    return scene.command(Refund, member_id, transaction_id=transaction_id, points=11)


async def no_purchase(scene: Scene) -> Any:
    return scene.command(Return, await scene.member(), event_id=uuid7(), purchase_given="x")


async def returned_twice(scene: Scene) -> Any:
    member_id, event_id = await scene.bought()
    await scene.do(Return, member_id, event_id=event_id, purchase_given="x")
    return scene.command(Return, member_id, event_id=event_id, purchase_given="x")


async def returned_when_spent(scene: Scene) -> Any:
    member_id, event_id = await scene.bought()
    await scene.shop.submit(scene.shop.redemption(member_id, 20))
    return scene.command(Return, member_id, event_id=event_id, purchase_given="x")


async def too_many_handed_on(scene: Scene) -> Any:
    to = {"to_member_id": await scene.member(), "to_given": "x"}
    return scene.command(Transfer, await scene.member(MOST + 1), points=MOST + 1, **to)


async def no_household(scene: Scene) -> Any:
    return scene.shop.redemption(await scene.member(9), 1, from_household=True)


async def no_invitation(scene: Scene) -> Any:
    household_id, _ = await scene.home()
    taken = {"household_id": household_id, "invitation_id": uuid7(), "contributes": False}
    return scene.command(Join, await scene.member(), **taken)


async def seated_twice(scene: Scene) -> Any:
    _, [head] = await scene.home()
    return scene.command(FormHousehold, head, contributes=False)


async def full_household(scene: Scene) -> Any:
    household_id, _ = await scene.home(MAX_SEATS - 1)
    return await scene.joining(household_id, await scene.member())


async def too_many_invitations(scene: Scene) -> Any:
    household_id, _ = await scene.home()
    for _ in range(MAX_OPEN_INVITATIONS):
        await scene.joining(household_id, await scene.member())
    offer = {"household_id": household_id, "token_hash": uuid7().bytes, "may_spend": True}
    return scene.command(Invite, household_id, **offer)


async def head_leaves(scene: Scene) -> Any:
    household_id, [head] = await scene.home()
    return scene.command(EndSeat, head, household_id=household_id)


async def somebody_joined(scene: Scene) -> Any:
    household_id, _ = await scene.home()
    return scene.command(Dissolve, household_id, household_id=household_id, sitting=())


async def not_the_head(scene: Scene) -> Any:
    household_id, [_, other] = await scene.home(1)
    offer = {"household_id": household_id, "token_hash": uuid7().bytes, "may_spend": True}
    return scene.command(Invite, household_id, acting_id=other, **offer)


async def another_seat(scene: Scene) -> Any:
    household_id, [head, other] = await scene.home(1)
    return scene.command(ChangeSeat, other, household_id=household_id, contributes=True, acting_id=head)


async def may_not_spend(scene: Scene) -> Any:
    _, [_, other] = await scene.home(1, may_spend=False)
    return scene.shop.redemption(other, 1, from_household=True)


async def no_review(scene: Scene) -> Any:
    return scene.command(RejectReview, await scene.member(), review_id=uuid7())


async def reviewed_twice(scene: Scene) -> Any:
    member_id = await scene.member()
    review_id = (await scene.shop.submit(scene.late(member_id))).event_id
    await scene.do(RejectReview, member_id, review_id=review_id)
    return scene.command(RejectReview, member_id, review_id=review_id)


async def too_many_reviews(scene: Scene) -> Any:
    member_id, other = await scene.member(), replace(scene.shop.actor, credential_id=uuid7())
    kept = await scene.shop.together(replace(scene.late(member_id), actor=other) for _ in range(MOST_PENDING))
    assert all(isinstance(outcome, Outcome) for outcome in kept)
    return replace(scene.late(member_id), actor=other)


async def nonsense(scene: Scene) -> Any:
    member_id, transaction_id = await scene.spent()
    return scene.command(Refund, member_id, transaction_id=transaction_id, points="many")


POISON: list[tuple[str, Poison]] = [
    ("MEMBER_NOT_FOUND", no_such_member),
    ("MEMBER_NOT_ACTIVE", suspended),
    ("MEMBER_MERGED", merged),
    ("INSUFFICIENT_POINTS", poor),
    ("REDEMPTION_REFUSED", too_many_points_at_once),
    ("WALLET_LIMIT", full_wallet),
    ("CURRENCY_NOT_SUPPORTED", dollars),
    ("ORDER_ALREADY_RECORDED", order_again),
    ("REQUEST_ID_REUSED", request_again),
    ("EVENT_TYPE_UNKNOWN", danced),
    ("OCCURRED_TOO_LONG_AGO", long_ago),
    ("INVALID_FIELD", tomorrow),
    ("INVALID_FIELD", unknown_wallet),
    ("INVALID_FIELD", wrong_attribute),
    ("ADJUSTMENT_NOT_FOUND", no_adjustment),
    ("APPROVAL_REQUIRED", own_adjustment),
    ("ADJUSTMENT_NOT_PENDING", adjustment_rejected),
    ("HOLD_NOT_FOUND", no_hold),
    ("HOLD_EXCEEDED", more_than_held),
    ("HOLD_NOT_OPEN", hold_over),
    ("MEMBER_HAS_HOLDS", merge_with_a_hold),
    ("MEMBER_IN_HOUSEHOLD", merge_of_who_sits_somewhere),
    ("REDEMPTION_NOT_FOUND", no_redemption),
    ("REFUND_EXCEEDS_REDEMPTION", more_than_redeemed),
    ("PURCHASE_NOT_FOUND", no_purchase),
    ("RETURN_EXCEEDS_PURCHASE", returned_twice),
    ("POINTS_ALREADY_SPENT", returned_when_spent),
    ("TRANSFER_LIMIT", too_many_handed_on),
    ("HOUSEHOLD_NOT_FOUND", no_household),
    ("INVITATION_NOT_FOUND", no_invitation),
    ("ALREADY_IN_HOUSEHOLD", seated_twice),
    ("HOUSEHOLD_FULL", full_household),
    ("TOO_MANY_INVITATIONS", too_many_invitations),
    ("HOUSEHOLD_NEEDS_HEAD", head_leaves),
    ("HOUSEHOLD_CHANGED", somebody_joined),
    ("HOUSEHOLD_HEAD_ONLY", not_the_head),
    ("HOUSEHOLD_SEAT_ONLY", another_seat),
    ("SPENDING_NOT_ALLOWED", may_not_spend),
    ("REVIEW_NOT_FOUND", no_review),
    ("REVIEW_NOT_PENDING", reviewed_twice),
    ("REVIEWS_FULL", too_many_reviews),
    ("TypeError", nonsense),
]


@pytest.fixture(scope="module")
async def shop(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[Shop]:
    """A shop with one lane, whose returns, transfers and redemptions have limits."""
    terms = LedgerTerms(clawback=Clawback.REFUSE, transfer_points=MOST)
    program = await new_program(database, ledger=terms)
    async with database.connection() as connection:
        await connection.execute(
            """INSERT INTO event_type (program_id, name, description, attributes)
               VALUES ($1, 'REVIEW', '', $2)""",
            program.program_id,
            '{"stars": "number"}',
        )
    async with opened(database, redis_url, secrets_file, program, (BASE, LIMIT)) as shop:
        yield shop


@pytest.mark.parametrize(("why", "poison"), POISON, ids=[poison.__name__ for _, poison in POISON])
async def test_one_bad_command_leaves_its_neighbours_unharmed(shop: Shop, why: str, poison: Poison) -> None:
    bad = await poison(Scene(shop))
    neighbours = [await shop.member() for _ in range(4)]
    good = [shop.purchase(member_id, 5) for member_id in neighbours]

    results = await shop.together([*good[:2], bad, *good[2:]])

    refused = results.pop(2)
    assert why in (reason(refused), type(refused).__name__)
    assert [r.points for r in results if isinstance(r, Outcome)] == [5] * 4
    assert [await shop.balance(member_id) for member_id in neighbours] == [5] * 4
    # Nothing of it is on record: asked again, it is refused again.
    [again] = await shop.together([bad])
    assert type(again) is type(refused)


def test_every_reason_of_a_refusal_has_its_case() -> None:
    said = {why for why, _ in POISON}
    assert set(reasons()) - said == set()


def reasons() -> Iterator[str]:
    """The reasons that deciding names, as the contract spells them."""
    known = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    for path in DECIDING:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in known:
                yield str(node.value)
