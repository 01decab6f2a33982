"""`laurel report`: what a program adds up to."""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import date

import click
from google.type.date_pb2 import Date
from loyalty.v1 import reports_pb2 as pb

from laurel.client import Client, connect, program_option
from laurel.commands import identifiers
from laurel.commands.options import json_option
from laurel.output import amount_of, as_dict, moment, show_json, show_table
from laurel.spreadsheets import guarded

PAGE = 500
COUNTS = ("joined", "purchases", "events", "redemptions", "returns", "refunds")
POINTS = (
    "earned",
    "redeemed",
    "expired",
    "returned",
    "shortfall",
    "refunded",
    "adjusted_in",
    "adjusted_out",
)
COLUMNS = ("date", "store", "rule", "measure", "unit", "amount")


@click.group()
def report() -> None:
    """Reports: what a program adds up to."""


def _day(_ctx: click.Context, _option: click.Parameter, value: str) -> Date:
    return identifiers.date(value)


@report.command()
@click.option("--from", "since", callback=_day, required=True, help="The first business day.")
@click.option("--to", "until", callback=_day, required=True, help="The last one; it is part of it.")
@click.option("--store", default="", help="This one only.")
@click.option("--rule", default="", help="Only days and stores on which this rule gave points.")
@click.option("--csv", "as_csv", is_flag=True, help="A figure a line, for spreadsheets; rules' figures too.")
@program_option
@json_option
def days(
    *, since: Date, until: Date, store: str, rule: str, as_csv: bool, program: str, as_json: bool
) -> None:
    """Show the figures of business days, store by store. Times are those of the program's clock.

    \b
    laurel report days --from 2026-11-01 --to 2026-11-30
    laurel report days --from 2026-11-01 --to 2026-11-30 --csv > november.csv
    """
    with connect("staff", program) as client:
        reply = _whole(
            client, pb.ListDailyFiguresRequest(from_date=since, to_date=until, store=store, rule=rule)
        )
    if as_json:
        show_json(as_dict(reply))
    elif as_csv:
        sheet = csv.writer(sys.stdout, lineterminator="\n")
        sheet.writerow(COLUMNS)
        for figures in reply.figures:
            sheet.writerows(_lines(figures))
    else:
        _show(reply.figures)
    click.echo(f"as of {moment(reply.as_of_time)}", err=True)


def _whole(client: Client, request: pb.ListDailyFiguresRequest) -> pb.ListDailyFiguresResponse:
    """All pages as one; as of when the first was read."""
    request.page_size = PAGE
    reply = page = client.call(client.reports.ListDailyFigures, request)
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = client.call(client.reports.ListDailyFigures, request)
        reply.figures.extend(page.figures)
    reply.next_page_token = ""
    return reply


def _show(every: Sequence[pb.DailyFigures]) -> None:
    """A line a day, store and wallet. What has no column here is in CSV and JSON."""
    show_table(
        ("DAY", "STORE", "JOINED", "PURCHASES", "AMOUNT>", "WALLET", *(name.upper() for name in POINTS[:6])),
        [
            (
                _text(f.date),
                f.store,
                f.joined,
                f.purchases,
                ", ".join(amount_of(amount) for amount in f.amounts),
                p.point_type,
                *(getattr(p, name) for name in POINTS[:6]),
            )
            for f in every
            for p in f.points or (pb.PointFigures(),)
        ],
    )


def _lines(figures: pb.DailyFigures) -> Iterator[Iterable[object]]:
    """A line a figure that isn't 0."""
    where = (_text(figures.date), guarded(figures.store))
    for name in COUNTS:
        if value := getattr(figures, name):
            yield *where, "", name, "", value
    for amount in figures.amounts:
        value = f"{amount.units}.{amount.nanos:09}".rstrip("0").rstrip(".")
        yield *where, "", "amount", amount.currency_code, value
    for points in figures.points:
        for name in POINTS:
            if value := getattr(points, name):
                yield *where, "", name, points.point_type, value
    for rule in figures.rules:
        yield *where, guarded(rule.rule), "activities", "", rule.activities
        for given in rule.points:
            yield *where, guarded(rule.rule), "earned", given.point_type, given.earned


def _text(day: Date) -> str:
    return date(day.year, day.month, day.day).isoformat()
