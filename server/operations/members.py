"""What can be done with members: load, decide, save; every change once, by its request_id.

Whatever names a member who was merged into another one changes the one that lives on.

A change remembers which member it was about, never what it said: a reply is built by
reading the member, so that no stored reply holds personal data.
"""

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from server.domain import members as rules
from server.domain.actor import Actor
from server.domain.errors import Aborted, AlreadyExists, NotFound, invalid
from server.domain.events import (
    ConsentRecorded,
    Event,
    MemberRegistered,
    MemberStatusChanged,
    MemberUpdated,
)
from server.domain.households import check_seatless
from server.domain.ledger import Wallet
from server.domain.members import Consent, Identifier, Member, Profile, Status
from server.ids import new_id
from server.operations.coalesced import Coalesced
from server.operations.collisions import repeated
from server.operations.hints import Hints
from server.operations.programs import Programs
from server.operations.wallets import members_as_due
from server.store import events, households, keys, locks, merges
from server.store import members as store
from server.store.database import Connection, Database
from server.store.ledger import MemberOf
from server.store.sealing import Sealer
from server.store.together import ask, write


@dataclass(frozen=True, slots=True)
class Decision:
    """What a member decided about a purpose, before it is recorded."""

    purpose: str
    granted: bool
    policy_version: str
    channel: str


class Members:
    """The members of all programs. ``clock`` tells the time, aware, in UTC."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        programs: Programs,
        clock: Callable[[], datetime],
        hints: Hints | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._programs = programs
        self._clock = clock
        self._hints = hints
        self._sealed = Coalesced(database, self._rows)
        self._owners = Coalesced(database, store.owners)

    @repeated
    async def register(
        self, actor: Actor, request_id: str, profile: Profile, *, imported: bool = False
    ) -> Member:
        """Add a member, active, in the lowest tier. Who is ``imported`` was one before, elsewhere.

        A retry gets the member of the first time, as it is now. Raises AlreadyExists
        (IDENTIFIER_TAKEN) and InvalidArgument (also REQUEST_ID_REUSED).
        """
        change = _Change(actor, request_id, "register", {"profile": asdict(profile)})
        async with self._changing(change) as connection:
            first = await self._begin(connection, change)
            if first is not None:
                return await self._read(connection, actor.program_id, UUID(first["member_id"]))
            now = self._clock()
            program = (await self._programs.current(connection, actor.program_id)).program
            rules.check(profile, program.business_date(now))
            member = Member(
                program_id=actor.program_id,
                member_id=new_id(),
                status=Status.ACTIVE,
                tier=program.tiers[0].name,
                profile=profile,
                joined_at=now,
                updated_at=now,
            )
            await self._claim(connection, member, Profile())
            await store.insert(connection, self._sealer, member)
            event = MemberRegistered(**_about(member, now), tier=member.tier, imported=imported)
            await self._finish(connection, change, replace(member, version=0), now=now, happened=[event])
            return replace(member, wallets=rules.all_wallets((), program.point_types))

    async def get(self, program_id: UUID, member_id: UUID) -> Member:
        """The member, in whatever status. Raises NotFound."""
        found = await self._sealed.get((program_id, member_id))
        if found is None:
            raise _not_found()
        snapshots = await self._programs.at_hand(self._database, [program_id])
        return self._opened(found, snapshots[program_id].program.point_types)

    async def find(self, program_id: UUID, identifier: Identifier) -> Member:
        """The member that the identifier belongs to. Raises NotFound."""
        return await self.get(program_id, await self.resolve(program_id, identifier))

    async def resolve(self, program_id: UUID, identifier: Identifier) -> UUID:
        """Whose the identifier is. Raises NotFound."""
        member_id = await self._owners.get((program_id, *store.lookup(self._sealer, program_id, identifier)))
        if member_id is None:
            raise _not_found()
        return member_id

    async def page(
        self, program_id: UUID, *, after: UUID | None, size: int, status: Status | None, tier: str
    ) -> tuple[list[Member], bool]:
        """At most ``size`` members after that id, oldest first, and whether there are more."""
        async with self._database.connection() as connection:
            point_types = await self._point_types(connection, program_id)
            rows = await store.page(
                connection, program_id, after=after, size=size + 1, status=status, tier=tier
            )
            found = await self._as_due(connection, rows[:size])
        return [self._opened(sealed, point_types) for sealed in found.values()], len(rows) > size

    @repeated
    async def update(
        self,
        actor: Actor,
        request_id: str,
        member_id: UUID,
        given: Profile,
        *,
        paths: Sequence[str],
        etag: str = "",
    ) -> Member:
        """Change the fields that the checked ``paths`` name; what is equal already changes nothing.

        A closed member may give up its last identifier, so that the person can join
        again. Raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists and InvalidArgument.
        """
        command = {
            "member_id": str(member_id),
            "etag": etag,
            "paths": sorted(paths),
            "profile": asdict(given),
        }
        change = _Change(actor, request_id, "update", command)
        async with self._changing(change) as connection:
            member_id = await self._living(connection, actor.program_id, member_id)
            if await self._begin(connection, change) is None:
                now = self._clock()
                before = await self._read(connection, actor.program_id, member_id)
                if etag and etag != str(before.etag):
                    raise Aborted(
                        "ETAG_MISMATCH", "the member changed since the etag was read; read it again"
                    )
                after = replace(before, profile=rules.apply_mask(before.profile, given, paths))
                program = (await self._programs.current(connection, actor.program_id)).program
                rules.check(
                    after.profile,
                    program.business_date(now),
                    findable=before.status is not Status.CLOSED,
                )
                changed = rules.changed_fields(before.profile, after.profile)
                if changed:
                    await self._claim(connection, after, before.profile)
                    await store.update_profile(connection, self._sealer, after, now)
                happened = [MemberUpdated(**_about(after, now), fields=changed)] if changed else []
                await self._finish(connection, change, after, now=now, happened=happened)
            return await self._read(connection, actor.program_id, member_id)

    @repeated
    async def change_status(
        self, actor: Actor, request_id: str, member_id: UUID, target: Status, reason: str
    ) -> Member:
        """Suspend, reactivate or close; nothing happens if the status is there already.

        Raises NotFound and FailedPrecondition (STATUS_TRANSITION_INVALID, MEMBER_IN_HOUSEHOLD).
        """
        command = {"member_id": str(member_id), "target": str(target), "reason": reason}
        change = _Change(actor, request_id, "change_status", command)
        async with self._changing(change) as connection:
            member_id = await self._living(connection, actor.program_id, member_id)
            if await self._begin(connection, change) is None:
                now = self._clock()
                member = await self._read(connection, actor.program_id, member_id)
                happened: list[Event] = []
                if rules.change_status(member.status, target):
                    if target is Status.CLOSED:
                        # Whoever takes a seat has to have the lock that is held here.
                        check_seatless(await households.seat_of(connection, actor.program_id, member_id))
                    await store.update_status(connection, actor.program_id, member_id, target)
                    happened.append(
                        MemberStatusChanged(
                            **_about(member, now),
                            before=str(member.status),
                            after=str(target),
                            reason=reason,
                            actor=actor.label,
                        )
                    )
                await self._finish(connection, change, member, now=now, happened=happened)
            return await self._read(connection, actor.program_id, member_id)

    @repeated
    async def record_consent(
        self, actor: Actor, request_id: str, member_id: UUID, decision: Decision
    ) -> tuple[Member, Consent]:
        """Append a decision, in whatever status: a closed member too may withdraw. Raises NotFound."""
        change = _Change(
            actor, request_id, "record_consent", {"member_id": str(member_id), "decision": asdict(decision)}
        )
        async with self._changing(change) as connection:
            member_id = await self._living(connection, actor.program_id, member_id)
            first = await self._begin(connection, change)
            if first is not None:
                recorded = UUID(first["member_id"]), UUID(first["consent_id"])
                consent = await store.consent(connection, actor.program_id, *recorded)
                return await self._read(connection, actor.program_id, recorded[0]), consent
            now = self._clock()
            member = await self._read(connection, actor.program_id, member_id)
            consent = Consent(consent_id=new_id(), recorded_at=now, actor=actor.label, **asdict(decision))
            await store.add_consent(connection, actor.program_id, member_id, consent)
            event = ConsentRecorded(**_about(member, now), purpose=consent.purpose, granted=consent.granted)
            await self._finish(
                connection, change, member, now=now, happened=[event], consent_id=str(consent.consent_id)
            )
            return replace(member, version=member.version + 1), consent

    async def consents(
        self, program_id: UUID, member_id: UUID, before: UUID | None, size: int
    ) -> tuple[list[Consent], bool]:
        """At most ``size`` decisions before that id, newest first, and whether there are more."""
        async with self._database.connection() as connection:
            if not await store.exists(connection, program_id, member_id):
                raise _not_found()
            found = await store.consents(connection, program_id, member_id, before, size + 1)
        return found[:size], len(found) > size

    @asynccontextmanager
    async def _changing(self, change: "_Change") -> AsyncIterator[Connection]:
        """A transaction; once it is committed, whoever listens is told whom it touched."""
        async with self._database.transaction(locks.FOR_ONE) as connection:
            yield connection
        if self._hints is not None and (member := change.touched) is not None:
            self._hints.changed(member.program_id, member.member_id, member.version + 1)

    async def _living(self, connection: Connection, program_id: UUID, member_id: UUID) -> UUID:
        """Lock the member, or who lives on if that one was merged into another."""
        await locks.take(connection, [locks.member_lock(member_id)])
        while survivors := await merges.survivors(connection, [(program_id, member_id)]):
            [member_id] = survivors.values()
            # Out of order where its number is the smaller: whom that blocks for good is made again.
            await locks.take(connection, [locks.member_lock(member_id)])
        return member_id

    async def _begin(self, connection: Connection, change: "_Change") -> Mapping[str, str] | None:
        """Lock the request; what it brought if it was made before."""
        key = change.key
        await locks.take(connection, [locks.request_lock(key)])
        (known,) = await ask(connection, keys.requests_known([key]))
        remembered = known.get(key)
        if remembered is None:
            return None
        if remembered.request_hash != self._sealer.request_hash(change.command):
            raise invalid("request_id", "was used with another request", "REQUEST_ID_REUSED")
        reply: Mapping[str, str] = json.loads(remembered.reply)
        return reply

    async def _finish(
        self,
        connection: Connection,
        change: "_Change",
        member: Member,
        *,
        now: datetime,
        happened: Sequence[Event],
        **more: str,
    ) -> None:
        """Log what happened to ``member``, given as it was, and remember the request, in the transaction."""
        if happened:
            change.touched = member
        reply = json.dumps({"member_id": str(member.member_id), **more})
        remembered = keys.Remembered(self._sealer.request_hash(change.command), reply)
        await write(
            connection, events.append(happened), keys.remember_requests([(change.key, remembered)], now)
        )

    async def _claim(self, connection: Connection, member: Member, before: Profile) -> None:
        """Take the identifiers that are new, free those that are gone. Raises AlreadyExists."""
        old, new = rules.identifiers(before), rules.identifiers(member.profile)
        program_id = member.program_id
        added = {store.lookup(self._sealer, program_id, i): new[i] for i in new.keys() - old.keys()}
        removed = [store.lookup(self._sealer, program_id, i) for i in old.keys() - new.keys()]
        # Sorted, so that two changes that want each other's identifiers wait in one order.
        await locks.take(connection, sorted(locks.identifier_lock(blind) for _, blind in [*added, *removed]))
        taken = await store.owners(connection, [(program_id, *lookup) for lookup in added])
        # One that came with a merge is the member's own already, though no field of the profile shows it.
        strangers = [lookup for lookup, owner in taken.items() if owner != member.member_id]
        if strangers:
            where = min(added[kind, blind] for _, kind, blind in strangers)
            raise AlreadyExists("IDENTIFIER_TAKEN", f"{where} belongs to another member", {"field": where})
        await store.claim(connection, program_id, member.member_id, list(added), removed)

    async def _read(self, connection: Connection, program_id: UUID, member_id: UUID) -> Member:
        """The member as this transaction sees it. Raises NotFound."""
        found = (await self._rows(connection, [(program_id, member_id)])).get((program_id, member_id))
        if found is None:
            raise _not_found()
        return self._opened(found, await self._point_types(connection, program_id))

    async def _rows(
        self, connection: Connection, wanted: Collection[MemberOf]
    ) -> Mapping[MemberOf, "_Sealed"]:
        """The members that exist, still sealed, with their wallets as they are now."""
        return await self._as_due(connection, await store.rows(connection, wanted))

    async def _as_due(self, connection: Connection, rows: Sequence[Any]) -> dict[MemberOf, "_Sealed"]:
        now = self._clock()
        found = {store.member_of(row): _Sealed(row, store.wallets_of(row)) for row in rows}
        due = [key for key, (_, wallets) in found.items() if any(_is_due(w, now) for w in wallets)]
        if due:
            members = await members_as_due(connection, self._programs, due, now)
            for key, member in members.items():
                found[key] = _Sealed(found[key].row, tuple(member.wallets.values()))
        return found

    def _opened(self, sealed: "_Sealed", point_types: Sequence[str]) -> Member:
        member = store.opened(self._sealer, sealed.row)
        return replace(member, wallets=rules.all_wallets(sealed.wallets, point_types))

    async def _point_types(self, connection: Connection, program_id: UUID) -> tuple[str, ...]:
        # A stale snapshot does: the terms matter here only for wallets that are still empty.
        snapshot = self._programs.known(program_id) or await self._programs.current(connection, program_id)
        return snapshot.program.point_types


class _Sealed(NamedTuple):
    """A member's row, still sealed, and its wallets."""

    row: Any
    wallets: tuple[Wallet, ...]


def _is_due(wallet: Wallet, now: datetime) -> bool:
    return wallet.next_due is not None and wallet.next_due <= now


class _Change:
    """A request to change something, by its key; ``touched`` is the member as it was, if anything changed."""

    __slots__ = ("command", "key", "touched")

    def __init__(self, actor: Actor, request_id: str, name: str, command: Mapping[str, Any]) -> None:
        self.key = keys.RequestKey(actor.program_id, actor.source_system, request_id)
        self.command = {"change": name, **command}
        self.touched: Member | None = None


def _about(member: Member, now: datetime) -> dict[str, Any]:
    return {
        "event_id": new_id(),
        "program_id": member.program_id,
        "member_id": member.member_id,
        "occurred_at": now,
        "recorded_at": now,
    }


def _not_found() -> NotFound:
    return NotFound("MEMBER_NOT_FOUND", "no such member")
