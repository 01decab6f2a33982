"""Errors as every operation answers them: google.rpc.Status under the HTTP status of its code."""

from collections.abc import Mapping

from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2

from gateway.openapi.schemas import COMPONENTS, Schema, Schemas

STATUS = "google.rpc.Status"
DETAIL = "google.rpc.Status.Detail"
TYPE_URL = "type.googleapis.com/"
DETAILS: tuple[Descriptor, ...] = (
    error_details_pb2.ErrorInfo.DESCRIPTOR,
    error_details_pb2.BadRequest.DESCRIPTOR,
    error_details_pb2.RetryInfo.DESCRIPTOR,
)

RETRY_AFTER: Schema = {
    "description": "Seconds to wait before the next attempt.",
    "schema": {"type": "integer", "minimum": 0},
}
CHALLENGE: Schema = {
    "description": "Which credential is asked for.",
    "schema": {"type": "string"},
}

# What each HTTP status says, and the headers that come with it.
ANY_CALL: Mapping[int, str] = {
    400: "The request is wrong, or the state of things doesn't allow it: INVALID_ARGUMENT, "
    "FAILED_PRECONDITION or OUT_OF_RANGE. A `BadRequest` names each wrong field.",
    404: "There is no such thing: NOT_FOUND.",
    409: "Somebody was there first: ALREADY_EXISTS or ABORTED.",
    429: "Too much at once: RESOURCE_EXHAUSTED.",
    499: "The caller went away: CANCELLED.",
    500: "A fault of the server: INTERNAL, UNKNOWN or DATA_LOSS.",
    501: "The server doesn't have the method: UNIMPLEMENTED.",
    503: "The server can't answer now; it may have done what was asked: UNAVAILABLE.",
    504: "The time was over; it may have been done: DEADLINE_EXCEEDED.",
}
WITH_CREDENTIAL: Mapping[int, str] = {
    401: "The credential is missing or not valid: UNAUTHENTICATED.",
    403: "The credential is not good for this: PERMISSION_DENIED.",
}
WITH_BODY: Mapping[int, str] = {
    413: "The body is too large: RESOURCE_EXHAUSTED.",
    415: "The body is not JSON: INVALID_ARGUMENT.",
}
WITH_ETAG: Mapping[int, str] = {
    412: "It has changed since If-Match was read: ABORTED.",
}
HEADERS: Mapping[int, Mapping[str, Schema]] = {
    401: {"WWW-Authenticate": CHALLENGE},
    429: {"Retry-After": RETRY_AFTER},
    503: {"Retry-After": RETRY_AFTER},
}


def responses() -> Schema:
    """The responses that operations refer to, by name."""
    return {
        _name(status): _response(status, words)
        for status, words in sorted({**ANY_CALL, **WITH_CREDENTIAL, **WITH_BODY, **WITH_ETAG}.items())
    }


def references(*, credential: bool, body: bool, etag: bool) -> Schema:
    """The errors of an operation: whether it may ask for a credential, takes a body, heeds If-Match."""
    statuses = {
        **ANY_CALL,
        **(WITH_CREDENTIAL if credential else {}),
        **(WITH_BODY if body else {}),
        **(WITH_ETAG if etag else {}),
    }
    return {str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in sorted(statuses)}


def describe(schemas: Schemas) -> None:
    """Add the schemas of errors to the components."""
    known = [_detail(message, schemas) for message in DETAILS]
    schemas.components[DETAIL] = {
        "title": "Detail",
        "description": "One fact about an error, with its type. Others than those listed may come.",
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "anyOf": [*known, {}],
    }
    schemas.components[STATUS] = {
        "title": "Status",
        "type": "object",
        "properties": {
            "code": {
                "type": "integer",
                "format": "int32",
                "description": "The gRPC code.",
            },
            "message": {"type": "string", "description": "For developers, in English."},
            "details": {"type": "array", "items": {"$ref": COMPONENTS + DETAIL}},
        },
        "required": ["code"],
    }


def _detail(message: Descriptor, schemas: Schemas) -> Schema:
    reference = schemas.message(message)
    marked = {"properties": {"@type": {"const": TYPE_URL + message.full_name}}, "required": ["@type"]}
    return {"title": message.name, "allOf": [reference, marked]}


def _response(status: int, words: str) -> Schema:
    content = {"application/json": {"schema": {"$ref": COMPONENTS + STATUS}}}
    headers = HEADERS.get(status)
    return {"description": words} | ({"headers": dict(headers)} if headers else {}) | {"content": content}


def _name(status: int) -> str:
    return f"Error{status}"
