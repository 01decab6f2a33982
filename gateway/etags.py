"""Entity tags: from a resource's etag field to ETag, and back from If-Match.

A field may hold any text, a header may not; so what stands between the quotes is
percent-encoded where it must be, and means the same text when it comes back.
"""

import re
from urllib.parse import quote, unquote

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gateway.statuses import Refused, wrong

ETAG = "etag"
ANY = "*"
MISMATCH = "ETAG_MISMATCH"

_SAFE = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"
_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)')


def show(value: str) -> str:
    """The header's text for the value of an etag field."""
    return f'"{quote(value, safe=_SAFE)}"'


def matches(header: str, value: str) -> bool:
    """Whether If-None-Match names the value. Weak and strong tags are compared alike."""
    if header.strip() == ANY:
        return True
    return value in {tag for _, tag in _tags(header)}


def expected(header: str) -> str:
    """The one value that If-Match asks for; "" if it takes any.

    Raises Refused for several, which an etag field can't hold, and for a weak one, which
    never matches.
    """
    if header.strip() == ANY:
        return ""
    tags = _tags(header)
    if len(tags) != 1 or not tags[0][1]:
        raise wrong("if-match", 'must be one entity tag in double quotes, or "*"')
    weak, tag = tags[0]
    if weak:
        raise failed("a weak entity tag matches nothing")
    return tag


def failed(message: str) -> Refused:
    """412."""
    return Refused(412, code_pb2.ABORTED, MISMATCH, message)


def mismatch(status: status_pb2.Status) -> bool:
    """Whether a status says that the resource has another etag.

    ABORTED alone doesn't: servers say it of calls that met each other too, and these are
    to be tried again as they are.
    """
    if status.code != code_pb2.ABORTED:
        return False
    info = error_details_pb2.ErrorInfo()
    return any(detail.Unpack(info) and info.reason == MISMATCH for detail in status.details)


def path_in_reply(message: Descriptor) -> tuple[str, ...]:
    """Where a reply keeps an etag: in itself, or in the only message in it that has one; else ()."""
    if _is_etag(message.fields_by_name.get(ETAG)):
        return (ETAG,)
    holders = [
        field.name
        for field in message.fields
        if field.message_type is not None
        and not field.is_repeated
        and _is_etag(field.message_type.fields_by_name.get(ETAG))
    ]
    return (holders[0], ETAG) if len(holders) == 1 else ()


def path_in_request(message: Descriptor, body: str) -> tuple[str, ...]:
    """Where a request takes an etag: in itself, or in the resource that is its body; () if nowhere."""
    if _is_etag(message.fields_by_name.get(ETAG)):
        return (ETAG,)
    resource = message.fields_by_name.get(body)
    if resource is not None and resource.message_type is not None and not resource.is_repeated:
        found = _is_etag(resource.message_type.fields_by_name.get(ETAG))
        return (resource.name, ETAG) if found else ()
    return path_in_reply(message) if body == "*" else ()


def _is_etag(field: FieldDescriptor | None) -> bool:
    return field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


def _tags(header: str) -> list[tuple[bool, str]]:
    """Each tag and whether it is weak; none if the header is no list of tags."""
    found: list[tuple[bool, str]] = []
    place = 0
    while place < len(header):
        tag = _TAG.match(header, place)
        if tag is None:
            return []
        found.append((bool(tag[1]), unquote(tag[2])))
        place = tag.end()
    return found
