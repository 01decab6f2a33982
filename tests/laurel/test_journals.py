"""Journals over REST: through the shim in the server's process, and through one in front of it."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.app import Gateway
from gateway.channel import ChannelBackend
from gateway.contract import Contract, describe
from laurel.process.inside import InsideBackend
from server.rpc.errors import DOMAIN
from tests.support.doors import SERVICES
from tests.support.servers import Laurel
from tests.support.web import serving

NDJSON = {"content-type": "application/x-ndjson"}


@dataclass
class Shop:
    """REST as a terminal of the program reaches it, and the way to a WebSocket."""

    http: httpx.AsyncClient
    place: str
    key: str
    member_id: str

    def sale(self, **changes: Any) -> dict[str, Any]:
        """An entry: a purchase of the member's."""
        said = {
            "requestId": uuid4().hex,
            "memberId": self.member_id,
            "orderReference": uuid4().hex,
            "amount": {"currencyCode": "INR", "units": "100"},
        }
        return {"accrue": {**said, **changes}}

    async def upload(self, *lines: str) -> httpx.Response:
        """What is answered to these lines."""
        return await self.http.post("/journals:upload", content="\n".join(lines), headers=NDJSON)


@pytest.fixture(params=["rest", "shim"])
async def shop(laurel: Laurel, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    names = [f"loyalty.v1.{name}" for name in SERVICES]
    contract = Contract(describe(*(module.DESCRIPTOR for module in SERVICES.values())), names)
    async with AsyncExitStack() as opened:
        backend: Any = InsideBackend(laurel.server.methods)
        if request.param == "shim":
            backend = ChannelBackend(laurel.address, max_message_bytes=4 << 20, patience=20.0, domain=DOMAIN)
            opened.push_async_callback(backend.close)
        place = await opened.enter_async_context(serving(Gateway(contract, backend, domain=DOMAIN)))
        headers = {"authorization": f"Bearer {laurel.terminal.key}"}
        client = httpx.AsyncClient(base_url=f"http://{place}", timeout=60.0, trust_env=False, headers=headers)
        http = await opened.enter_async_context(client)
        yield Shop(http, place, laurel.terminal.key, await laurel.register())


async def test_a_batch_is_one_post(shop: Shop) -> None:
    entries = {
        "entries": [shop.sale(), {"redeem": {"requestId": "r", "memberId": shop.member_id, "points": 1}}]
    }
    first = await shop.http.post("/transactions/accrue:batch", json=entries)
    assert first.status_code == 200, first.text
    bought, refused = first.json()["results"]
    assert bought["requestId"] == entries["entries"][0]["accrue"]["requestId"]
    assert bought["accrue"]["memberId"] == shop.member_id
    assert refused["index"] == "1"
    assert refused["error"]["details"][0]["reason"] == "INSUFFICIENT_POINTS"
    assert (await shop.http.post("/transactions/accrue:batch", json=entries)).json() == first.json()


async def test_what_was_sold_comes_back_in_the_same_file(shop: Shop) -> None:
    sale = shop.sale()
    order = {"orderReference": sale["accrue"]["orderReference"]}
    back = {"returnPurchase": {"requestId": uuid4().hex, "order": order}}
    told = (await shop.upload(json.dumps(sale), json.dumps(back))).json()
    assert (told["accepted"], told["refused"]) == ("2", "0")
    assert told["results"][1]["returnPurchase"]["lines"][0]["lineId"] == "1"
    assert (told["entries"], told["more"]) == ("2", False)


async def test_a_file_of_lines_is_uploaded_as_it_is(shop: Shop) -> None:
    lines = [json.dumps(shop.sale()) for _ in range(300)] + [json.dumps(shop.sale(memberId=str(uuid4())))]
    first = (await shop.upload(*lines)).json()
    assert (first["entries"], first["accepted"], first["refused"]) == ("301", "300", "1")
    assert first["results"][-1]["error"]["details"][0]["reason"] == "MEMBER_NOT_FOUND"
    again = (await shop.upload(*lines)).json()
    assert (again["accepted"], again["replayed"]) == ("300", "300")
    assert again["results"] == first["results"]


async def test_a_file_that_is_too_long_for_one_reply_is_uploaded_in_parts(shop: Shop) -> None:
    wrong = {"lineId": "x" * 65, "sku": "x" * 65, "category": "x" * 65, "quantity": "-1"}
    refused = json.dumps(shop.sale(amount=None, lines=[wrong] * 5))
    sale = json.dumps(shop.sale())
    lines = [sale, *[refused] * 2600, sale]
    first = (await shop.upload(*lines)).json()
    taken = int(first["entries"])
    assert (first["more"], len(first["results"])) == (True, taken)
    rest = (await shop.upload(*lines[taken:])).json()
    assert (rest["more"], len(rest["results"])) == (False, len(lines) - taken)
    assert rest["results"][-1]["accrue"] == first["results"][0]["accrue"]


async def test_a_line_that_is_no_entry_ends_an_upload_and_says_which_it_is(shop: Shop) -> None:
    sale = json.dumps(shop.sale())
    for wrong in ("{", '{"accrue": {"nothing": 1}}', "[]"):
        response = await shop.upload(sale, "", sale, wrong, sale)
        assert response.status_code == 400, response.text
        assert "line 4" in response.json()["message"]
    whole = (await shop.upload(sale)).json()
    assert (whole["accepted"], whole["refused"]) == ("1", "0")


async def test_who_may_not_is_told_so_at_once(shop: Shop, laurel: Laurel) -> None:
    shop.http.headers["authorization"] = f"Bearer {laurel.staff.key}"
    response = await shop.upload(json.dumps(shop.sale()))
    assert response.status_code == 403, response.text
    assert response.json()["details"][0]["reason"] == "CALLER_NOT_ADMITTED"


async def test_a_till_talks_over_a_websocket(shop: Shop) -> None:
    headers = {"authorization": f"Bearer {shop.key}"}
    async with connect(
        f"ws://{shop.place}/journals:exchange", additional_headers=headers, proxy=None
    ) as socket:
        sale = json.dumps(shop.sale())
        for index in range(2):
            await socket.send(sale)
            told = json.loads(await socket.recv())["result"]
            assert told["result"]["accrue"]["memberId"] == shop.member_id
            assert int(told["result"].get("index", 0)) == index
            assert told.get("replayed", False) is bool(index)
        await socket.send("")
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1000
