"""What the authors of the contracts wrote beside them.

Stubs and running servers carry no comments; only descriptors built with source
information do. So they come from a descriptor set of their own, and a document can be
made without any.

The comment of a message may end with an example of it in proto3 JSON, indented below a line
that says `Example:`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
    SourceCodeInfo,
)

Path = tuple[int, ...]
EXAMPLE = "\n\nExample:\n\n"
# The numbers of the fields through which source information names its places.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE = 2
SERVICE_METHOD = 2


@dataclass(frozen=True, slots=True)
class Comments:
    """The comments by full name; a value of an enum goes by the enum's name and its own.

    ``examples``: those of messages, by the messages' names.
    """

    texts: Mapping[str, str]
    examples: Mapping[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """The comment in front of what has this name, or after it; "" if there is none."""
        return self.texts.get(name, "")


def read(files: FileDescriptorSet) -> Comments:
    """All comments of a descriptor set, such as ``buf build`` makes."""
    texts: dict[str, str] = {}
    examples: dict[str, Any] = {}
    for file in files.file:
        for name, text in _of_file(file):
            words, _, example = text.partition(EXAMPLE)
            try:
                examples[name] = json.loads(example)
            except ValueError:
                words = text  # There is none, or one of something else.
            texts[name] = words
    return Comments(texts, examples)


def first_sentence(text: str) -> str:
    """What a comment says first, on one line."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    end = paragraph.find(". ")
    return paragraph.rstrip(".") if end < 0 else paragraph[:end]


def _of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    written = {
        tuple(location.path): _text(location)
        for location in file.source_code_info.location
        if location.leading_comments or location.trailing_comments
    }
    if not written:
        return
    for path, name in _places(file):
        if path in written:
            yield name, written[path]


def _places(file: FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    prefix = f"{file.package}." if file.package else ""
    yield from _messages(file.message_type, (FILE_MESSAGE,), prefix)
    yield from _enums(file.enum_type, (FILE_ENUM,), prefix)
    for number, service in enumerate(file.service):
        yield from _service(service, (FILE_SERVICE, number), prefix + service.name)


def _messages(messages: Sequence[DescriptorProto], path: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    for number, message in enumerate(messages):
        here, name = (*path, number), prefix + message.name
        yield here, name
        for place, part in enumerate(message.field):
            yield (*here, MESSAGE_FIELD, place), f"{name}.{part.name}"
        for place, oneof in enumerate(message.oneof_decl):
            yield (*here, MESSAGE_ONEOF, place), f"{name}.{oneof.name}"
        yield from _messages(message.nested_type, (*here, MESSAGE_NESTED), f"{name}.")
        yield from _enums(message.enum_type, (*here, MESSAGE_ENUM), f"{name}.")


def _enums(enums: Sequence[EnumDescriptorProto], path: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    for number, enum in enumerate(enums):
        here, name = (*path, number), prefix + enum.name
        yield here, name
        for place, value in enumerate(enum.value):
            yield (*here, ENUM_VALUE, place), f"{name}.{value.name}"


def _service(service: ServiceDescriptorProto, path: Path, name: str) -> Iterator[tuple[Path, str]]:
    yield path, name
    for place, method in enumerate(service.method):
        yield (*path, SERVICE_METHOD, place), f"{name}.{method.name}"


def _text(location: SourceCodeInfo.Location) -> str:
    parts = (location.leading_comments, location.trailing_comments)
    return "\n\n".join(_unindented(part) for part in parts if part.strip())


def _unindented(comment: str) -> str:
    """Without the blank that follows the slashes, so that indented lines stay indented."""
    return "\n".join(line.removeprefix(" ").rstrip() for line in comment.strip("\n").split("\n")).strip()
