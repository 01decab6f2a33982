"""A bare grpc.aio server: it reads each request and answers with a constant.

    python -m bench.echo PORT

What is left of a call when nothing is done: the ceiling that Laurel is measured against.
"""

import asyncio
import sys
from typing import Any
from uuid import UUID

import grpc
import uvloop
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from loyalty.v1 import member_pb2
from loyalty.v1 import points_pb2 as pb

SOME_ID = str(UUID(int=2**127 - 1))
SERVICES = {
    "PointsService": pb.DESCRIPTOR.services_by_name["PointsService"],
    "MemberService": member_pb2.DESCRIPTOR.services_by_name["MemberService"],
}
WALLET = member_pb2.Wallet(point_type="points", balance=2_000_000, lifetime=2_000_000)
# As large as Laurel's own.
REPLIES: dict[str, dict[str, Message]] = {
    "PointsService": {
        "Accrue": pb.AccrueResponse(
            event_id=SOME_ID,
            member_id=SOME_ID,
            awards=[pb.Award(transaction_id=SOME_ID, point_type="points", points=210)],
            points=210,
            balance=2_000_000,
            tier="bronze",
            version=100,
        ),
        "Redeem": pb.RedeemResponse(
            event_id=SOME_ID,
            member_id=SOME_ID,
            transaction_id=SOME_ID,
            point_type="points",
            points=1,
            balance=2_000_000,
            version=100,
        ),
        "GetBalance": pb.GetBalanceResponse(
            member_id=SOME_ID,
            wallets=[WALLET],
            tier="bronze",
            version=100,
        ),
    },
    "MemberService": {
        "GetMember": member_pb2.GetMemberResponse(
            member=member_pb2.Member(
                member_id=SOME_ID,
                status=member_pb2.MEMBER_STATUS_ACTIVE,
                tier="bronze",
                email="0123456789abcdef0123456789abcdef@example.com",
                wallets=[WALLET],
                create_time=Timestamp(seconds=1_800_000_000, nanos=123_456_000),
                update_time=Timestamp(seconds=1_800_000_000, nanos=123_456_000),
                etag="1",
                version=100,
            )
        ),
    },
}


def _handler(method: MethodDescriptor, reply: Message) -> "grpc.RpcMethodHandler[Any, Any]":
    async def answer(_request: Message, _context: Any) -> Message:
        return reply

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    for service, replies in REPLIES.items():
        contract = SERVICES[service]
        handlers = {name: _handler(contract.methods_by_name[name], reply) for name, reply in replies.items()}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(contract.full_name, handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
