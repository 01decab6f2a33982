"""Verified from a checkpoint on: what it has must be there, and what is newer is looked at whole."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from loyalty.v1 import member_pb2
from uuid_utils.compat import uuid7

from server.domain.checkpoints import NoSuchCheckpointError
from server.domain.proof import Check
from server.store.checkpoint_file import CheckpointWriter
from tests.support.checkpoints import CLEARED, CUT_OFF, evidence, heads, put, signing, taken
from tests.support.servers import Laurel
from tests.support.tampering import (
    Customer,
    earn,
    found_after,
    new_customer,
    tampered,
    verified,
)


async def test_since_a_checkpoint_only_what_is_newer_is_verified(shop: Laurel, path: Path) -> None:
    old, busy = await new_customer(shop), await new_customer(shop)
    await taken(shop, path)
    newest = await earn(shop, str(busy.member_id), 5)
    since = partial(verified, shop, since=1)

    results = await since(evidence=evidence(shop, path))
    assert {check: r.faults for check, r in results.items() if r.faults} == {}
    assert (results[Check.CHAIN].checked, results[Check.FIGURES].checked) == (1, 1)
    assert results[Check.CHECKPOINTS].checked == len(heads(shop, path))

    edit = "UPDATE ledger_transaction SET reason = 'x' WHERE transaction_id ="
    # What is old and trusted isn't looked at, whoever's it is.
    for customer, row in ((old, "$2"), (busy, "$2")):
        assert (
            await found_after(shop, customer, f"{edit} {row}", evidence=evidence(shop, path), since=1) == {}
        )
    found = await found_after(shop, busy, f"{edit} '{newest}'", evidence=evidence(shop, path), since=1)
    assert [(f.check, f.sequence) for f in found[Check.CHAIN]] == [(Check.CHAIN, 5)]
    found = await found_after(
        shop,
        busy,
        "UPDATE wallet SET balance = 33, lifetime = 153 WHERE member_id = $m",
        evidence=evidence(shop, path),
        since=1,
    )
    assert {"balance is 33", "lifetime is 153"} <= {
        f.problem.removeprefix("the wallet's ").partition(";")[0] for f in found[Check.FIGURES]
    }


async def test_since_a_checkpoint_what_it_has_must_be_there(
    shop: Laurel, customer: Customer, path: Path
) -> None:
    await taken(shop, path)
    newest = await earn(shop, str(customer.member_id), 5)
    both = f"DELETE FROM ledger_transaction WHERE transaction_id IN ($4, '{newest}')"
    found = await found_after(shop, customer, both, evidence=evidence(shop, path), since=1)
    (finding,) = found[Check.CHECKPOINTS]
    assert finding.problem.endswith("it has sequence 4, the rows end at sequence 3")
    found = await found_after(
        shop,
        customer,
        "UPDATE ledger_transaction SET hash = '\\x00' WHERE transaction_id = $4",
        evidence=evidence(shop, path),
        since=1,
    )
    assert found[Check.CHECKPOINTS][0].problem.endswith("another row stands there")


async def test_since_a_checkpoint_a_merged_member_is_looked_at_with_who_lives_on(
    shop: Laurel, path: Path
) -> None:
    """What the one bought counts for the other, so either alone would seem to be wrong."""
    survivor, merged = await new_customer(shop), await new_customer(shop)
    request = member_pb2.MergeMembersRequest(
        request_id="merge", member_id=str(survivor.member_id), merged_member_id=str(merged.member_id)
    )
    await shop.service.members.MergeMembers(request)
    await taken(shop, path)
    await earn(shop, str(survivor.member_id), 5)
    since = partial(verified, shop, evidence=evidence(shop, path), since=1)
    results = await since()
    assert [r for r in results.values() if r.faults] == []
    assert results[Check.COUNTED].checked == 2
    edit = "UPDATE member SET purchases = purchases - 1 WHERE member_id = $m"
    async with tampered(shop, survivor, edit):
        (finding,) = (await since())[Check.COUNTED].findings
    assert "has 6 purchases and took over 147 lifetime points; recorded are 7 and 147" in finding.problem


FORGED = """
    INSERT INTO ledger_transaction
    SELECT program_id, member_id, gen_random_uuid(), point_type, 5, kind, 5000, debit_account, credit_account,
           balance_after + 5000, now(), now(), event_id, event_type, order_reference, store, channel,
           source_system, actor, credential_id, reason, trace, key_id, hash, sha256('made up')
      FROM ledger_transaction WHERE transaction_id = $4"""
QUIET = {
    "a forged row": (FORGED, Check.CHAIN, "was changed after it was written, or forged"),
    "a forged row, and the wallet with it": (
        f"""{FORGED}; UPDATE wallet SET balance = balance + 5000, lifetime = lifetime + 5000, sequence = 5,
                      head_hash = sha256('made up') WHERE member_id = $m""",
        Check.CHAIN,
        "was changed after it was written, or forged",
    ),
    "a forged wallet": (
        FORGED.replace("point_type, 5", "'gold', 1"),
        Check.HEAD,
        "is the last of rows without a wallet",
    ),
    "a wallet without rows": (
        "INSERT INTO wallet SELECT program_id, member_id, 'gold', 5, 0, 0, 0, 5, 1, head_hash FROM wallet "
        "WHERE member_id = $m",
        Check.WALLETS,
        "has no rows",
    ),
    "another balance": (
        "UPDATE wallet SET balance = 999, sequence = 5 WHERE member_id = $m", Check.FIGURES, "balance is 999",
    ),
    "the end cut off": (CUT_OFF, Check.CHECKPOINTS, "the rows end at sequence 3"),
    "everything gone": (CLEARED, Check.CHECKPOINTS, "the wallet has no rows"),
    "another last row": (
        "UPDATE ledger_transaction SET hash = '\\x00' WHERE transaction_id = $4",
        Check.CHECKPOINTS,
        "another row stands there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", QUIET)
async def test_since_a_checkpoint_who_is_quiet_is_not_out_of_sight(
    shop: Laurel, path: Path, what: str
) -> None:
    """Nobody does anything after the checkpoint but the owner of the database, who leaves no event."""
    await new_customer(shop)
    victim = await new_customer(shop)
    await taken(shop, path)
    tampering, check, words = QUIET[what]
    found = await found_after(shop, victim, tampering, evidence=evidence(shop, path), since=1)
    assert [f.member_id for f in found[check]] == [victim.member_id]
    assert words in found[check][0].problem


async def test_a_wallet_that_came_after_the_checkpoint_is_verified_whole(shop: Laurel, path: Path) -> None:
    await new_customer(shop)
    await taken(shop, path)
    fresh = await new_customer(shop)
    results = await verified(shop, evidence=evidence(shop, path), since=1)
    assert results[Check.CHAIN].checked == 4
    found = await found_after(
        shop,
        fresh,
        "DELETE FROM ledger_transaction WHERE transaction_id = $1",
        evidence=evidence(shop, path),
        since=1,
    )
    assert [f.sequence for f in found[Check.CHAIN]] == [2]


async def test_who_may_be_trusted(shop: Laurel, customer: Customer, path: Path) -> None:
    await taken(shop, path)
    await earn(shop, str(customer.member_id), 5)
    await taken(shop, path, later=120)
    known = evidence(shop, path)
    now = datetime.now(UTC)
    assert [known.number_at(now + timedelta(seconds=s)) for s in (1, 200)] == [1, 2]
    with pytest.raises(NoSuchCheckpointError, match="is so old"):
        known.number_at(now - timedelta(days=1))
    with pytest.raises(NoSuchCheckpointError, match="has no checkpoint 3"):
        await verified(shop, evidence=known, since=3)
    put(path, b"")
    elsewhere = CheckpointWriter(path, signing(shop))
    elsewhere.append(None, uuid7(), now, None, [])
    with pytest.raises(NoSuchCheckpointError, match="doesn't reach back"):
        await verified(shop, evidence=evidence(shop, path), since=1)
