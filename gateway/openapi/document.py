"""The OpenAPI 3.1 document of bindings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, MethodDescriptor

from gateway import masks
from gateway.bindings import ANY_METHOD, WHOLE, Binding
from gateway.openapi import errors, parameters
from gateway.openapi.comments import Comments, first_sentence
from gateway.openapi.paths import Rendered, render
from gateway.openapi.schemas import COMPONENTS, Schema, Schemas

VERSION = "3.1.1"
JSON = "application/json"
# The methods that a path item can hold; others stand beside them, where OpenAPI 3.2 has a place for them.
METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"})
OTHER_METHODS = "x-oai-additionalOperations"
ETAG = {"description": "Names this state of the resource, for If-Match.", "schema": {"type": "string"}}
NOT_MODIFIED = {"description": "It still is as If-None-Match says.", "headers": {"ETag": ETAG}}
# A message whose bytes are the body as it stands.
HTTP_BODY = "google.api.HttpBody"
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Access:
    """What is to be known of an RPC beyond its contract: who may call it, in words."""

    words: str = ""
    public: bool = False


def _nothing_more(_rpc: MethodDescriptor) -> Access:
    return Access()


@dataclass(frozen=True, slots=True)
class About:
    """What the descriptors don't tell.

    ``security_schemes`` as OpenAPI has them, by name; each of them is enough.
    """

    title: str
    version: str
    description: str = ""
    security_schemes: Mapping[str, Schema] = field(default_factory=dict)
    access: Callable[[MethodDescriptor], Access] = _nothing_more


def document(bindings: Sequence[Binding], about: About, comments: Comments) -> dict[str, Any]:
    """The whole document, as JSON has it."""
    return _Document(bindings, about, comments).whole()


class _Document:
    def __init__(self, bindings: Sequence[Binding], about: About, comments: Comments) -> None:
        self._bindings = bindings
        self._about = about
        self._comments = comments
        answers: list[Descriptor] = [binding.rpc.output_type for binding in bindings]
        self._schemas = Schemas(comments, [*answers, *errors.DETAILS])
        self._paths: dict[str, Schema] = {}
        self._by_shape: dict[str, str] = {}

    def whole(self) -> dict[str, Any]:
        for binding in self._bindings:
            self._add(binding)
        errors.describe(self._schemas)
        about = self._about
        info = {"title": about.title, "version": about.version}
        components: Schema = {
            "schemas": dict(sorted(self._schemas.components.items())),
            "responses": errors.responses(),
            "parameters": parameters.HEADERS,
        }
        whole: dict[str, Any] = {
            "openapi": VERSION,
            "info": info | ({"description": about.description} if about.description else {}),
            "servers": [{"url": "/"}],
            "tags": list(self._tags()),
            "paths": self._paths,
            "components": components,
        }
        if about.security_schemes:
            components["securitySchemes"] = dict(about.security_schemes)
            whole["security"] = [{name: []} for name in about.security_schemes]
        return whole

    def _tags(self) -> Iterator[Schema]:
        services = {binding.rpc.containing_service.full_name for binding in self._bindings}
        for name in sorted(services):
            told = self._comments.of(name)
            yield {"name": name} | ({"description": told} if told else {})

    def _add(self, binding: Binding) -> None:
        rendered = render(binding.template)
        path = self._by_shape.setdefault(rendered.shape, rendered.path)
        item = self._paths.setdefault(path, {})
        for method in (
            [binding.verb] if binding.verb != ANY_METHOD else sorted(METHODS - {"OPTIONS", "TRACE"})
        ):
            place = item if method in METHODS else item.setdefault(OTHER_METHODS, {})
            key = method.lower() if method in METHODS else method
            # Two templates may differ only in what OpenAPI can't say; the first is told.
            if key not in place:
                place[key] = self._operation(binding, rendered.renamed(path), method)

    def _operation(self, binding: Binding, rendered: Rendered, method: str) -> Schema:
        rpc = binding.rpc
        access = self._about.access(rpc)
        comment = self._comments.of(rpc.full_name)
        operation: Schema = {"tags": [rpc.containing_service.full_name], "operationId": _id(binding, method)}
        if comment:
            operation["summary"] = first_sentence(comment)
        words = (comment, access.words, *_streaming(rpc), *_mask(binding))
        description = "\n\n".join(text for text in words if text)
        if description:
            operation["description"] = description
        operation["parameters"] = [
            *parameters.of_path(binding, rendered, self._schemas, self._comments),
            *parameters.of_query(binding, self._schemas, self._comments),
            *parameters.of_headers(binding),
        ]
        if binding.body:
            operation["requestBody"] = {"content": self._body(binding)}
        asks = bool(self._about.security_schemes)
        found = errors.references(
            credential=asks, body=bool(binding.body), etag=parameters.takes_etag(binding)
        )
        operation["responses"] = {"200": self._answer(binding)} | found
        if parameters.gives_etag(binding) and method == "GET":
            operation["responses"]["304"] = NOT_MODIFIED
        if asks and access.public:
            operation["security"] = [{}, *({name: []} for name in self._about.security_schemes)]
        if rpc.GetOptions().deprecated or rpc.containing_service.GetOptions().deprecated:
            operation["deprecated"] = True
        return operation

    def _body(self, binding: Binding) -> Schema:
        """The media types of a request's body and its schema in each of them."""
        request = binding.rpc.input_type
        bound = [variable.field for variable in binding.template.variables]
        if binding.body == WHOLE:
            return _content(
                request, self._schemas.without(request, bound), example=self._example(request, bound)
            )
        body = request.fields_by_name[binding.body]
        inside = [path[1:] for path in bound if path[0] == binding.body]
        example = self._example(body.message_type, inside)
        if inside and body.message_type is not None:
            schema = self._schemas.without(body.message_type, inside)
        else:
            schema = self._schemas.field(body)
        return _content(body.message_type, schema, example=example)

    def _example(self, message: Descriptor | None, elsewhere: Sequence[Sequence[str]]) -> Any:
        """What its author wrote as an example of a message, None if nothing or if a part stands elsewhere."""
        return None if message is None or elsewhere else self._comments.examples.get(message.full_name)

    def _answer(self, binding: Binding) -> Schema:
        message = binding.rpc.output_type
        answer: Schema = {"description": self._comments.of(message.full_name) or "The answer."}
        if parameters.gives_etag(binding):
            answer["headers"] = {"ETag": ETAG}
        if binding.response_body:
            body = message.fields_by_name[binding.response_body]
            content = _content(body.message_type, self._schemas.field(body), binding.rpc)
        else:
            content = _content(message, self._schemas.message(message), binding.rpc)
        return answer | {"content": content}


def _content(
    message: Descriptor | None,
    schema: Schema,
    answering: MethodDescriptor | None = None,
    example: Any = None,
) -> Schema:
    if message is not None and message.full_name == HTTP_BODY:
        return {"*/*": {}}
    if answering is None or not answering.server_streaming:
        return {JSON: {"schema": schema} | ({} if example is None else {"example": example})}
    line = {"type": "object", "properties": {"result": schema, "error": {"$ref": COMPONENTS + errors.STATUS}}}
    return {NDJSON: {"schema": line | {"maxProperties": 1}}, EVENTS: {"schema": schema}}


def _streaming(rpc: MethodDescriptor) -> Iterator[str]:
    """How a stream is read and written, in words: OpenAPI 3.1 has no others."""
    if rpc.client_streaming:
        yield "Takes a stream of messages: lines of JSON in the body, or over WebSocket."
    if rpc.server_streaming:
        yield (
            "Answers with a stream: lines of JSON, each with a `result` or, at the end, an `error`; "
            f"server-sent events with `Accept: {EVENTS}`; or messages over WebSocket. The schemas are "
            "those of one line and of the data of one event."
        )


def _mask(binding: Binding) -> Iterator[str]:
    """What a PATCH changes if nobody says it."""
    if binding.verb == "PATCH" and binding.body not in {"", WHOLE}:
        mask = masks.field_of(binding.rpc.input_type)
        if mask is not None:
            yield f"Without `{mask.json_name}`, the fields that the body gives are changed."


def _id(binding: Binding, method: str) -> str:
    parts = [binding.rpc.containing_service.name, binding.rpc.name]
    if binding.place:
        parts.append(str(binding.place + 1))
    if binding.verb == ANY_METHOD:
        parts.append(method.lower())
    return "_".join(parts)
