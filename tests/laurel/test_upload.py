"""`laurel points upload`: a journal as a file."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc

from laurel.journals import Upload
from server.domain.actor import CallerKind
from tests.laurel.test_cli import cli
from tests.support.published import publish
from tests.support.refusals import refusal
from tests.support.servers import Laurel
from tests.support.shop import BASE


def sale(member_id: str, **changes: Any) -> dict[str, Any]:
    said = {
        "requestId": uuid4().hex,
        "memberId": member_id,
        "orderReference": uuid4().hex,
        "amount": {"currencyCode": "INR", "units": "100"},
    }
    return {"accrue": {**said, **changes}}


def written(path: Path, *entries: object) -> str:
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n\n")
    return str(path)


async def test_a_journal_sent_twice_says_that_all_was_known(laurel: Laurel, tmp_path: Path) -> None:
    member_id = await laurel.register()
    file = written(tmp_path / "till.jsonl", *(sale(member_id) for _ in range(400)))
    first = await cli(laurel, "points", "upload", file, key=laurel.terminal.key)
    assert first.returncode == 0, first.stderr
    assert re.search(r"^recorded +400$", first.stdout, re.MULTILINE)
    assert "Nothing changed" not in first.stdout
    again = await cli(laurel, "points", "upload", file, key=laurel.terminal.key)
    assert again.returncode == 0, again.stderr
    assert "Nothing changed: all 400 entries were known before." in again.stdout


async def test_refused_entries_are_shown_with_their_lines(laurel: Laurel, tmp_path: Path) -> None:
    member_id, stranger = await laurel.register(), str(uuid4())
    redemption = {"requestId": "spend-1", "memberId": member_id, "points": "10"}
    file = written(
        tmp_path / "till.jsonl", sale(member_id), {"redeem": redemption}, sale(stranger), sale(member_id)
    )
    shown = await cli(laurel, "points", "upload", file, "--json", key=laurel.terminal.key)
    assert shown.returncode == 1, shown.stderr
    told = json.loads(shown.stdout)
    assert (told["entries"], told["accepted"], told["known"]) == (4, 2, 0)
    assert told["reasons"] == {"INSUFFICIENT_POINTS": 1, "MEMBER_NOT_FOUND": 1}
    assert [(one["line"], one["reason"]) for one in told["refused"]] == [
        (2, "INSUFFICIENT_POINTS"),
        (3, "MEMBER_NOT_FOUND"),
    ]
    assert told["refused"][0]["request_id"] == "spend-1"


async def test_a_till_spends_an_allowance_and_takes_goods_back_offline(
    laurel: Laurel, tmp_path: Path
) -> None:
    member_id, receipt = await laurel.register(), uuid4().hex
    await publish(laurel, BASE)
    bought = sale(member_id, amount={"currencyCode": "INR", "units": "1000"})
    loaded = await cli(
        laurel, "points", "upload", written(tmp_path / "1.jsonl", bought), key=laurel.terminal.key
    )
    assert loaded.returncode == 0, loaded.stderr
    placed = await cli(laurel, "holds", "place", member_id, "150", "--json", key=laurel.terminal.key)
    hold_id = json.loads(placed.stdout)["hold"]["holdId"]

    def capture(points: int, **changes: Any) -> dict[str, Any]:
        said = {"requestId": uuid4().hex, "holdId": hold_id, "points": str(points), "keepRest": True}
        return {"captureHold": {**said, **changes}}

    goods = [{"sku": "TEA", "quantity": "2", "amount": {"currencyCode": "INR", "units": "500"}}]
    order = {"orderReference": receipt}
    entries = [
        capture(40, orderReference="R-1"),
        sale(member_id, orderReference=receipt, lines=goods, amount=None),
        {
            "returnPurchase": {
                "requestId": uuid4().hex,
                "order": order,
                "items": [{"lineId": "1", "quantity": 1}],
            }
        },
        capture(200),
        capture(60),
        {"voidHold": {"requestId": uuid4().hex, "holdId": hold_id}},
        capture(10, occurTime="2020-01-02T03:04:05Z"),
    ]
    file = written(tmp_path / "2.jsonl", *entries)
    uploaded = await cli(laurel, "points", "upload", file, "--json", key=laurel.terminal.key)
    told = json.loads(uploaded.stdout)
    assert (told["accepted"], told["put_aside"]) == (5, {"pending": 1}), uploaded.stderr
    assert [(one["line"], one["reason"]) for one in told["refused"]] == [(4, "HOLD_EXCEEDED")]
    shown = await cli(laurel, "points", "balance", member_id, "--json", key=laurel.terminal.key)
    # 200 for the first purchase, 100 captured, 50 of 100 kept.
    assert json.loads(shown.stdout)["wallets"][0]["balance"] == "150"

    key = await laurel.new_key(CallerKind.STAFF, name="asha", scopes=["points.*"])
    listed = await cli(laurel, "reviews", "list", "--member", member_id, "--json", key=key)
    [review] = json.loads(listed.stdout)
    shown = await cli(laurel, "reviews", "show", review["reviewId"], key=key)
    assert re.search(r"^points to capture +10 *$", shown.stdout, re.MULTILINE), shown.stdout
    assert hold_id in shown.stdout


async def test_of_a_file_with_a_line_that_is_no_entry_nothing_is_sent(laurel: Laurel, tmp_path: Path) -> None:
    member_id = await laurel.register()
    good = sale(member_id)
    file = written(tmp_path / "till.jsonl", good, {"accrue": {"nothing": 1}})
    shown = await cli(laurel, "points", "upload", file, key=laurel.terminal.key)
    assert shown.returncode == 1
    assert "till.jsonl:2: " in shown.stderr
    again = await cli(
        laurel, "points", "upload", written(tmp_path / "good.jsonl", good), "--json", key=laurel.terminal.key
    )
    assert json.loads(again.stdout)["known"] == 0


async def test_what_is_too_old_waits_until_somebody_decides(laurel: Laurel, tmp_path: Path) -> None:
    member_id = await laurel.register()
    long_ago = {"occurTime": "2020-01-02T03:04:05Z"}
    old = [sale(member_id, **long_ago), sale(member_id, **long_ago)]
    file = written(tmp_path / "till.jsonl", *old, sale(member_id))
    uploaded = await cli(laurel, "points", "upload", file, key=laurel.terminal.key)
    assert uploaded.returncode == 0, uploaded.stderr
    assert re.search(r"^too old, for review: pending +2$", uploaded.stdout, re.MULTILINE)

    key = await laurel.new_key(CallerKind.STAFF, name="anna", scopes=["points.*"])
    listed = await cli(laurel, "reviews", "list", "--member", member_id, "--json", key=key)
    second, first = [review["reviewId"] for review in json.loads(listed.stdout)]
    shown = await cli(laurel, "reviews", "show", first, key=key)
    assert re.search(r"purchase +100(\.00)? INR", shown.stdout), shown.stdout
    assert "OCCURRED_TOO_LONG_AGO" in shown.stdout
    approved = await cli(laurel, "reviews", "approve", first, "--reason", "seen the receipt", key=key)
    assert approved.returncode == 0, approved.stderr
    assert re.search(r"^recorded as of +2020-01-02", approved.stdout, re.MULTILINE)
    rejected = await cli(laurel, "reviews", "reject", second, "--reason", "no receipt", key=key)
    assert rejected.returncode == 0, rejected.stderr
    late = await cli(laurel, "reviews", "approve", second, key=key)
    assert late.returncode == 1
    assert "REVIEW_NOT_PENDING" in late.stderr
    for status, review_id in (("approved", first), ("rejected", second)):
        listed = await cli(laurel, "reviews", "list", "--status", status, key=key)
        assert review_id in listed.stdout
    again = await cli(laurel, "points", "upload", file, "--json", key=laurel.terminal.key)
    told = json.loads(again.stdout)
    assert (told["accepted"], told["known"], told["put_aside"]) == (2, 2, {"rejected": 1})


async def test_a_refused_upload_is_told_as_the_server_told_it(laurel: Laurel, tmp_path: Path) -> None:
    """Whatever was being written when the refusal came, and at once: it is no outage."""
    member_id = await laurel.register()
    file = Path(written(tmp_path / "till.jsonl", *(sale(member_id) for _ in range(100))))
    async with grpc.aio.insecure_channel(laurel.address) as channel:
        for key, reason in ((laurel.staff.key, "CALLER_NOT_ADMITTED"), ("nobody's", "CREDENTIAL_INVALID")):
            for _ in range(100):
                sending = Upload(channel, key, file)
                assert (await refusal(sending.run(lambda: None))).reason == reason
                assert sending.tally.retries == 0
