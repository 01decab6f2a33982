"""ReportService: parse, act, render."""

from collections.abc import Iterable
from datetime import date
from itertools import groupby

from google.type import date_pb2
from loyalty.v1 import reports_pb2 as pb

from server.domain.figures import Figures, Key, Measure
from server.operations.reports import Reports
from server.rpc.activities import MAX_LABEL
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.money import money
from server.rpc.pages import Pages
from server.store.figures import Place, Wanted

TIMES = (
    Measure.JOINED,
    Measure.PURCHASES,
    Measure.EVENTS,
    Measure.REDEMPTIONS,
    Measure.RETURNS,
    Measure.REFUNDS,
)
POINTS = (
    Measure.EARNED,
    Measure.REDEEMED,
    Measure.EXPIRED,
    Measure.RETURNED,
    Measure.SHORTFALL,
    Measure.REFUNDED,
    Measure.ADJUSTED_IN,
    Measure.ADJUSTED_OUT,
)


class ReportService:
    """The RPCs of ReportService, called by the gate."""

    def __init__(self, reports: Reports, pages: Pages) -> None:
        self._reports = reports
        self._pages = pages

    async def ListDailyFigures(
        self, request: pb.ListDailyFiguresRequest, call: Call
    ) -> pb.ListDailyFiguresResponse:
        """Page through the figures of days and stores."""
        fields = Fields()
        since = fields.date("from_date", request, required=True)
        until = fields.date("to_date", request, required=True)
        store = fields.text("store", request.store, max_length=MAX_LABEL, required=False) or call.actor.store
        rule = fields.text("rule", request.rule, max_length=MAX_LABEL, required=False)
        size = fields.page_size("page_size", request.page_size)
        if until < since:
            fields.add("to_date", "must not be before from_date")
        fields.check()
        wanted = Wanted(call.actor.program_id, since, until, store, rule)
        filters = {name: str(value) for name, value in wanted._asdict().items()}
        position = self._pages.decode("ListDailyFigures", filters, request.page_token)
        after = None if position is None else Place(date.fromisoformat(position[0]), position[1])
        found, more, moment = await self._reports.daily(wanted, after, size)
        last = next(reversed(found)) if more else None
        reply = pb.ListDailyFiguresResponse(
            figures=[_daily(place, figures) for place, figures in found.items()],
            next_page_token=""
            if last is None
            else self._pages.encode("ListDailyFigures", filters, [last.day.isoformat(), last.store]),
        )
        reply.as_of_time.FromDatetime(moment)
        return reply


def _daily(place: Place, figures: Figures) -> pb.DailyFigures:
    day, store = place
    own = {key: amount for key, amount in figures.items() if not key.rule}
    return pb.DailyFigures(
        date=date_pb2.Date(year=day.year, month=day.month, day=day.day),
        store=store,
        amounts=[money(key.unit, own[key]) for key in own if key.measure is Measure.AMOUNT],
        points=[_points(unit, own) for unit in _units(own, POINTS)],
        rules=[
            _rule(name, {key: figures[key] for key in keys})
            for name, keys in groupby((key for key in figures if key.rule), key=lambda key: key.rule)
        ],
        **{key.measure: int(own[key]) for key in own if key.measure in TIMES},
    )


def _points(point_type: str, figures: Figures) -> pb.PointFigures:
    counted = {key.measure: int(figures[key]) for key in figures if key.unit == point_type}
    return pb.PointFigures(point_type=point_type, **{m: counted[m] for m in POINTS if m in counted})


def _rule(name: str, figures: Figures) -> pb.RuleFigures:
    return pb.RuleFigures(
        rule=name,
        activities=sum(int(figures[key]) for key in figures if key.measure is Measure.ACTIVITIES),
        points=[
            pb.RulePoints(point_type=key.unit, earned=int(figures[key]))
            for key in figures
            if key.measure is Measure.EARNED
        ],
    )


def _units(keys: Iterable[Key], measures: Iterable[Measure]) -> list[str]:
    return sorted({key.unit for key in keys if key.measure in measures})
