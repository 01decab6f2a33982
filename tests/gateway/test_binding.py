"""How path, query and body become a request, and a reply the body of a response."""

import base64
import json
from typing import Any

import httpx
import pytest

from tests.gateway.world import World


def violations(response: httpx.Response) -> dict[str, str]:
    """What a 400 says is wrong, by field."""
    assert response.status_code == 400, response.text
    status = response.json()
    assert status["code"] == 3
    return {
        violation["field"]: violation["description"]
        for detail in status["details"]
        if detail["@type"].endswith("BadRequest")
        for violation in detail["fieldViolations"]
    }


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/shelves/s%20a/things/t", {"name": "shelves/s a/things/t"}),
        ("/v1/shelves/s%2Fa/things/t", {"name": "shelves/s%2Fa/things/t"}),
        ("/v1/things/t%2F%C3%A9%3Ax", {"name": "t/é:x"}),
        ("/v1/by-number/-7/n", {"int64": "-7"}),
        (
            "/v1/at/2026-11-23T10:00:00Z/2/true",
            {"time": "2026-11-23T10:00:00Z", "kind": "KIND_TOY", "wrappedBool": True},
        ),
        ("/v1/at/2026-11-23T10:00:00Z/KIND_BOOK/false", {"kind": "KIND_BOOK", "wrappedBool": False}),
    ],
)
async def test_a_path_fills_fields(world: World, path: str, fields: dict[str, Any]) -> None:
    response = await world.http.get(path)
    assert response.status_code == 200, response.text
    told = response.json()
    assert {name: told[name] for name in fields} == fields


async def test_a_nested_field_is_filled_by_the_path(world: World) -> None:
    told = (await world.http.get("/v1/by-number/1/inner")).json()
    assert told["child"]["name"] == "inner"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/by-number/x/n", "int64"),
        ("/v1/by-number/9223372036854775808/n", "int64"),
        ("/v1/at/yesterday/1/true", "time"),
        ("/v1/at/2026-11-23T10:00:00Z/KIND_NONE/true", "kind"),
        ("/v1/at/2026-11-23T10:00:00Z/1/yes", "wrapped_bool"),
    ],
)
async def test_a_path_that_does_not_fit_its_field_is_refused(world: World, path: str, field: str) -> None:
    assert set(violations(await world.http.get(path))) == {field}


@pytest.mark.parametrize("path", ["/v1/things/%", "/v1/things/%zz", "/v1/things/%ff"])
async def test_a_path_that_is_no_encoded_text_is_refused(world: World, path: str) -> None:
    response = await world.http.send(
        httpx.Request("GET", f"http://127.0.0.1:{world.port}/", extensions={"target": path.encode()})
    )
    assert response.status_code == 400


PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("int32=-5&int64=9007199254740993&uint32=4294967295&uint64=18446744073709551615",
     {"int32": -5, "int64": "9007199254740993", "uint32": 4294967295, "uint64": "18446744073709551615"}),
    ("sfixed64=-1&double=1.5e3&float=-0.25", {"sfixed64": "-1", "double": 1500.0, "float": -0.25}),
    ("double=NaN&float=Infinity", {"double": "NaN", "float": "Infinity"}),
    ("bool=true", {"bool": True}),
    ("bytes=AP8%3D", {"bytes": "AP8="}),
    ("bytes=_-8", {"bytes": "/+8="}),
    ("kind=KIND_BOOK&kinds=2&kinds=KIND_BOOK&kinds=99",
     {"kind": "KIND_BOOK", "kinds": ["KIND_TOY", "KIND_BOOK", 99]}),
    ("names=a&names=&names=b%26c", {"names": ["a", "", "b&c"]}),
    ("int64s=1&int64s=-2", {"int64s": ["1", "-2"]}),
    ("times=2026-01-01T00:00:00Z&times=2026-01-02T00:00:00%2B01:00",
     {"times": ["2026-01-01T00:00:00Z", "2026-01-01T23:00:00Z"]}),
    ("time=2026-11-23T10:00:00.5Z&duration=1.500s",
     {"time": "2026-11-23T10:00:00.500Z", "duration": "1.500s"}),
    ("wrapped_string=&wrappedInt64=0&wrapped_bool=false",
     {"wrappedString": "", "wrappedInt64": "0", "wrappedBool": False}),
    ("update_mask=a_b,child.odd", {"updateMask": "aB,child.odd"}),
    ("updateMask=aB,child.odd", {"updateMask": "aB,child.odd"}),
    ("maybe=", {"maybe": ""}),
    ("another=x", {"another": "x"}),
    ("renamed=x", {"another": "x"}),
    ("number=3", {"number": "3"}),
    ("request_id=r+1", {"requestId": "r 1"}),
]  # fmt: skip


@pytest.mark.parametrize(("query", "fields"), PARAMETERS)
async def test_parameters_fill_fields(world: World, query: str, fields: dict[str, Any]) -> None:
    response = await world.http.get(f"/v1/things:search?{query}")
    assert response.status_code == 200, response.text
    told = response.json()
    assert {name: told[name] for name in fields} == fields


async def test_parameters_reach_into_messages(world: World) -> None:
    query = "child.name=a&child.child.wrappedInt64=2&child.child.names=x&child.child.names=y&other.kind=1"
    told = (await world.http.get(f"/v1/things:search?{query}")).json()
    assert told["child"]["name"] == "a"
    assert told["child"]["child"]["wrappedInt64"] == "2"
    assert told["child"]["child"]["names"] == ["x", "y"]
    assert told["other"]["kind"] == "KIND_BOOK"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nope=1", "nope"),
        ("child.nope=1", "child.nope"),
        ("name.child=1", "name.child"),
        ("names.a=1", "names.a"),
        ("child=x", "child"),
        ("things=x", "things"),
        ("things.name=x", "things.name"),
        ("numbers=1", "numbers"),
        ("numbers.a=1", "numbers.a"),
        ("struct=1", "struct"),
        ("struct.fields=1", "struct.fields"),
        ("any=1", "any"),
        ("time.seconds=1", "time.seconds"),
        ("int32=1.0", "int32"),
        ("updateMask=a,,b", "update_mask"),
        ("updateMask=,", "update_mask"),
        ("updateMask=child.", "update_mask"),
        ("int32=", "int32"),
        ("int32=2147483648", "int32"),
        ("int32=1&int32=2", "int32"),
        ("int32=1&int32=1", "int32"),
        ("uint32=-1", "uint32"),
        ("double=x", "double"),
        ("float=1e50", "float"),
        ("bool=1", "bool"),
        ("bytes=!", "bytes"),
        ("kind=KIND_NONE", "kind"),
        ("time=now", "time"),
        ("duration=1", "duration"),
        ("wrapped_int64=x", "wrapped_int64"),
        ("text=a&number=1", "number"),
        ("NAME=x", "NAME"),
        ("=x", ""),
    ],
)
async def test_a_parameter_that_does_not_fit_is_named(world: World, query: str, field: str) -> None:
    seen = len(world.server.seen)
    assert set(violations(await world.http.get(f"/v1/things:search?{query}"))) == {field}
    assert len(world.server.seen) == seen


async def test_every_wrong_parameter_is_named_at_once(world: World) -> None:
    told = violations(await world.http.get("/v1/things/t?name=t&nope=1&int32=x&int64=2"))
    assert told == {
        "name": "stands in the path",
        "nope": "there is no such parameter",
        "int32": "must be a 32-bit integer",
    }


async def test_parameters_of_what_stands_in_the_body_are_refused(world: World) -> None:
    told = violations(await world.http.post("/v1/shelves/1/things?child.name=x&int32=2", json={}))
    assert told == {"child.name": "stands in the body"}
    assert set(violations(await world.http.put("/v1/things/t?int32=2", json={}))) == {"int32"}
    response = await world.http.post("/v1/shelves/1/things?int32=2", json={"int32": 3})
    assert (response.json()["int32"], response.json()["child"]["int32"]) == (2, 3)


@pytest.mark.parametrize("query", ["name=%ff", "&".join(["names=a"] * 1001)])
async def test_a_query_that_can_not_be_read_is_refused(world: World, query: str) -> None:
    response = await world.http.send(
        httpx.Request(
            "GET",
            f"http://127.0.0.1:{world.port}/",
            extensions={"target": f"/v1/things:search?{query}".encode()},
        )
    )
    assert response.status_code == 400


BODY: dict[str, Any] = {
    "requestId": "r",
    "kind": 2,
    "kinds": ["KIND_BOOK", 2],
    "int32": "5",
    "int64": 9007199254740993,
    "uint64": "18446744073709551615",
    "double": "-Infinity",
    "bytes": "AP8=",
    "time": "2026-11-23T10:00:00.000000001Z",
    "duration": "-0.5s",
    "wrapped_string": "w",
    "wrappedInt64": None,
    "update_mask": "aB",
    "numbers": {"a": "1", "b": 2},
    "struct": {"a": [1, None, {"b": True}]},
    "any": {"@type": "type.googleapis.com/everything.v1.Thing", "name": "inner"},
    "number": 7,
    "things": [{"name": "a"}, {}],
    "byName": {"x": {"int32": 1}},
    "another": "renamed",
}


async def test_a_body_is_proto3_json(world: World) -> None:
    response = await world.http.put("/v1/things/t", json=BODY)
    assert response.status_code == 200, response.text
    request = world.last.request
    assert request.name == "t"
    assert request.int64 == 9007199254740993
    assert request.WhichOneof("choice") == "number"
    assert not request.HasField("wrapped_int64")
    told = response.json()
    assert told["kinds"] == ["KIND_BOOK", "KIND_TOY"]
    assert told["int64"] == "9007199254740993"
    assert told["struct"] == BODY["struct"]
    assert told["any"]["name"] == "inner"
    assert told["numbers"] == {"a": "1", "b": "2"}
    # What has no presence is written even if it is empty, what has is left out.
    assert told["float"] == 0.0
    assert "maybe" not in told
    assert "wrappedInt64" not in told


MISTAKES: list[tuple[Any, dict[str, str]]] = [
    ({"nope": 1}, {"nope": "there is no such field"}),
    ({"child": {"things": [{}, {"nope": 1}]}}, {"child.things[1].nope": "there is no such field"}),
    ({"byName": {"a": {"nope": 1}}}, {"by_name[a].nope": "there is no such field"}),
    ({"maybe": 1}, {"maybe": "must be text"}),
    ({"child": 1}, {"child": "must be an object"}),
    ({"things": {}}, {"things": "must be an array"}),
    ({"things": [None]}, {"things[0]": "must be an object"}),
    ({"numbers": []}, {"numbers": "must be an object"}),
    ({"numbers": {"a": "x"}}, {"numbers[a]": "has a key or a value of another type"}),
    ({"int32": 1.5}, {"int32": "must be a 32-bit integer"}),
    ({"int32": True}, {"int32": "must be a 32-bit integer"}),
    ({"uint64": -1}, {"uint64": "must be a 64-bit integer without sign"}),
    ({"int64s": [1, "x"]}, {"int64s[1]": "must be a 64-bit integer"}),
    ({"bool": "true"}, {"bool": "must be true or false"}),
    ({"double": "x"}, {"double": "must be a number"}),
    ({"bytes": "!"}, {"bytes": "must be base64"}),
    ({"kind": "NONE"}, {"kind": "must be a name or number of Kind"}),
    ({"time": 5}, {"time": "must be a time such as 2026-11-23T10:00:00Z"}),
    ({"duration": "1"}, {"duration": "must be a duration in seconds such as 1.5s"}),
    ({"wrappedBool": 1}, {"wrapped_bool": "must be true or false"}),
    ({"updateMask": "a_b"}, {"update_mask": "must be names of fields separated by commas"}),
    ({"updateMask": "a,,b"}, {"update_mask": "must be names of fields separated by commas"}),
    ({"child": {"updateMask": "a."}}, {"child.update_mask": "must be names of fields separated by commas"}),
    ({"any": {"@type": "x/nope"}},
     {"any": "must be an object with @type, of a message that the contracts have"}),
    ({"struct": []}, {"struct": "must be an object, not too deep"}),
    ({"text": "a", "number": 1}, {"number": "can't be given together with text"}),
    ({"things": [{"text": "a", "other": {}}]}, {"things[0].other": "can't be given together with text"}),
    ({"maybe": "\ud800"}, {"maybe": "must be text"}),
    ({"int32": "x", "nope": 1, "child": {"bool": 0}},
     {"int32": "must be a 32-bit integer", "nope": "there is no such field",
      "child.bool": "must be true or false"}),
    ([], {"body": "must be an object"}),
    (None, {"body": "must be an object"}),
    ("x", {"body": "must be an object"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "wrong"), MISTAKES)
async def test_each_mistake_in_a_body_is_named_with_its_place(
    world: World, body: Any, wrong: dict[str, str]
) -> None:
    seen = len(world.server.seen)
    content = json.dumps(body)
    headers = {"content-type": "application/json"}
    response = await world.http.request("PUT", "/v1/any/x", content=content, headers=headers)
    assert violations(response) == wrong
    assert len(world.server.seen) == seen


async def test_not_more_mistakes_are_named_than_anybody_reads(world: World) -> None:
    told = violations(await world.http.put("/v1/any/x", json={f"nope{number}": 1 for number in range(100)}))
    assert len(told) == 20


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"a":1,}', b"NaN", b'{"double":NaN}', b"\xff", b'"\xed\xa0\x80"', b"1" * 5000, b"{}{}", b"'a'"],
)
async def test_what_is_no_json_is_refused(world: World, body: bytes) -> None:
    response = await world.http.put("/v1/any/x", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["details"][0]["reason"] in {"BODY_NOT_JSON", "INVALID_FIELD"}


async def test_path_and_body_must_agree(world: World) -> None:
    seen = len(world.server.seen)
    for body in ({"name": "B"}, {"name": "A", "NAME": 1}, {"name": 5}):
        response = await world.http.put("/v1/things/A", json=body)
        assert response.status_code == 400, body
    told = violations(await world.http.patch("/v1/shelves/1/things/A", json={"name": "shelves/1/things/B"}))
    assert told == {"child.name": "is not what the path says"}
    assert len(world.server.seen) == seen
    for body in ({"name": "A"}, {"name": None}, {}):
        assert (await world.http.put("/v1/things/A", json=body)).status_code == 200
    assert world.last.request.name == "A"


async def test_a_whole_body_can_be_one_field(world: World) -> None:
    response = await world.http.post("/v1/names", json=["a", "b"])
    assert response.json() == ["a", "b"]
    assert world.last.request.names == ["a", "b"]
    assert set(violations(await world.http.post("/v1/names", json={"names": []}))) == {"names"}
    assert (await world.http.get("/v1/child?child.name=x")).json()["name"] == "x"
    assert (await world.http.get("/v1/child")).json() is None
    assert (await world.http.get("/v1/names")).json() == []


async def test_a_rule_without_a_body_takes_none(world: World) -> None:
    for body in (b"", b" ", b"{}"):
        response = await world.http.post(
            "/v1/touch?int32=4", content=body, headers={"content-type": "application/json"}
        )
        assert response.json()["int32"] == 4
    assert (await world.http.post("/v1/touch", json={"int32": 4})).status_code == 400
    assert (await world.http.post("/v1/touch", json=[])).status_code == 400


async def test_an_empty_body_is_an_empty_message(world: World) -> None:
    assert (await world.http.post("/v1/shelves/1/things")).status_code == 200
    assert not world.last.request.HasField("child")
    assert (await world.http.put("/v1/things/t")).status_code == 200


async def test_bytes_of_any_type_come_and_go_as_they_are(world: World) -> None:
    response = await world.http.post(
        "/v1/files/a/b.png", content=b"\x00\xff{", headers={"content-type": "image/png"}
    )
    told = response.json()
    assert (told["name"], told["text"]) == ("a/b.png", "image/png")
    assert base64.b64decode(told["bytes"]) == b"\x00\xff{"
    response = await world.http.get("/v1/files/a/b.csv")
    assert (response.headers["content-type"], response.content) == ("text/csv", b"a/b.csv")


async def test_every_kind_of_binding_has_its_route(world: World) -> None:
    for method in ("GET", "DELETE", "PUT", "PATCH", "POST", "PROPFIND"):
        response = await world.http.request(method, "/v1/any/a/b")
        assert (response.status_code, response.json()["name"]) == (200, "a/b")
    assert (await world.http.get("/v1/any")).json()["name"] == ""
    assert (await world.http.request("PURGE", "/v1/things/t")).json()["name"] == "t"
    assert (await world.http.delete("/v1/things/t")).json() == {}
    assert (await world.http.post("/v1/things/t:replace", json={})).json()["name"] == "t"
    assert (await world.http.get("/everything.v1.Everything/NotOverHttp")).status_code == 404


async def test_a_patch_says_itself_what_it_changes(world: World) -> None:
    body = {
        "name": "shelves/1/things/2",
        "int32": 0,
        "odd_1": "x",
        "another": "y",
        "names": [],
        "numbers": {"a": 1},
        "struct": {"a": {"b": 1}},
        "time": "2026-11-23T10:00:00Z",
        "wrappedInt64": None,
        "child": {"bool": False, "child": {"etag": "e"}},
        "other": {},
    }
    response = await world.http.patch("/v1/shelves/1/things/2", json=body)
    assert response.status_code == 200, response.text
    assert sorted(world.last.request.update_mask.paths) == [
        "child.bool", "child.child.etag", "int32", "names", "numbers", "odd_1", "other", "renamed",
        "struct", "time", "wrapped_int64",
    ]  # fmt: skip
    assert world.last.request.child.child.child.etag == "e"


async def test_a_mask_that_is_given_counts(world: World) -> None:
    await world.http.patch("/v1/shelves/1/things/2?update_mask=int32,odd", json={"bool": True})
    assert list(world.last.request.update_mask.paths) == ["int32", "odd"]
    await world.http.patch("/v1/shelves/1/things/2", json={})
    assert not world.last.request.HasField("update_mask")
    await world.http.post("/v1/shelves/1/things", json={"bool": True})
    assert not world.last.request.HasField("update_mask")
