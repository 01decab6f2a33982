from collections.abc import Iterable
from typing import Any

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from gateway.bindings import ANY_METHOD, Binding, RuleError, read
from gateway.routes import RouteConflict, Routes
from gateway.templates import DEEP, Literal, fits, parse, unescape


def service(*rules: dict[str, Any] | None) -> Any:
    """A service with an RPC for each rule, named R0, R1 ... and one request type."""
    file = descriptor_pb2.FileDescriptorProto(
        name="made.proto", package="made", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    message = file.message_type.add(name="Thing")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(("id", "name", "other"), start=1):
        message.field.add(name=name, number=number, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    message.field.add(name="tags", number=4, type=kinds.TYPE_STRING, label=kinds.LABEL_REPEATED)
    message.field.add(
        name="inner", number=5, type=kinds.TYPE_MESSAGE, type_name=".made.Thing", label=kinds.LABEL_OPTIONAL
    )
    message.field.add(
        name="at",
        number=6,
        type=kinds.TYPE_MESSAGE,
        type_name=".google.protobuf.Timestamp",
        label=kinds.LABEL_OPTIONAL,
    )
    made = file.service.add(name="Service")
    for number, rule in enumerate(rules):
        method = made.method.add(name=f"R{number}", input_type=".made.Thing", output_type=".made.Thing")
        if rule is not None:
            method.options.Extensions[annotations_pb2.http].CopyFrom(ParseDict(rule, http_pb2.HttpRule()))
    pool = DescriptorPool()
    stamp = descriptor_pb2.FileDescriptorProto()
    annotations_pb2.DESCRIPTOR.pool.FindFileByName("google/protobuf/timestamp.proto").CopyToProto(stamp)
    pool.Add(stamp)
    pool.Add(file)
    return pool.FindServiceByName("made.Service")


def routes(*rules: dict[str, Any]) -> Routes:
    return Routes(read([service(*rules)]))


def found(table: Routes, method: str, path: str) -> tuple[str, dict[str, str]] | None:
    match = table.find(method, path)
    return None if match is None else (match.binding.rpc.name, match.values())


def test_bindings_are_read_as_the_contract_has_them() -> None:
    bindings = read(
        [
            service(
                {
                    "post": "/things/{name=shelves/*}:check",
                    "body": "inner",
                    "responseBody": "tags",
                    "additionalBindings": [
                        {"get": "/things/{inner.name}"},
                        {"custom": {"kind": "head", "path": "/things/{at}"}},
                    ],
                },
                None,
                {"custom": {"kind": "*", "path": "/any"}, "body": "*"},
            )
        ]
    )
    assert [(b.rpc.name, b.verb, str(b.template), b.body, b.response_body, b.place) for b in bindings] == [
        ("R0", "POST", "/things/{name=shelves/*}:check", "inner", "tags", 0),
        ("R0", "GET", "/things/{inner.name}", "", "", 1),
        ("R0", "HEAD", "/things/{at}", "", "", 2),
        ("R2", ANY_METHOD, "/any", "*", "", 0),
    ]
    assert bindings[0].path == "/made.Service/R0"


def test_a_service_configuration_replaces_what_it_selects() -> None:
    configuration = ParseDict(
        {
            "rules": [
                {"selector": "*", "get": "/all"},
                {"selector": "other.Service.R0,made.*", "get": "/first/{name=**}"},
                {"selector": "made.Service.R1", "put": "/second/{name}"},
            ],
            "fullyDecodeReservedExpansion": True,
        },
        http_pb2.Http(),
    )
    bindings = read([service({"get": "/own"}, None)], configuration)
    assert [str(b) for b in bindings] == [
        "GET /first/{name=**} of made.Service.R0",
        "PUT /second/{name} of made.Service.R1",
    ]
    assert found(Routes(bindings), "GET", "/first/a%2Fb/c") == ("R0", {"name": "a/b/c"})


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({}, "no HTTP method"),
        ({"get": "things"}, "begins with"),
        ({"get": "/{nobody}"}, "has no field nobody"),
        ({"get": "/{inner.nobody}"}, "has no field inner.nobody"),
        ({"get": "/{name.inner}"}, "has no field name.inner"),
        ({"get": "/{tags}"}, "no single value"),
        ({"get": "/{inner}"}, "no single value"),
        ({"get": "/things", "body": "*"}, "GET has no body"),
        ({"post": "/things", "body": "nobody"}, "no field of made.Thing"),
        ({"post": "/things", "body": "inner.name"}, "no field of made.Thing"),
        ({"post": "/{name}", "body": "name"}, "to the path and to the body"),
        ({"get": "/things", "responseBody": "nobody"}, "no field of made.Thing"),
        ({"custom": {"kind": "NO WAY", "path": "/things"}}, "no HTTP method"),
        (
            {"get": "/a", "additionalBindings": [{"get": "/b", "additionalBindings": [{"get": "/c"}]}]},
            "additional bindings itself",
        ),
    ],
)
def test_a_rule_that_can_not_work_is_named(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(RuleError, match=why) as refused:
        read([service(rule)])
    assert "made.Service.R0" in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a", "/a"),
        ("/{name}", "/{id}"),
        ("/{name=**}", "/{id=**}"),
        ("/{name=a/*}", "/a/{id}"),
        ("/{name}/b", "/a/{id}"),
        ("/{name}/b/**", "/a/{id=**}"),
        ("/{name}/b:v", "/a/{id}:v"),
    ],
)
def test_routes_that_contend_are_refused(one: str, other: str) -> None:
    with pytest.raises(RouteConflict, match=r"made\.Service\.R0 and .*made\.Service\.R1"):
        routes({"get": one}, {"get": other})
    routes({"get": one}, {"post": other})


def test_the_more_specific_route_wins() -> None:
    table = routes(
        {"get": "/members/{id}"},
        {"post": "/members/register"},
        {"get": "/members/me"},
        {"get": "/{name=**}"},
        {"get": "/members/{id}:check"},
        {"get": "/members/{id}/{name=**}"},
        {"get": "/{name=**}:check"},
        {"get": "/"},
        {"custom": {"kind": "*", "path": "/members/{id}/any"}},
    )
    assert found(table, "GET", "/members/me") == ("R2", {})
    assert found(table, "GET", "/members/m%65") == ("R2", {})
    assert found(table, "GET", "/members/you") == ("R0", {"id": "you"})
    assert found(table, "GET", "/members/register") == ("R0", {"id": "register"})
    assert found(table, "POST", "/members/register") == ("R1", {})
    assert found(table, "POST", "/members/you") is None
    assert found(table, "GET", "/members/you:check") == ("R4", {"id": "you"})
    assert found(table, "GET", "/members/you%3Acheck") == ("R0", {"id": "you:check"})
    assert found(table, "GET", "/members/you:other") == ("R0", {"id": "you:other"})
    assert found(table, "GET", "/a/b:check") == ("R6", {"name": "a/b"})
    assert found(table, "GET", "/members/you/a/b") == ("R5", {"id": "you", "name": "a/b"})
    assert found(table, "GET", "/members/you/any") == ("R8", {"id": "you"})
    assert found(table, "GET", "/") == ("R7", {})
    assert found(table, "GET", "/members/") == ("R3", {"name": "members/"})
    assert found(table, "GET", "//") == ("R3", {"name": "/"})
    assert table.methods("/members/register") == ("GET", "HEAD", "POST")
    assert table.methods("/members/you/any") == ("*", "GET", "HEAD")


SEGMENTS = st.sampled_from(["a", "b", "*", "{name}", "{name=a/*}"])
PATHS = st.lists(st.sampled_from(["a", "b", "c", "%61", "", "a:v", "b%3Av", ":v"]), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A template that binds ``name`` at most once."""
    parts = draw(st.lists(SEGMENTS, min_size=1, max_size=3).filter(lambda p: sum("{" in s for s in p) < 2))
    bound = any("{" in part for part in parts)
    parts += draw(st.sampled_from([[], ["**"], [] if bound else ["{name=**}"]]))
    return "/" + "/".join(parts) + draw(st.sampled_from(["", "", ":v"]))


def compatible(rules: Iterable[tuple[str, str]]) -> list[Binding]:
    """Bindings of all rules that contend with none before them."""
    kept: list[Binding] = []
    for binding in read([service(*({method: text} for method, text in rules))]):
        try:
            Routes([*kept, binding])
        except RouteConflict:
            continue
        kept.append(binding)
    return kept


def takes(binding: Binding, path: str) -> bool:
    """Whether a path fits a template, worked out from the definition alone."""
    raw = path[1:].split("/") if path != "/" else []
    if binding.template.verb:
        if not raw or not raw[-1].endswith(":v"):
            return False
        raw[-1] = raw[-1][: -len(":v")]
    return fits(binding.template.segments, [unescape(part) for part in raw])


def rank(binding: Binding) -> tuple[bool, list[int]]:
    """Less is more specific."""
    order = [0 if isinstance(s, Literal) else 2 if s == DEEP else 1 for s in binding.template.segments]
    return (not binding.template.verb, order)


@given(
    st.lists(st.tuples(st.sampled_from(["get", "post"]), texts()), max_size=6),
    st.lists(PATHS, min_size=1, max_size=6),
)
def test_routing_finds_what_trying_every_template_finds(
    rules: list[tuple[str, str]], paths: list[str]
) -> None:
    bindings = compatible(rules)
    table = Routes(bindings)
    for path in paths:
        fitting = [binding for binding in bindings if takes(binding, path)]
        # A path that ends in somebody's verb is nothing else.
        fitting = [binding for binding in fitting if binding.template.verb] or fitting
        assert set(table.methods(path)) - {"HEAD"} == {binding.verb for binding in fitting}
        assert len(table.all(path)) == len(fitting)
        for method in ("GET", "POST"):
            best = min((b for b in fitting if b.verb == method), key=rank, default=None)
            match = table.find(method, path)
            assert (match and match.binding) == best


def test_a_verb_is_no_part_of_a_name_whatever_the_method() -> None:
    table = routes({"get": "/things/{name}"}, {"post": "/things/{name}:close"})
    assert table.find("GET", "/things/a:close") is None
    assert table.methods("/things/a:close") == ("POST",)
    assert found(table, "GET", "/things/a:open") == ("R0", {"name": "a:open"})
    # Who has such names writes the colon so that it is none.
    assert found(table, "GET", "/things/a%3Aclose") == ("R0", {"name": "a:close"})


def test_laurels_own_contracts_have_the_promised_paths() -> None:
    from loyalty.v1 import member_pb2, points_pb2

    services = [
        member_pb2.DESCRIPTOR.services_by_name["MemberService"],
        points_pb2.DESCRIPTOR.services_by_name["PointsService"],
    ]
    table = Routes(read(services))
    for method, path, rpc in (
        ("POST", "/members/register", "RegisterMember"),
        ("GET", "/members/m-1", "GetMember"),
        ("POST", "/transactions/accrue", "Accrue"),
        ("POST", "/transactions/redeem", "Redeem"),
        ("GET", "/members/m-1/history", "ListHistory"),
        ("GET", "/api/points/m-1", "GetBalance"),
        ("POST", "/events", "SubmitEvent"),
    ):
        match = table.find(method, path)
        assert match is not None, path
        assert match.binding.rpc.name == rpc
    assert parse("/members/register").segments == (Literal("members"), Literal("register"))
