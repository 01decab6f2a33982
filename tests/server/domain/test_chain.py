"""The content of a row is canonical JSON, and stays the same bytes for as long as there are ledgers."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as some

from server.domain.chain import content, link
from server.domain.ledger import Account, Allocation, Kind, Lot, Transaction

AT = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
ROW = Transaction(
    program_id=UUID(int=1),
    member_id=UUID(int=2),
    transaction_id=UUID(int=3),
    point_type="points",
    sequence=7,
    kind=Kind.EARN,
    points=210,
    debit_account=Account.PROGRAM_ISSUANCE,
    credit_account=Account.WALLET_BALANCE,
    balance_after=1210,
    occurred_at=AT,
    recorded_at=AT + timedelta(seconds=1),
    event_id=UUID(int=4),
    event_type="PURCHASE",
    order_reference="R-1",
    store="pune-1",
    channel="pos",
    source_system="till",
    actor="till 7",
    credential_id=UUID(int=5),
    reason="",
    trace='{"rules":[]}',
    key_id="k1",
    previous_hash=bytes(32),
    hash=b"",
)
LOT = Lot(UUID(int=9), "points", UUID(int=3), 210, 210, True, None, AT + timedelta(days=365))
# Where each text stands in the content.
TEXTS = {
    "event_type": 14,
    "order_reference": 15,
    "store": 16,
    "channel": 17,
    "source_system": 18,
    "actor": 19,
    "reason": 21,
    "key_id": 23,
}


def test_a_row_has_the_hash_that_it_always_had() -> None:
    linked = link(b"key", ROW.previous_hash, content(ROW, [LOT], [Allocation(UUID(int=8), 5)]))
    assert linked.hex() == "59de9470276aed0b079c334e8626b3bed87ba86d9e6ec77532a86293784e0a9f"


@given(some.fixed_dictionaries(dict.fromkeys(TEXTS, some.text())), some.lists(some.integers(1, 10**18)))
def test_content_says_every_column_as_canonical_json(texts: dict[str, str], shares: list[int]) -> None:
    row = ROW._replace(**texts)
    allocations = [Allocation(UUID(int=place), points) for place, points in enumerate(shares)]
    said = content(row, [LOT], allocations)
    read = json.loads(said)
    assert said == json.dumps(read, separators=(",", ":"), ensure_ascii=False).encode()
    assert [UUID(i) for i in read[1:4]] == [row.program_id, row.member_id, row.transaction_id]
    assert {name: read[place] for name, place in TEXTS.items()} == texts
    assert [points for _, points in read[25]] == shares
