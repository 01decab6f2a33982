"""The services of the contracts, each with what it needs, put together in one place."""

from collections.abc import Callable
from datetime import datetime

from google.protobuf.descriptor import ServiceDescriptor
from redis.asyncio import Redis

from server.operations.adjustments import Adjustments
from server.operations.committer import Committer
from server.operations.dead_letters import DeadLetters
from server.operations.hints import Hints
from server.operations.households import Households
from server.operations.live import Live
from server.operations.members import Members
from server.operations.messages import Messages
from server.operations.points import Points
from server.operations.programs import Programs
from server.operations.reports import Reports
from server.operations.reviews import Reviews
from server.operations.rules import Rules
from server.operations.schedules import Schedules
from server.operations.summaries import Summaries
from server.operations.templates import Templates
from server.operations.timelines import Timelines
from server.operations.webhooks import Webhooks
from server.rpc.access import SERVICES
from server.rpc.adjustments import AdjustmentService
from server.rpc.dead_letters import DeadLetterService
from server.rpc.gate import Gate
from server.rpc.holds import HoldService
from server.rpc.households import HouseholdService
from server.rpc.journal import JournalService, handlers_of
from server.rpc.members import MemberService
from server.rpc.notifications import NotificationService
from server.rpc.pages import Pages
from server.rpc.points import PointsService
from server.rpc.reports import ReportService
from server.rpc.reviews import ReviewService
from server.rpc.rules import RulesService
from server.rpc.schedules import ScheduleService
from server.rpc.updates import Places
from server.rpc.versions import Versions
from server.rpc.watch import EntriesTold
from server.rpc.webhooks import WebhookService
from server.secrets import Secrets
from server.store.database import Database
from server.store.sealing import Sealer
from server.store.summaries import SummaryStore
from telemetry.metrics import Metrics


def build_services(
    database: Database,
    redis: Redis,
    hints: Hints,
    live: Live,
    keys: Secrets,
    programs: Programs,
    committer: Committer,
    gate: Gate,
    metrics: Metrics,
    now: Callable[[], datetime],
    *,
    webhook_loopback: bool = False,
) -> dict[ServiceDescriptor, object]:
    """Every service with what it needs, by its contract. ``now`` tells the time, aware, in UTC."""
    (
        member_service,
        points_service,
        journal_service,
        rules_service,
        hold_service,
        adjustment_service,
        webhook_service,
        report_service,
        review_service,
        dead_letter_service,
        notification_service,
        household_service,
        schedule_service,
    ) = SERVICES
    pages, versions, sealer = Pages(keys.page_token), Versions(keys.page_token), Sealer(keys)
    members = Members(database, sealer, programs, now, hints)
    summaries = Summaries(database, SummaryStore(redis), now)
    points = Points(database, sealer, programs, committer, summaries, now)
    households = Households(database, sealer, programs, committer, now)
    points_calls = PointsService(points, pages, versions, now)
    holds_calls = HoldService(points, versions, now)
    handlers = handlers_of(points_calls, holds_calls)
    return {
        member_service: MemberService(
            members,
            points,
            live,
            Timelines(database, programs),
            pages,
            Places(keys.page_token),
            versions,
            now,
        ),
        points_service: points_calls,
        journal_service: JournalService(gate, points, handlers, EntriesTold(metrics)),
        rules_service: RulesService(Rules(database, redis, programs, now), members, pages, now),
        hold_service: holds_calls,
        adjustment_service: AdjustmentService(Adjustments(database), points, pages, versions, now),
        webhook_service: WebhookService(Webhooks(database, sealer, now, loopback=webhook_loopback), pages),
        report_service: ReportService(Reports(database), pages),
        review_service: ReviewService(Reviews(database), points, handlers, pages, now),
        dead_letter_service: DeadLetterService(DeadLetters(database), pages),
        notification_service: NotificationService(
            Templates(database, now), Messages(database, sealer, now), pages
        ),
        household_service: HouseholdService(households, points, pages, versions, now),
        schedule_service: ScheduleService(Schedules(database), now),
    }
