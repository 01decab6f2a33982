from google.protobuf.descriptor import MethodDescriptor

from gateway.bindings import read
from gateway.openapi import comments
from gateway.openapi.document import document
from laurel.description import about, access, contracts
from tests.support.compiled import pool_of


def rpc(service: str, name: str) -> MethodDescriptor:
    found: MethodDescriptor = (
        pool_of(contracts()).FindServiceByName(f"loyalty.v1.{service}").methods_by_name[name]
    )
    return found


def test_who_may_call_is_told_from_the_contract() -> None:
    told = access(rpc("PointsService", "Redeem"))
    assert told.words.startswith("Callers: members, terminals, services. Scope: `points.redeem`. ")
    assert "A credential bound to a store names no other." in told.words
    assert "where `points` is above the program's `step_up_redeem_points`" in told.words
    assert not told.public
    assert "A member reaches only itself." in access(rpc("MemberService", "GetMember")).words


def test_the_document_of_laurel_asks_for_a_credential_and_says_whose() -> None:
    files = contracts()
    pool = pool_of(files)
    services = [pool.FindServiceByName("loyalty.v1.MemberService")]
    made = document(read(services), about(), comments.read(files))
    operation = made["paths"]["/members/{member_id}"]["get"]
    assert operation["description"].endswith("A member reaches only itself.")
    assert {"401", "403"} <= set(operation["responses"])
    assert made["security"] == [{"bearer": []}, {"key": []}]
    assert made["info"]["title"] == "Laurel"
