"""The parameters of an operation: what the path, the query and the headers take."""

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway import etags
from gateway.bindings import WHOLE, Binding, field_at, is_scalar
from gateway.openapi.comments import Comments
from gateway.openapi.paths import Parameter, Rendered
from gateway.openapi.schemas import REQUEST_ID, STRING, WELL_KNOWN, Schema, Schemas

FieldPath = tuple[FieldDescriptor, ...]
REFERENCE = "#/components/parameters/"

HEADERS: Schema = {
    "RequestTimeout": {
        "name": "X-Request-Timeout",
        "in": "header",
        "description": "Seconds until the caller gives up. The server stops working then.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "The ETag of what was read: it is changed only if it still is as it was.",
        "schema": {"type": "string"},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The ETag of what is known: if it still is as it was, the answer is 304 without it.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Fills `requestId`: the same key with the same request is carried out once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 64},
    },
}


def of_path(binding: Binding, rendered: Rendered, schemas: Schemas, comments: Comments) -> Iterator[Schema]:
    """The parameters of the path."""
    for parameter in rendered.parameters:
        told: Schema = {"name": parameter.name, "in": "path", "required": True}
        words, schema = _path_value(binding, parameter, schemas, comments)
        if words:
            told["description"] = words
        yield told | {"schema": schema}


def of_query(binding: Binding, schemas: Schemas, comments: Comments) -> Iterator[Schema]:
    """The parameters of the query: each field that neither path nor body takes, if text can hold it."""
    if binding.body == WHOLE:
        return
    taken = {variable.field for variable in binding.template.variables}
    if binding.body:
        taken.add((binding.body,))
    for path in _leaves(binding.rpc.input_type, taken, ()):
        field = path[-1]
        schema = schemas.single(field)
        told: Schema = {"name": ".".join(part.json_name for part in path), "in": "query"}
        if comments.of(field.full_name):
            told["description"] = comments.of(field.full_name)
        if field.GetOptions().deprecated:
            told["deprecated"] = True
        yield told | {"schema": {"type": "array", "items": schema} if field.is_repeated else schema}


def of_headers(binding: Binding) -> Iterator[Schema]:
    """References to the headers that an operation heeds."""
    yield {"$ref": REFERENCE + "RequestTimeout"}
    request_id = binding.rpc.input_type.fields_by_name.get(REQUEST_ID)
    if request_id is not None and request_id.type == FieldDescriptor.TYPE_STRING:
        yield {"$ref": REFERENCE + "IdempotencyKey"}
    if takes_etag(binding):
        yield {"$ref": REFERENCE + "IfMatch"}
    if gives_etag(binding) and binding.verb == "GET":
        yield {"$ref": REFERENCE + "IfNoneMatch"}


def takes_etag(binding: Binding) -> bool:
    """Whether If-Match has an effect."""
    return bool(etags.path_in_request(binding.rpc.input_type, binding.body))


def gives_etag(binding: Binding) -> bool:
    """Whether answers have an ETag."""
    return bool(etags.path_in_reply(binding.rpc.output_type))


def _path_value(
    binding: Binding, parameter: Parameter, schemas: Schemas, comments: Comments
) -> tuple[str, Schema]:
    variable = parameter.variable
    field = field_at(binding.rpc.input_type, variable.field) if variable else None
    if variable is None or field is None:
        return parameter.words, dict(STRING)
    words = " ".join(text for text in (parameter.words, comments.of(field.full_name)) if text)
    return words, dict(STRING) if variable.multiple else schemas.single(field)


def _leaves(message: Descriptor, taken: set[tuple[str, ...]], above: FieldPath) -> Iterator[FieldPath]:
    """The fields that hold values, by the path to them; a message inside itself is left out."""
    within = {message.full_name, *(_name(field.containing_type) for field in above)}
    for field in message.fields:
        path = (*above, field)
        if tuple(part.name for part in path) in taken:
            continue
        if is_scalar(field):
            yield path
        elif field.message_type is not None and _flattens(field, within):
            yield from _leaves(field.message_type, taken, path)


def _flattens(field: FieldDescriptor, within: set[str]) -> bool:
    name = _name(field.message_type)
    return not field.is_repeated and name not in within and name not in WELL_KNOWN


def _name(message: Descriptor | None) -> str:
    return message.full_name if message is not None else ""
