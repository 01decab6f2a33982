"""What the gate holds a caller to, by what the contract declares; whoever may not is refused."""

import time
from uuid import UUID

from google.protobuf.message import Message

from server.domain.actor import Actor, CallerKind
from server.domain.errors import PermissionDenied, Unauthenticated
from server.rpc.access import PERSONS, Declaration


def allow(declaration: Declaration, actor: Actor) -> None:
    """Let in whom the contract admits. Raises PermissionDenied."""
    if declaration.public:
        return
    if actor.kind not in declaration.callers:
        raise PermissionDenied(
            "CALLER_NOT_ADMITTED",
            "this kind of caller is not admitted",
            {"method": declaration.method, "caller": str(actor.kind)},
        )
    for scope in declaration.scopes:
        if scope not in actor.scopes:
            raise PermissionDenied("SCOPE_MISSING", "the credential lacks a scope", {"scope": scope})


def bind(declaration: Declaration, actor: Actor, request: Message) -> None:
    """Hold a credential to its own store, and a member to themselves."""
    if actor.store and declaration.store_of:
        store = declaration.store_of(request)
        if store and store != actor.store:
            raise PermissionDenied(
                "STORE_NOT_ALLOWED", "the credential is bound to another store", {"store": actor.store}
            )
    # Somebody else's id, an id of nobody and no id at all get the same answer.
    if (
        actor.kind is CallerKind.MEMBER
        and declaration.member_of
        and declaration.member_of(request).lower() != str(actor.member_id)
    ):
        raise PermissionDenied("OUT_OF_REACH", "a member reaches only itself", {"method": declaration.method})


def step_up(declaration: Declaration, actor: Actor, request: Message) -> None:
    """Ask a person to log in again if the request needs a better login than theirs (RFC 9470)."""
    needed, login = declaration.step_up, actor.login
    if needed is None or actor.kind not in PERSONS:
        return
    if login is None:
        raise PermissionDenied(
            "CALLER_NOT_ADMITTED",
            "this takes a person's login, which a key can't show",
            {"method": declaration.method, "caller": str(actor.kind)},
        )
    if needed(request, login.step_up) and not login.suffices(time.time()):
        terms = login.step_up
        raise Unauthenticated(
            "STEP_UP_REQUIRED",
            "this takes a more recent or stronger login",
            {
                "error": "insufficient_user_authentication",
                "acr_values": " ".join(terms.acr_values),
                "max_age": str(terms.max_age_seconds),
            },
        )


def member_of(declaration: Declaration, actor: Actor, request: Message) -> UUID | None:
    """The member whom the call is about, if caller or declared field say so."""
    if actor.kind is CallerKind.MEMBER:
        return actor.member_id
    return uuid_of(declaration.member_of(request)) if declaration.member_of else None


def uuid_of(text: str) -> UUID | None:
    """The UUID in a text, None if there is none."""
    try:
        return UUID(text)
    except ValueError:
        return None
