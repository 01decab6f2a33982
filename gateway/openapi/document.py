"""The OpenAPI 3.1 document of bindings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, MethodDescriptor

from gateway.bindings import ANY_METHOD, WHOLE, Binding
from gateway.openapi import errors, parameters
from gateway.openapi.comments import Comments, first_sentence
from gateway.openapi.paths import Rendered, render
from gateway.openapi.schemas import Schema, Schemas

VERSION = "3.1.1"
JSON = "application/json"
# The methods that a path item can hold; others stand beside them, where OpenAPI 3.2 has a place for them.
METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"})
OTHER_METHODS = "x-oai-additionalOperations"
STREAMS = ("application/x-ndjson", "text/event-stream")


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
        description = "\n\n".join(text for text in (comment, access.words, *_streaming(rpc)) if text)
        if description:
            operation["description"] = description
        operation["parameters"] = [
            *parameters.of_path(binding, rendered, self._schemas, self._comments),
            *parameters.of_query(binding, self._schemas, self._comments),
            *parameters.of_headers(binding),
        ]
        if binding.body:
            operation["requestBody"] = {"content": {JSON: {"schema": self._body(binding)}}}
        asks = bool(self._about.security_schemes)
        found = errors.references(credential=asks, body=bool(binding.body))
        operation["responses"] = {"200": self._answer(binding)} | found
        if asks and access.public:
            operation["security"] = [{}, *({name: []} for name in self._about.security_schemes)]
        if rpc.GetOptions().deprecated or rpc.containing_service.GetOptions().deprecated:
            operation["deprecated"] = True
        return operation

    def _body(self, binding: Binding) -> Schema:
        bound = [variable.field for variable in binding.template.variables]
        if binding.body == WHOLE:
            return self._schemas.without(binding.rpc.input_type, bound)
        body = binding.rpc.input_type.fields_by_name[binding.body]
        inside = [path[1:] for path in bound if path[0] == binding.body]
        if inside and body.message_type is not None:
            return self._schemas.without(body.message_type, inside)
        return self._schemas.field(body)

    def _answer(self, binding: Binding) -> Schema:
        message = binding.rpc.output_type
        schema = (
            self._schemas.field(message.fields_by_name[binding.response_body])
            if binding.response_body
            else self._schemas.message(message)
        )
        words = first_sentence(self._comments.of(message.full_name)) or "The answer."
        if not binding.rpc.server_streaming:
            return {"description": words, "content": {JSON: {"schema": schema}}}
        return {"description": words, "content": {kind: {"schema": schema} for kind in STREAMS}}


def _streaming(rpc: MethodDescriptor) -> Iterator[str]:
    """How a stream is read and written, in words: OpenAPI 3.1 has no others."""
    if rpc.client_streaming:
        yield "A stream of requests: over WebSocket, one JSON message each."
    elif rpc.server_streaming:
        yield (
            "A stream: as lines of JSON with `Accept: application/x-ndjson`, as server-sent events with "
            "`Accept: text/event-stream`, or over WebSocket. The schema is that of one message."
        )


def _id(binding: Binding, method: str) -> str:
    parts = [binding.rpc.containing_service.name, binding.rpc.name]
    if binding.place:
        parts.append(str(binding.place + 1))
    if binding.verb == ANY_METHOD:
        parts.append(method.lower())
    return "_".join(parts)
