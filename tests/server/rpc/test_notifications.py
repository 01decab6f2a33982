"""Templates and inboxes, as callers see them."""

from uuid import UUID, uuid4

import grpc
import pytest
from loyalty.v1 import notifications_pb2 as pb

from server.domain.actor import CallerKind
from server.domain.notifications.templates import MAX_LANGUAGES
from server.operations.template_files import own
from tests.support.mailbox import Reader, buy, inbox, join, open_shop
from tests.support.programs import new_key, new_program
from tests.support.refusals import refusal
from tests.support.servers import Laurel

WELCOME = {"occasion": "welcome", "channel": "inbox", "language_code": "en"}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await open_shop(laurel)
    return laurel


def template(text: str = "Welcome, {{ given_name }}", **changes: str) -> pb.PutTemplateRequest:
    return pb.PutTemplateRequest(**{**WELCOME, "subject": "Hello", "text": text, **changes})


async def put(shop: Laurel, *texts: str, **changes: str) -> pb.Template:
    for text in texts:
        reply = await shop.service.notifications.PutTemplate(template(text, **changes))
    return reply.template


async def get(shop: Laurel, **changes: str) -> pb.Template:
    request = pb.GetTemplateRequest(**{**WELCOME, **changes})
    return (await shop.service.notifications.GetTemplate(request)).template


async def delete(shop: Laurel, **changes: str) -> None:
    await shop.service.notifications.DeleteTemplate(pb.DeleteTemplateRequest(**{**WELCOME, **changes}))


async def test_a_programs_template_takes_the_place_of_laurels_own_until_it_is_deleted(shop: Laurel) -> None:
    before = await get(shop)
    assert before.version == 0
    first = await put(shop, "one")
    assert (first.version, first.text) == (1, "one")
    assert (await put(shop, "one")).version == 1  # the same: nothing changes
    assert (await put(shop, "two", "one")).version == 3
    assert await get(shop) == await put(shop, "one")
    await delete(shop)
    assert await get(shop) == before
    again = await refusal(shop.service.notifications.DeleteTemplate(pb.DeleteTemplateRequest(**WELCOME)))
    assert (again.code, again.reason) == (grpc.StatusCode.NOT_FOUND, "TEMPLATE_NOT_FOUND")
    assert (await put(shop, "three")).version == 5
    await delete(shop)


async def test_a_template_of_another_program_is_not_seen(shop: Laurel) -> None:
    await put(shop, "ours", language_code="sv")
    other = await shop.caller(
        await new_key(shop.database, await new_program(shop.database), CallerKind.STAFF)
    )
    request = pb.GetTemplateRequest(**{**WELCOME, "language_code": "sv"})
    assert (await refusal(other.notifications.GetTemplate(request))).reason == "TEMPLATE_NOT_FOUND"
    assert (await shop.staff.notifications.GetTemplate(request)).template.text == "ours"
    await delete(shop, language_code="SV")  # the customary case is found


async def test_what_is_wrong_is_named_by_part_and_line(shop: Laurel) -> None:
    request = template("Hello\n{{ surname }}", subject="{% for x in y %}")
    found = await refusal(shop.service.notifications.PutTemplate(request))
    assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TEMPLATE_INVALID")
    assert found.violations["text"].startswith("line 2: surname is none of ")
    assert found.violations["subject"].startswith("line 1: ")
    wrong = pb.PutTemplateRequest(occasion="party", channel="fax", language_code="?", text="x")
    found = await refusal(shop.service.notifications.PutTemplate(wrong))
    assert set(found.violations) == {"occasion", "channel", "language_code"}


async def test_all_templates_in_force_are_listed_a_page_at_a_time(shop: Laurel) -> None:
    await put(shop, "tack", language_code="sv")
    found, token, pages = [], "", 0
    while pages == 0 or token:
        request = pb.ListTemplatesRequest(page_size=7, page_token=token)
        page = await shop.staff.notifications.ListTemplates(request)
        found += [(t.occasion, t.channel, t.language_code) for t in page.templates]
        token, pages = page.next_page_token, pages + 1
    assert pages == 7
    assert found == sorted({*map(tuple, own()), ("welcome", "inbox", "sv")})
    request = pb.ListTemplatesRequest(written_only=True)
    (written,) = (await shop.staff.notifications.ListTemplates(request)).templates
    assert written.text == "tack"
    request = pb.ListTemplatesRequest(occasion="birthday", channel="sms")
    listed = (await shop.staff.notifications.ListTemplates(request)).templates
    assert [(t.occasion, t.channel, t.language_code) for t in listed] == [
        ("birthday", "sms", "en"),
        ("birthday", "sms", "hi"),
    ]
    await delete(shop, language_code="sv")


async def test_a_program_speaks_so_many_languages_and_no_more(shop: Laurel) -> None:
    tags = [f"x{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(MAX_LANGUAGES + 1)]
    for tag in tags[:-1]:
        await put(shop, "text", language_code=tag)
    found = await refusal(shop.service.notifications.PutTemplate(template(language_code=tags[-1])))
    assert (found.reason, found.metadata) == ("TEMPLATE_LANGUAGES_EXHAUSTED", {"limit": str(MAX_LANGUAGES)})
    await put(shop, "other", language_code=tags[0])
    for tag in tags[:-1]:
        await delete(shop, language_code=tag)


async def test_a_preview_shows_what_a_member_of_that_language_would_read(shop: Laurel) -> None:
    async def preview(template: pb.Template, **facts: str) -> pb.PreviewTemplateResponse:
        request = pb.PreviewTemplateRequest(template=template, facts=facts)
        return await shop.service.notifications.PreviewTemplate(request)

    sms = pb.Template(occasion="points_earned", channel="sms", language_code="hi-IN")
    found = await preview(sms, points="150000", program="dukaan")
    assert found.rendered.text == "dukaan: आपको 1,50,000 पॉइंट मिले।"
    assert (found.template.language_code, found.template.version) == ("hi", 0)
    given = pb.Template(**WELCOME, subject="Hi {{ given_name }}", text="{{ tier }}")
    assert (await preview(given, tier="gold")).rendered == pb.Rendered(subject="Hi Asha", text="gold")
    for facts, why in (
        ({"points": "many"}, "points must be a whole number"),
        ({"surname": "x"}, "must be of given_name, points, program, times"),
    ):
        request = pb.PreviewTemplateRequest(template=sms, facts=facts)
        refused = await refusal(shop.service.notifications.PreviewTemplate(request))
        assert refused.violations == {"facts": why}
    wrong = pb.PreviewTemplateRequest(template=pb.Template(**WELCOME, subject="a", text="{{ x }}"))
    refused = await refusal(shop.service.notifications.PreviewTemplate(wrong))
    assert list(refused.violations) == ["template.text"]


async def test_an_inbox_is_read_page_by_page_and_counts_what_is_unread(shop: Laurel) -> None:
    reader = Reader(shop)
    await reader.events()
    member_id, other = await join(shop, given_name="Asha"), await join(shop)
    for rupees in (1, 2, 3, 4):
        await buy(shop, member_id, rupees)
        await reader.tell()
    first = await inbox(shop, member_id, page_size=3)
    second = await inbox(shop, member_id, page_size=3, page_token=first.next_page_token)
    assert [m.subject for m in [*first.messages, *second.messages]] == [
        *(f"You earned {points} points" for points in (4, 3, 2, 1)),
        f"Welcome to {shop.program.name}",
    ]
    assert (first.unread_count, second.unread_count, second.next_page_token) == (5, 5, "")
    ids = [m.message_id for m in first.messages]
    read = pb.MarkReadRequest(member_id=member_id, message_ids=[*ids, str(uuid4())])
    for _ in range(2):
        assert (await shop.service.notifications.MarkRead(read)).unread_count == 2
    unread = await inbox(shop, member_id, unread_only=True)
    assert [m.message_id for m in unread.messages] == [m.message_id for m in second.messages]
    assert all(m.HasField("read_time") for m in (await inbox(shop, member_id, page_size=3)).messages)
    assert (await inbox(shop, other)).unread_count == 1
    stolen = pb.MarkReadRequest(member_id=other, message_ids=[unread.messages[0].message_id])
    await shop.service.notifications.MarkRead(stolen)
    assert (await inbox(shop, member_id)).unread_count == 2


async def test_a_message_keeps_its_words_when_the_template_changes_and_its_name_when_that_changes(
    shop: Laurel,
) -> None:
    reader = Reader(shop)
    await reader.events()
    await put(shop, "Good day, {{ given_name }}")
    member_id = await join(shop, given_name="Asha", language="sv")
    await reader.tell()
    await put(shop, "Go away, {{ given_name }}")
    await delete(shop)
    (message,) = (await inbox(shop, member_id)).messages
    assert (message.text, message.language_code) == ("Good day, Asha", "en")
    async with shop.database.connection() as connection:
        await connection.execute("DELETE FROM member_key WHERE member_id = $1", UUID(member_id))
    request = pb.ListMessagesRequest(member_id=member_id)
    gone = await refusal(shop.service.notifications.ListMessages(request))
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "MEMBER_NOT_FOUND")


async def test_ids_are_checked(shop: Laurel) -> None:
    member_id = await join(shop)
    for ids, path in (([], "message_ids"), (["x"], "message_ids[0]"), ([str(uuid4())] * 501, "message_ids")):
        request = pb.MarkReadRequest(member_id=member_id, message_ids=ids)
        assert list((await refusal(shop.service.notifications.MarkRead(request))).violations) == [path]
    nobody = pb.MarkReadRequest(member_id=str(uuid4()), message_ids=[str(uuid4())])
    assert (await refusal(shop.service.notifications.MarkRead(nobody))).reason == "MEMBER_NOT_FOUND"
    terminal = pb.ListMessagesRequest(member_id=member_id)
    assert (await refusal(shop.terminal.notifications.ListMessages(terminal))).code == (
        grpc.StatusCode.PERMISSION_DENIED
    )
