"""What a contract must say before the server starts; the contracts here are made for the test."""

from collections.abc import Callable

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from loyalty.v1 import access_pb2, member_pb2

from server.domain.actor import CallerKind, StepUp
from server.rpc.access import SERVICES, AccessNotDeclared, declarations, declared_scopes
from server.rpc.gate import Gate
from server.rpc.handlers import methods

Change = Callable[[access_pb2.Access], object]


def contract(change: Change | None) -> ServiceDescriptor:
    """A service of one RPC over UpdateMemberRequest; without any declaration if ``change`` is None."""
    file = descriptor_pb2.FileDescriptorProto(
        name="made/for/this/test.proto",
        package="made",
        syntax="proto3",
        dependency=[member_pb2.DESCRIPTOR.name, access_pb2.DESCRIPTOR.name],
    )
    method = file.service.add(name="Shop").method.add(
        name="Open",
        input_type=".loyalty.v1.UpdateMemberRequest",
        output_type=".loyalty.v1.UpdateMemberResponse",
    )
    if change is not None:
        access = method.options.Extensions[access_pb2.access]
        access.callers.append(access_pb2.CALLER_SERVICE)
        access.scope = "shop.open"
        access.rate_class = access_pb2.RATE_CLASS_WRITE
        change(access)
    pool = descriptor_pool.DescriptorPool()
    _add(pool, member_pb2.DESCRIPTOR)
    pool.Add(file)
    return pool.FindServiceByName("made.Shop")


def _add(pool: descriptor_pool.DescriptorPool, file: object) -> None:
    for dependency in file.dependencies:  # type: ignore[attr-defined]
        _add(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)  # type: ignore[attr-defined]


class Shop:
    async def Open(self, request: object, call: object) -> object:  # noqa: N802
        return request


def test_every_rpc_of_laurel_declares_its_access() -> None:
    declared = [d for service in SERVICES for d in declarations(service).values()]
    assert len(declared) == sum(len(service.methods) for service in SERVICES) >= 20


def test_the_scopes_are_those_that_the_contracts_name() -> None:
    assert {
        "members.read",
        "members.write",
        "points.accrue",
        "points.redeem",
        "rules.write",
    } <= declared_scopes()


def test_a_declaration_reads_the_named_fields_of_a_request() -> None:
    def change(access: access_pb2.Access) -> None:
        access.member_field = "member.member_id"
        access.store_field = "request_id"

    declared = declarations(contract(change))["Open"]
    request = member_pb2.UpdateMemberRequest(request_id="r", member=member_pb2.Member(member_id="m"))
    assert declared.member_of is not None
    assert declared.store_of is not None
    assert (declared.member_of(request), declared.store_of(request)) == ("m", "r")
    assert declared.member_of(member_pb2.UpdateMemberRequest()) == ""
    assert declared.callers == {CallerKind.SERVICE}
    assert declared.scopes == ("shop.open",)


def test_a_declaration_may_ask_for_two_scopes() -> None:
    service = contract(lambda access: setattr(access, "also_scope", "shop.close"))
    assert declarations(service)["Open"].scopes == ("shop.open", "shop.close")
    assert declared_scopes([service]) == {"shop.open", "shop.close"}


def public(access: access_pb2.Access) -> None:
    access.callers[:] = [access_pb2.CALLER_PUBLIC]
    access.scope = ""


def test_what_is_public_needs_no_scope() -> None:
    assert declarations(contract(public))["Open"].public


def stepping_up(
    access: access_pb2.Access, field: str = "member.version", setting: str = "step_up_redeem_points"
) -> None:
    access.callers.append(access_pb2.CALLER_MEMBER)
    access.step_up_above.SetInParent()
    access.step_up_above.field = field
    access.step_up_above.setting = setting


def lets_members_spend(access: access_pb2.Access) -> None:
    access.callers.append(access_pb2.CALLER_MEMBER)
    access.rate_class = access_pb2.RATE_CLASS_REDEEM


def test_a_step_up_is_needed_above_the_limit_of_the_program_and_not_at_it() -> None:
    needed = declarations(contract(stepping_up))["Open"].step_up
    assert needed is not None
    terms = StepUp(("2",), 300, redeem_points=500)
    asked = [
        member_pb2.UpdateMemberRequest(member=member_pb2.Member(version=points)) for points in (0, 500, 501)
    ]
    assert [needed(request, terms) for request in asked] == [False, False, True]


def test_a_step_up_that_is_always_needed_looks_at_no_field() -> None:
    def change(access: access_pb2.Access) -> None:
        access.callers[:] = [access_pb2.CALLER_STAFF]
        access.step_up = True

    needed = declarations(contract(change))["Open"].step_up
    assert needed is not None
    assert needed(member_pb2.UpdateMemberRequest(), StepUp(("2",), 300, redeem_points=10**9))


@pytest.mark.parametrize(
    "change",
    [
        None,
        lambda a: a.ClearField("callers"),
        lambda a: a.callers.append(access_pb2.CALLER_UNSPECIFIED),
        lambda a: a.callers.append(99),
        lambda a: a.ClearField("scope"),
        lambda a: (a.ClearField("scope"), setattr(a, "also_scope", "shop.close")),
        lambda a: a.ClearField("rate_class"),
        lambda a: setattr(a, "rate_class", 99),
        lambda a: setattr(a, "member_field", "nobody"),
        lambda a: setattr(a, "member_field", "member"),
        lambda a: setattr(a, "member_field", "member.nobody"),
        lambda a: setattr(a, "member_field", "member.tags"),
        lambda a: setattr(a, "member_field", "request_id.member_id"),
        lambda a: setattr(a, "store_field", "store"),
        lambda a: setattr(a, "step_up", True),
        lets_members_spend,
        lambda a: stepping_up(a, field="", setting="step_up_redeem_points"),
        lambda a: stepping_up(a, field="request_id", setting="step_up_redeem_points"),
        lambda a: stepping_up(a, field="member.tags", setting="step_up_redeem_points"),
        lambda a: stepping_up(a, field="member.version", setting=""),
        lambda a: stepping_up(a, field="member.version", setting="step_up_transfer_points"),
        lambda a: (stepping_up(a), setattr(a, "step_up", True)),
        lambda a: (stepping_up(a), a.callers.remove(access_pb2.CALLER_MEMBER)),
        lambda a: a.callers.append(access_pb2.CALLER_PUBLIC),
    ],
)
async def test_the_server_refuses_to_start_on_an_rpc_that_leaves_its_access_open(
    change: Change | None,
) -> None:
    with pytest.raises(AccessNotDeclared, match=r"made\.Shop\.Open"):
        methods(contract(change), Shop(), Gate(None, None))  # type: ignore[arg-type]
