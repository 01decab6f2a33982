"""A set of descriptors made ready: services, routes and message types, whosever they are."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

from google.api import http_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from protobuf import DescFile, Message, Registry
from protobuf._codegen import file_desc

from gateway.bindings import read
from gateway.routes import Routes

# What errors are made of, whether or not the contracts themselves use it.
ERRORS = (status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)


class DescriptorError(ValueError):
    """A descriptor set is not whole; the message says what it lacks."""


class Contract:
    """Everything that the shim knows of the services behind it.

    ``services`` are descriptors in a pool of their own; ``registry`` has every message
    for JSON, those within an Any too. Raises DescriptorError, RuleError or RouteConflict.
    """

    def __init__(
        self,
        files: descriptor_pb2.FileDescriptorSet,
        services: Iterable[str] | None = None,
        http: http_pb2.Http | None = None,
    ) -> None:
        """``services`` names those to serve, all by default; ``http`` as ``bindings.read`` has it."""
        ordered = _in_order([*files.file, *describe(*ERRORS).file])
        self.pool = DescriptorPool()
        made: dict[str, DescFile] = {}
        for file in ordered:
            self.pool.Add(file)
            made[file.name] = file_desc(
                _with_json_names(file).SerializeToString(), [made[name] for name in file.dependency], {}
            )
        self.registry = Registry(*made.values())
        names = _names_of_services(ordered) if services is None else services
        self.services: tuple[ServiceDescriptor, ...] = tuple(map(self._service, names))
        self.routes = Routes(read(self.services, http))

    def message(self, name: str) -> type[Message]:
        """The class of a message by its full name. Raises DescriptorError."""
        found = self.registry.message(name)
        if found is None:
            raise DescriptorError(f"there is no message {name}")
        return found.type

    def _service(self, name: str) -> ServiceDescriptor:
        try:
            return self.pool.FindServiceByName(name)
        except KeyError:
            raise DescriptorError(f"there is no service {name}") from None


def describe(*files: FileDescriptor) -> descriptor_pb2.FileDescriptorSet:
    """The set of these files and of all that they import."""
    found: dict[str, FileDescriptor] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file.name not in found:
            found[file.name] = file
            waiting += file.dependencies
    described = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(described.file.add())
    return described


def _in_order(
    files: Iterable[descriptor_pb2.FileDescriptorProto],
) -> list[descriptor_pb2.FileDescriptorProto]:
    """Each file once, after what it imports; the first of a name counts."""
    by_name: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for file in files:
        by_name.setdefault(file.name, file)
    imports: Mapping[str, Iterable[str]] = {name: file.dependency for name, file in by_name.items()}
    try:
        order = list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        raise DescriptorError(f"files import each other: {', '.join(error.args[1])}") from None
    missing = [name for name in order if name not in by_name]
    if missing:
        raise DescriptorError(f"the descriptor set lacks {', '.join(missing)}, which others import")
    return [by_name[name] for name in order]


def _names_of_services(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> list[str]:
    return [
        f"{file.package}.{service.name}" if file.package else service.name
        for file in files
        for service in file.service
    ]


def _with_json_names(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Every field with its JSON name, which compilers write down and descriptors at run time leave out."""
    named = descriptor_pb2.FileDescriptorProto()
    named.CopyFrom(file)
    waiting = list(named.message_type)
    while waiting:
        message = waiting.pop()
        waiting += message.nested_type
        for field in message.field:
            if not field.json_name:
                field.json_name = camel(field.name)
    return named


def camel(name: str) -> str:
    """The JSON name that a field has by default."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)
