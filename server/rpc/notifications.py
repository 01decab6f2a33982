"""NotificationService: parse, act, render."""

from collections.abc import Collection
from uuid import UUID

from loyalty.v1 import notifications_pb2 as pb

from server.domain.members import CHANNELS, MAX_LABEL, language_code
from server.domain.notifications.occasions import OCCASIONS
from server.domain.notifications.templates import PARTS, Content, Key, Template
from server.operations.messages import Messages, Shown
from server.operations.templates import Templates
from server.rpc.fields import MAX_PAGE_SIZE, Fields
from server.rpc.gate import Call
from server.rpc.pages import Pages

MAX_FACTS = 20

Named = pb.Template | pb.PutTemplateRequest | pb.GetTemplateRequest | pb.DeleteTemplateRequest


class NotificationService:
    """The RPCs of NotificationService, called by the gate."""

    def __init__(self, templates: Templates, messages: Messages, pages: Pages) -> None:
        self._templates = templates
        self._messages = messages
        self._pages = pages

    async def PutTemplate(self, request: pb.PutTemplateRequest, call: Call) -> pb.PutTemplateResponse:
        """Put a template in force."""
        fields = Fields()
        key = _key(fields, "", request)
        fields.check()
        stored = await self._templates.put(call.actor, key, _content(request))
        return pb.PutTemplateResponse(template=template_message(stored))

    async def GetTemplate(self, request: pb.GetTemplateRequest, call: Call) -> pb.GetTemplateResponse:
        """Show a template."""
        fields = Fields()
        key = _key(fields, "", request)
        fields.check()
        stored = await self._templates.get(call.actor.program_id, key)
        return pb.GetTemplateResponse(template=template_message(stored))

    async def ListTemplates(self, request: pb.ListTemplatesRequest, call: Call) -> pb.ListTemplatesResponse:
        """Page through the templates in force."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        occasion = _one_of(fields, "occasion", request.occasion, OCCASIONS, required=False)
        channel = _one_of(fields, "channel", request.channel, PARTS, required=False)
        fields.check()
        filters = {
            "program": str(call.actor.program_id),
            "occasion": occasion,
            "channel": channel,
            "written_only": str(request.written_only),
        }
        position = self._pages.decode("ListTemplates", filters, request.page_token)
        found, more = await self._templates.page(
            call.actor.program_id,
            occasion=occasion,
            channel=channel,
            written_only=request.written_only,
            after=Key(*position) if position else None,
            size=size,
        )
        token = self._pages.encode("ListTemplates", filters, found[-1].key) if more else ""
        return pb.ListTemplatesResponse(templates=map(template_message, found), next_page_token=token)

    async def DeleteTemplate(
        self, request: pb.DeleteTemplateRequest, call: Call
    ) -> pb.DeleteTemplateResponse:
        """Take a template out of force."""
        fields = Fields()
        key = _key(fields, "", request)
        fields.check()
        await self._templates.delete(call.actor, key)
        return pb.DeleteTemplateResponse()

    async def PreviewTemplate(
        self, request: pb.PreviewTemplateRequest, call: Call
    ) -> pb.PreviewTemplateResponse:
        """Show what comes of a template."""
        fields = Fields()
        key = _key(fields, "template.", request.template)
        facts = fields.mapping("facts", request.facts, max_entries=MAX_FACTS)
        fields.check()
        found = await self._templates.preview(call.actor.program_id, key, _content(request.template), facts)
        content = found.content
        return pb.PreviewTemplateResponse(
            rendered=pb.Rendered(subject=content.subject, text=content.text, html=content.html),
            template=template_message(found.template),
        )

    async def ListMessages(self, request: pb.ListMessagesRequest, call: Call) -> pb.ListMessagesResponse:
        """Page through a member's inbox."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        size = fields.page_size("page_size", request.page_size)
        fields.check()
        filters = {
            "program": str(call.actor.program_id),
            "member": str(member_id),
            "unread_only": str(request.unread_only),
        }
        position = self._pages.decode("ListMessages", filters, request.page_token)
        inbox = await self._messages.inbox(
            call.actor.program_id,
            member_id,
            before=UUID(position[0]) if position else None,
            size=size,
            unread=request.unread_only,
        )
        last = [str(inbox.messages[-1].message.message_id)] if inbox.more else []
        return pb.ListMessagesResponse(
            messages=map(_message, inbox.messages),
            next_page_token=self._pages.encode("ListMessages", filters, last) if last else "",
            unread_count=inbox.unread,
        )

    async def MarkRead(self, request: pb.MarkReadRequest, call: Call) -> pb.MarkReadResponse:
        """Note that messages were read."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        if not 1 <= len(request.message_ids) <= MAX_PAGE_SIZE:
            fields.add("message_ids", f"must be 1 to {MAX_PAGE_SIZE}")
            fields.check()
        ids = [fields.uuid(f"message_ids[{place}]", said) for place, said in enumerate(request.message_ids)]
        fields.check()
        unread = await self._messages.mark_read(call.actor.program_id, member_id, ids)
        return pb.MarkReadResponse(unread_count=unread)


def template_message(template: Template) -> pb.Template:
    """A template in force."""
    key, content = template.key, template.content
    return pb.Template(
        occasion=key.occasion,
        channel=key.channel,
        language_code=key.language,
        subject=content.subject,
        text=content.text,
        html=content.html,
        version=template.version,
    )


def _message(shown: Shown) -> pb.Message:
    message, content = shown
    told = pb.Message(
        message_id=str(message.message_id),
        occasion=message.occasion,
        subject=content.subject,
        text=content.text,
        language_code=message.language,
    )
    told.create_time.FromDatetime(message.created_at)
    if message.read_at is not None:
        told.read_time.FromDatetime(message.read_at)
    return told


def _key(fields: Fields, path: str, message: Named) -> Key:
    return Key(
        _one_of(fields, f"{path}occasion", message.occasion, OCCASIONS),
        _one_of(fields, f"{path}channel", message.channel, CHANNELS),
        _language(fields, f"{path}language_code", message.language_code),
    )


def _language(fields: Fields, path: str, value: str) -> str:
    text = fields.text(path, value, max_length=MAX_LABEL)
    try:
        return language_code(text) if text else ""
    except ValueError as error:
        fields.add(path, str(error))
        return ""


def _one_of(fields: Fields, path: str, value: str, known: Collection[str], *, required: bool = True) -> str:
    if value in known or not (value or required):
        return value
    fields.add(path, f"must be one of {', '.join(known)}" if value else "is required")
    return ""


def _content(message: pb.Template | pb.PutTemplateRequest) -> Content:
    return Content(message.subject, message.text, message.html)
