"""Random histories against a naive model, against the pure domain and against PostgreSQL: all agree.

LAUREL_MODEL_EXAMPLES asks for more histories than `make test` has time for. A history that fails is made
as short as it can be and printed as a table.
"""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings

from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import Clawback
from server.secrets import Keyring
from tests.server.model.database import InDatabase, expected
from tests.server.model.examples import EXAMPLES, UNHURRIED, Policy, noted
from tests.server.model.histories import (
    ANN,
    BEN,
    EVE,
    Step,
    batch_sizes,
    histories,
    of_few_visits,
    policies,
    program_of,
    rolling_policies,
)
from tests.server.model.invariants import what_is_wrong
from tests.server.model.naive import Naive
from tests.server.model.runs import Blackboard, Domain

KEYS = Keyring("1", {"1": b"k" * 32})


@settings(max_examples=EXAMPLES or 100, suppress_health_check=UNHURRIED, print_blob=True)
@given(policies, histories)
def test_the_domain_says_what_the_naive_model_says(policy: Policy, history: list[Step]) -> None:
    agree(policy, history)


@settings(max_examples=EXAMPLES or 40, suppress_health_check=UNHURRIED, print_blob=True)
@given(rolling_policies, of_few_visits)
def test_so_it_does_of_refunds_to_those_who_come_seldom(policy: Policy, history: list[Step]) -> None:
    agree(policy, history)


def agree(policy: Policy, history: Sequence[Step]) -> None:
    """Whatever the domain tells, and leaves behind, is what the naive model says."""
    domain = Domain(program_of(policy, UUID(int=1)), KEYS, 1000)
    naive = Blackboard(Naive(*policy))
    for step in history:
        _step(policy, domain, naive, step)


def _step(policy: Policy, domain: Domain, naive: Blackboard, step: Step) -> None:
    sent = domain.do(step)
    should, did = naive.do(sent), domain.in_plain_words(sent.told)
    with noted(lambda: _report(policy, domain, should, naive.wallets())):
        assert did == should
        assert domain.wallets() == naive.wallets()
        assert not what_is_wrong(domain.books, domain.movements, domain.program, KEYS.keys)


NUMBERS = count(1)


@settings(max_examples=EXAMPLES or 40, suppress_health_check=UNHURRIED, print_blob=True)
@given(policies, histories, batch_sizes)
def test_the_database_says_what_the_domain_says_to_the_last_bit(
    loop: asyncio.Runner,
    in_database: InDatabase,
    keys: Keyring,
    policy: Policy,
    history: list[Step],
    sizes: Sequence[int],
) -> None:
    compare(loop, in_database, keys, policy, history, sizes)


@settings(max_examples=EXAMPLES or 10, suppress_health_check=UNHURRIED, print_blob=True)
@given(rolling_policies, of_few_visits, batch_sizes)
def test_so_it_does_in_the_database_of_those_who_come_seldom(
    loop: asyncio.Runner,
    in_database: InDatabase,
    keys: Keyring,
    policy: Policy,
    history: list[Step],
    sizes: Sequence[int],
) -> None:
    compare(loop, in_database, keys, policy, history, sizes)


def compare(
    loop: asyncio.Runner,
    in_database: InDatabase,
    keys: Keyring,
    policy: Policy,
    history: Sequence[Step],
    sizes: Sequence[int],
) -> None:
    """PostgreSQL answers each step, and is left, as the domain does and is."""
    # The same ids in the same order: so rows and their hashes must be the same too.
    domain = Domain(program_of(policy, uuid4()), keys, next(NUMBERS) << 64)
    for step in history:
        domain.do(step)
    told = loop.run(in_database.told(domain, sizes))
    saved, should = loop.run(in_database.saved(domain.program)), expected(domain)
    with noted(lambda: f"{policy}\nbatches of {sizes}\n{domain.table()}"):
        for sent, answer in zip(domain.sent, told, strict=True):
            assert _comparable(answer) == _comparable(sent.told), sent.shown
        for what, had in vars(should).items():
            assert getattr(saved, what) == had, what
        # And whoever verifies the ledger finds it in order, by other arithmetic over the tables alone.
        wrong = loop.run(in_database.found_wrong(domain.program))
        assert [f"{f.check.name} {f.problem}" for f in wrong] == []


ROLLING = LotTerms(expiry=Expiry(Until.ROLLING_DAYS, 2))
APPLES = (("apple", 2, 1000),)
# Rare meetings in one batch; most of them once went wrong.
MEETINGS = {
    "a member with nothing left becomes one with another": (
        [
            Step("purchase", BEN, basket=(("book", 1, 100),)),
            Step("redeem", BEN, points=1),
            Step("merge", ANN, to=BEN),
        ],
        [1, 2],
    ),
    "a purchase puts off when other lots expire, and so which is spent first": (
        [
            Step("purchase", ANN, basket=(("book", 1, 1000),)),
            Step("adjust", ANN, points=10, days=3),
            Step("purchase", ANN, wait=30, basket=(("book", 1, 100),)),
            Step("redeem", ANN, points=5),
        ],
        [1, 1, 2],
    ),
    "goods come back with the purchase still on its way": (
        [Step("purchase", ANN, basket=APPLES), Step("match", ANN, basket=(("apple", 1, 0),))],
        [2],
    ),
    "a purchase is no use to points that were spent and would be too old for it": (
        [
            Step("purchase", ANN, basket=(("book", 1, 1000),)),
            Step("redeem", ANN, points=10),
            Step("purchase", ANN, wait=48, basket=(("book", 1, 100),)),
            Step("refund", ANN, back=0, points=2),
            Step("refund", ANN, wait=1, back=0, points=2),
        ],
        [1, 1, 2, 1],
    ),
    "who lives on was active in time for points of the other": (
        [
            Step("purchase", ANN, basket=(("book", 1, 1000),)),
            Step("redeem", ANN, points=10),
            Step("purchase", BEN, wait=30, basket=(("book", 1, 100),)),
            Step("merge", BEN, wait=10, to=ANN),
            Step("purchase", BEN, wait=30, basket=(("book", 1, 100),)),
            Step("refund", BEN, back=0, points=2),
            Step("purchase", BEN, wait=48, basket=(("book", 1, 100),)),
            Step("refund", BEN, back=0, points=3),
        ],
        [1] * 8,
    ),
    "a merge that a clock behind it would put after what was spent": (
        [
            Step("purchase", ANN, basket=(("book", 1, 1000),)),
            Step("purchase", ANN, wait=48, basket=(("book", 1, 1000),)),
            Step("merge", ANN, to=EVE),
            Step("redeem", ANN, behind=90, points=10),
            Step("refund", ANN, back=0),
        ],
        [1] * 5,
    ),
    "points wait for the second of two events": (
        [
            Step("purchase", ANN, basket=APPLES),
            Step("purchase", ANN, basket=(("book", 1, 100),)),
            Step("visit", ANN),
        ],
        [1, 2],
    ),
    "two ask for the goods of one": (
        [
            Step("purchase", ANN, basket=APPLES),
            Step("return", ANN, back=0, basket=(("apple", 1, 0),)),
            Step("return", BEN, back=0, stranger=True, basket=(("apple", 1, 0),)),
        ],
        [1, 2],
    ),
    "two ask for the points that one spent": (
        [
            Step("purchase", ANN, basket=(("book", 1, 1000),)),
            Step("redeem", ANN, points=6),
            Step("refund", ANN, back=0, points=2),
            Step("refund", BEN, back=0, stranger=True, points=2),
        ],
        [1, 1, 2],
    ),
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_commands_that_meet_in_a_batch_do_not_see_that_they_met(
    loop: asyncio.Runner, in_database: InDatabase, keys: Keyring, meeting: str
) -> None:
    history, sizes = MEETINGS[meeting]
    compare(loop, in_database, keys, (ROLLING, LotTerms(), Clawback.ALLOW_DEBT), history, sizes)


def _comparable(told: Any) -> Any:
    if hasattr(told, "reason"):
        return told.reason, str(told), told.metadata
    return told


def _report(policy: Policy, domain: Domain, should: Any, theirs: Any) -> str:
    lines = [str(policy), domain.table(), f"the naive model says {should}"]
    for name, wallet in domain.wallets().items():
        if wallet != theirs[name]:
            lines += [name, f"  domain {wallet}", f"  naive  {theirs[name]}"]
    return "\n".join(lines)
