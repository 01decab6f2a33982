"""Changing the terms of a program."""

from collections.abc import Callable
from dataclasses import replace

from server.domain.notifications.terms import NotificationTerms
from server.domain.program import LedgerTerms, Program
from server.store import locks, templates
from server.store import programs as store
from server.store.database import Database


async def change(
    database: Database,
    name: str,
    *,
    step_up_redeem_points: int | None,
    ledger: Callable[[Program], LedgerTerms],
    notifications: Callable[[NotificationTerms], NotificationTerms],
) -> tuple[Program, NotificationTerms] | None:
    """Change what is given; the program and how it writes afterwards, None if there is none of that name.

    ``ledger`` and ``notifications`` make the new terms from those there are; what they raise leaves
    everything as it was. New terms of the ledger hold from the next command on, whichever process decides it.
    """
    async with database.transaction() as connection:
        found = await store.find(connection, name)
        if found is None:
            return None
        # The same locks as to publish: nobody decides by the old terms once the new ones are there.
        program_id = found.program_id
        await locks.take(connection, [locks.drafts_lock(program_id), locks.program_lock(program_id)])
        program = await store.get(connection, program_id)
        assert program is not None
        if step_up_redeem_points is not None:
            await store.set_step_up(connection, name, step_up_redeem_points)
            program = replace(program, step_up_redeem_points=step_up_redeem_points)
        after = ledger(program)
        if after != program.ledger:
            await store.set_ledger_terms(connection, name, after)
        before = (await templates.terms_of(connection, [program_id]))[program_id]
        told = notifications(before)
        if told != before:
            await templates.set_terms(connection, program_id, told)
        return replace(program, ledger=after), told
