"""What the OpenAPI document says of Laurel beyond its descriptors: credentials, and who may call what."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.resources import files

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from loyalty.v1 import access_pb2

from gateway.openapi.document import About, Access

SECURITY_SCHEMES: Mapping[str, dict[str, str]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or an access token of the program's issuer.",
    },
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "An API key of a terminal, a service or a member of staff.",
    },
}
CALLERS: Mapping[int, str] = {
    access_pb2.CALLER_PUBLIC: "everybody",
    access_pb2.CALLER_MEMBER: "members",
    access_pb2.CALLER_TERMINAL: "terminals",
    access_pb2.CALLER_SERVICE: "services",
    access_pb2.CALLER_STAFF: "staff",
}
DESCRIPTION = """\
The contracts of Laurel as HTTP and JSON.

JSON as proto3 has it: 64-bit integers are strings, times are RFC 3339, and what is absent has its default. \
Fields may also be sent as the contracts spell them, in snake_case. An unknown field or parameter is refused.

A call that failed with 503 or 504 may have happened: repeat it with the same `Idempotency-Key`, and it \
happens once. Every error is a `google.rpc.Status` whose `ErrorInfo` has the reason.
"""


def contracts() -> FileDescriptorSet:
    """Laurel's contracts with their comments, as `make protos` wrote them."""
    return FileDescriptorSet.FromString(files("laurel").joinpath("contracts.binpb").read_bytes())


def about() -> About:
    """What to tell of Laurel, this version."""
    return About("Laurel", version("laurel"), DESCRIPTION, SECURITY_SCHEMES, access)


def access(rpc: MethodDescriptor) -> Access:
    """What an RPC declares about its callers, in words; nothing for one of somebody else's contracts."""
    options = rpc.GetOptions()
    if not options.HasExtension(access_pb2.access):
        return Access()
    declared = options.Extensions[access_pb2.access]
    public = access_pb2.CALLER_PUBLIC in declared.callers
    return Access(" ".join(_sentences(declared)), public=public)


def _sentences(declared: access_pb2.Access) -> Iterator[str]:
    callers = [CALLERS[caller] for caller in declared.callers]
    scopes = [f"`{scope}`" for scope in (declared.scope, declared.also_scope) if scope]
    scope = f" Scope: {' and '.join(scopes)}." if scopes else ""
    yield f"Callers: {', '.join(callers)}.{scope}"
    if declared.member_field and access_pb2.CALLER_MEMBER in declared.callers:
        yield "A member reaches only itself."
    if declared.store_field:
        yield "A credential bound to a store names no other."
    if declared.step_up:
        yield "Members and staff need a recent, stronger login."
    elif declared.HasField("step_up_above"):
        above = declared.step_up_above
        yield (
            f"Members and staff need a recent, stronger login where `{above.field}` is above the program's "
            f"`{above.setting}`."
        )
