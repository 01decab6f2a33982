"""Nothing personal is anywhere in clear: not in a table, not in a log line, not in a refusal."""

import logging
from uuid import uuid4

import pytest
import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from google.type import date_pb2
from loyalty.v1 import member_pb2 as pb

from tests.support.personal import traces
from tests.support.refusals import refusal
from tests.support.servers import Laurel

OPEN = "harmless-tag"


async def database_as_text(laurel: Laurel) -> str:
    """Every row of every table, bytes too: as text, as hex and as what they would be in base64."""
    parts = []
    async with laurel.database.connection() as connection:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for (table,) in tables:
            rows = await connection.fetch(f'SELECT to_jsonb(t)::text, t.* FROM "{table}" t')
            for row in rows:
                parts.append(row[0])
                parts.extend(v.decode("latin-1") for v in row if isinstance(v, bytes))
    return "\n".join(parts)


async def test_no_table_and_no_log_line_holds_personal_data_in_clear(
    laurel: Laurel, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    profile = pb.Member(
        given_name="Ashalata",
        family_name="Raghunathan",
        email="Ashalata.R@example.com",
        phone="+91 98123 77777",
        birth_date=date_pb2.Date(year=1987, month=6, day=23),
        address=pb.Address(lines=["Malabar Hill"], locality="Walkeshwar", postal_code="WX9 4QZ"),
        external_ids=[pb.ExternalId(system="crm", id="CRM-PRIVATE-17")],
        card_numbers=["LC PRIVATE 0001"],
        tags=[OPEN],
    )
    refusals = []
    with structlog.testing.capture_logs() as logged:
        request = pb.RegisterMemberRequest(request_id=uuid4().hex, member=profile)
        member = (await laurel.staff.members.RegisterMember(request)).member
        await laurel.staff.members.RegisterMember(request)
        duplicate = pb.RegisterMemberRequest(request_id=uuid4().hex, member=profile)
        refusals.append(await refusal(laurel.terminal.members.RegisterMember(duplicate)))
        for wrong in ("Ashalata.R@example.com@", "\0ashalata.r"):
            mistaken = pb.RegisterMemberRequest(
                request_id=uuid4().hex, member=pb.Member(email=wrong, phone=wrong)
            )
            refusals.append(await refusal(laurel.terminal.members.RegisterMember(mistaken)))
        lookup = pb.FindMemberRequest(identifier=pb.Identifier(card_number="LCPRIVATE0001"))
        await laurel.staff.members.FindMember(lookup)
        nobody = pb.FindMemberRequest(identifier=pb.Identifier(email="sushmita.r@example.com"))
        refusals.append(await refusal(laurel.terminal.members.FindMember(nobody)))
        update = pb.UpdateMemberRequest(
            request_id=uuid4().hex,
            member=pb.Member(
                member_id=member.member_id, given_name="Sushmita", email="sushmita.r@example.com"
            ),
            update_mask=FieldMask(paths=["given_name", "email"]),
        )
        await laurel.staff.members.UpdateMember(update)
    database = await database_as_text(laurel)
    assert OPEN in database, "the dump must show what is in the clear"
    assert str(member.member_id) in database
    assert traces(database) == []
    printed = capfd.readouterr()
    assert traces("".join([printed.out, printed.err, caplog.text, str(logged)])) == []
    assert traces(str(refusals)) == []


async def test_the_dump_would_notice_personal_data(laurel: Laurel) -> None:
    """The test above can fail: a tag with a name in it is found."""
    request = pb.RegisterMemberRequest(
        request_id=uuid4().hex, member=pb.Member(email=f"{uuid4().hex}@example.com", tags=["Walkeshwar"])
    )
    await laurel.terminal.members.RegisterMember(request)
    assert traces(await database_as_text(laurel)) == ["Walkeshwar"]
