"""What the contracts declare about access, read once at start-up.

An RPC without a complete declaration stops the server from starting: nothing is
reachable by omission.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from loyalty.v1 import (
    access_pb2,
    adjustments_pb2,
    dead_letters_pb2,
    holds_pb2,
    households_pb2,
    journal_pb2,
    member_pb2,
    notifications_pb2,
    points_pb2,
    reports_pb2,
    reviews_pb2,
    rules_pb2,
    schedules_pb2,
    webhooks_pb2,
)

from server.domain.actor import CallerKind, StepUp
from server.domain.limits import RateClass

# Every service that Laurel has. The keys of one installation may hold the scopes of all.
SERVICES: tuple[ServiceDescriptor, ...] = (
    member_pb2.DESCRIPTOR.services_by_name["MemberService"],
    points_pb2.DESCRIPTOR.services_by_name["PointsService"],
    journal_pb2.DESCRIPTOR.services_by_name["JournalService"],
    rules_pb2.DESCRIPTOR.services_by_name["RulesService"],
    holds_pb2.DESCRIPTOR.services_by_name["HoldService"],
    adjustments_pb2.DESCRIPTOR.services_by_name["AdjustmentService"],
    webhooks_pb2.DESCRIPTOR.services_by_name["WebhookService"],
    reports_pb2.DESCRIPTOR.services_by_name["ReportService"],
    reviews_pb2.DESCRIPTOR.services_by_name["ReviewService"],
    dead_letters_pb2.DESCRIPTOR.services_by_name["DeadLetterService"],
    notifications_pb2.DESCRIPTOR.services_by_name["NotificationService"],
    households_pb2.DESCRIPTOR.services_by_name["HouseholdService"],
    schedules_pb2.DESCRIPTOR.services_by_name["ScheduleService"],
)

KINDS = {
    access_pb2.CALLER_PUBLIC: CallerKind.PUBLIC,
    access_pb2.CALLER_MEMBER: CallerKind.MEMBER,
    access_pb2.CALLER_TERMINAL: CallerKind.TERMINAL,
    access_pb2.CALLER_SERVICE: CallerKind.SERVICE,
    access_pb2.CALLER_STAFF: CallerKind.STAFF,
}

RATE_CLASSES = {
    access_pb2.RATE_CLASS_READ: RateClass.READ,
    access_pb2.RATE_CLASS_WRITE: RateClass.WRITE,
    access_pb2.RATE_CLASS_REDEEM: RateClass.REDEEM,
    access_pb2.RATE_CLASS_ADMIN: RateClass.ADMIN,
}

# Who can be asked to log in again.
PERSONS = frozenset({CallerKind.MEMBER, CallerKind.STAFF})
# The settings of a program that a contract may name as the limit of a step-up.
STEP_UP_SETTINGS: Mapping[str, Callable[[StepUp], int]] = MappingProxyType(
    {"step_up_redeem_points": attrgetter("redeem_points")}
)
WHOLE_NUMBERS = frozenset(
    {
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    }
)


class AccessNotDeclared(Exception):  # noqa: N818 - reads as the sentence it is
    """A contract leaves open who may call an RPC; the message names the RPC and what is missing."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """The access of one RPC, ready to be applied.

    ``member_of`` and ``store_of`` read the declared field from a request; None where
    the request has none. ``step_up`` tells whether a request is one for which a person
    must have logged in strongly and of late; None where none is. ``scopes`` are all that
    a credential must hold.
    """

    method: str
    callers: frozenset[CallerKind]
    scopes: tuple[str, ...]
    rate_class: RateClass
    member_of: Callable[[object], str] | None
    store_of: Callable[[object], str] | None
    step_up: Callable[[object, StepUp], bool] | None = None

    @property
    def public(self) -> bool:
        """Whether a caller needs no credential."""
        return CallerKind.PUBLIC in self.callers


def declarations(service: ServiceDescriptor) -> dict[str, Declaration]:
    """The declaration of each RPC of a service, by the RPC's name. Raises AccessNotDeclared."""
    return {method.name: _read(method) for method in service.methods}


def declared_scopes(services: Iterable[ServiceDescriptor] = SERVICES) -> frozenset[str]:
    """Every scope that an RPC asks for."""
    return frozenset(
        scope for service in services for d in declarations(service).values() for scope in d.scopes
    )


def _read(method: MethodDescriptor) -> Declaration:
    options = method.GetOptions()
    if not options.HasExtension(access_pb2.access):
        raise AccessNotDeclared(f"{method.full_name} declares no access")
    access = options.Extensions[access_pb2.access]
    unknown = [caller for caller in access.callers if caller not in KINDS]
    if not access.callers or unknown:
        raise AccessNotDeclared(
            f"{method.full_name} must name the callers it admits, each a kind that is known"
        )
    callers = frozenset(KINDS[caller] for caller in access.callers)
    if not access.scope and callers != {CallerKind.PUBLIC}:
        raise AccessNotDeclared(
            f"{method.full_name} must name a scope, because it is not for the public alone"
        )
    if access.scope and CallerKind.PUBLIC in callers:
        raise AccessNotDeclared(f"{method.full_name} admits the public, who hold no scope, and names one")
    if access.also_scope and not access.scope:
        raise AccessNotDeclared(f"{method.full_name} names a second scope, and no first")
    if access.rate_class not in RATE_CLASSES:
        raise AccessNotDeclared(f"{method.full_name} must name a rate class")
    return Declaration(
        method=method.full_name,
        callers=callers,
        scopes=tuple(filter(None, (access.scope, access.also_scope))),
        rate_class=RATE_CLASSES[access.rate_class],
        member_of=_text(method, "member_field", access.member_field),
        store_of=_text(method, "store_field", access.store_field),
        step_up=_step_up(method, access, callers),
    )


def _step_up(
    method: MethodDescriptor, access: access_pb2.Access, callers: frozenset[CallerKind]
) -> Callable[[object, StepUp], bool] | None:
    limited = access.HasField("step_up_above")
    if not access.step_up and not limited:
        if access.rate_class == access_pb2.RATE_CLASS_REDEEM and CallerKind.MEMBER in callers:
            raise AccessNotDeclared(
                f"{method.full_name} lets members spend, and must name step_up or step_up_above"
            )
        return None
    if access.step_up and limited:
        raise AccessNotDeclared(f"{method.full_name} names both step_up and step_up_above")
    if not callers & PERSONS:
        raise AccessNotDeclared(f"{method.full_name} asks for a step-up and admits nobody who can log in")
    if not limited:
        return lambda _request, _terms: True
    setting = access.step_up_above.setting
    if setting not in STEP_UP_SETTINGS:
        raise AccessNotDeclared(
            f"{method.full_name}: step_up_above.setting {setting!r} must be one of "
            f"{', '.join(STEP_UP_SETTINGS)}"
        )
    path = access.step_up_above.field
    if _field(method, path, WHOLE_NUMBERS) is None:
        raise AccessNotDeclared(
            f"{method.full_name}: step_up_above.field {path!r} is no whole number of "
            f"{method.input_type.full_name}"
        )
    asked, limit_of = attrgetter(path), STEP_UP_SETTINGS[setting]
    return lambda request, terms: bool(asked(request) > limit_of(terms))


def _text(method: MethodDescriptor, option: str, path: str) -> Callable[[object], str] | None:
    if not path:
        return None
    if _field(method, path, frozenset({FieldDescriptor.TYPE_STRING})) is None:
        raise AccessNotDeclared(
            f"{method.full_name}: {option} {path!r} is no text field of {method.input_type.full_name}"
        )
    return attrgetter(path)


def _field(method: MethodDescriptor, path: str, types: frozenset[int]) -> FieldDescriptor | None:
    """The field that the path leads to, if it is a single one of these types."""
    message: Descriptor | None = method.input_type
    field: FieldDescriptor | None = None
    for name in path.split("."):
        field = message.fields_by_name.get(name) if message is not None else None
        if field is None or field.is_repeated:
            break
        message = field.message_type
    return None if field is None or field.is_repeated or field.type not in types else field
