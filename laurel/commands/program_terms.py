"""How a program's points live, as options of `laurel programs` and in words."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from laurel.failures import Failure
from server.domain.ledger import MAX_POINTS
from server.domain.program import MAX_HOLD_SECONDS, Clawback, LedgerTerms, Program
from server.domain.rules.canonical import render_expire, render_pending
from server.domain.rules.definition import Pending
from server.domain.rules.read_terms import MAX_DAYS, read_lot_terms
from server.domain.rules.reading import Reader
from server.domain.terms_in_words import expiring, spendable

# Options by the name of the term that they set.
NUMBERS: Mapping[str, tuple[str, click.IntRange, str]] = {
    "refund_grace_days": (
        "--refund-grace-days",
        click.IntRange(0, MAX_DAYS),
        "How long refunded points last that had expired meanwhile.",
    ),
    "hold_seconds": (
        "--hold-seconds",
        click.IntRange(1, MAX_HOLD_SECONDS),
        "How long a hold lasts that doesn't say.",
    ),
    "max_hold_seconds": (
        "--max-hold-seconds",
        click.IntRange(1, MAX_HOLD_SECONDS),
        "How long a hold may last.",
    ),
    "transfer_points": (
        "--transfer-limit",
        click.IntRange(0, MAX_POINTS),
        "The most points a member may hand on at once; 0 for none.",
    ),
    "approval_points": (
        "--approval-above",
        click.IntRange(0, MAX_POINTS),
        "Larger adjustments need a second person; 0 for all.",
    ),
}
# Longer ahead, or more often, nobody wants to be told.
MOST_WARN_DAYS = 365
MOST_WARNINGS = 5
WALLETS = {
    "pending": (
        "--pending",
        "WALLET=none, WALLET=days:14, WALLET=until:EVENT or WALLET=days:14,until:EVENT: how long new points "
        "can't be spent; repeatable.",
    ),
    "expire": (
        "--expiry",
        "WALLET=never, WALLET=days:N, months:N (end of the month), years:N (end of the year) or "
        "rolling_days:N (after the last activity): when new points expire; repeatable.",
    ),
}


def terms_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each term; those that aren't given are None or empty."""
    for name, (option, values, text) in reversed(list(NUMBERS.items())):
        command = click.option(option, name, type=values, help=text)(command)
    command = click.option(
        "--clawback",
        type=click.Choice([str(policy) for policy in Clawback]),
        help="What a return does about points that have been spent: they are owed, only what is there is "
        "taken, or it is refused.",
    )(command)
    command = click.option(
        "--warn-days",
        callback=_warn_days,
        help="How many days ahead members are told of points that expire, such as 30,7; none for never.",
    )(command)
    for name, (option, text) in reversed(list(WALLETS.items())):
        command = click.option(option, name, multiple=True, callback=_by_wallet, help=text)(command)
    return command


def _warn_days(_ctx: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts = [] if value == "none" else [part.strip() for part in value.split(",")]
    if len(parts) > MOST_WARNINGS or len(set(parts)) < len(parts):
        raise click.BadParameter(f"at most {MOST_WARNINGS} numbers of days, each once, or none")
    for part in parts:
        if not (part.isascii() and part.isdigit() and 1 <= int(part) <= MOST_WARN_DAYS):
            raise click.BadParameter(f"{part!r} is no number of days from 1 to {MOST_WARN_DAYS}")
    return tuple(sorted(map(int, parts), reverse=True))


def _by_wallet(_ctx: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> Mapping[str, Any]:
    """WALLET=WORD, or WALLET=KEY:VALUE,KEY:VALUE as the object that a rule would say."""
    said: dict[str, Any] = {}
    for part in value:
        wallet, _, terms = part.partition("=")
        if not terms:
            raise click.BadParameter(f"{part!r}: write WALLET=TERMS, such as points=months:12")
        if wallet in said:
            raise click.BadParameter(f"{wallet} stands there twice")
        pairs = [pair.partition(":") for pair in terms.split(",")]
        said[wallet] = {key: number for key, _, number in pairs} if ":" in terms else terms
    return said


def revised(program: Program, given: Mapping[str, Any]) -> LedgerTerms:
    """The program's terms with what the options say. Raises Failure with every mistake."""
    ledger, reader = program.ledger, Reader()
    lots = dict(ledger.lots)
    for wallet in sorted({*given["pending"], *given["expire"]}):
        if wallet not in program.point_types:
            reader.wrong(wallet, f"is no wallet; the program has {', '.join(program.point_types)}")
            continue
        raw = {key: given[key][wallet] for key in WALLETS if wallet in given[key]}
        lots[wallet] = read_lot_terms(reader, raw, wallet, program, ledger.lot_terms(wallet))
    plain = {name: given[name] for name in NUMBERS if given[name] is not None}
    if given["clawback"] is not None:
        plain["clawback"] = Clawback(given["clawback"])
    if given["warn_days"] is not None:
        plain["warn_days"] = given["warn_days"]
    after = replace(ledger, lots=lots, **plain)
    if after.hold_seconds > after.max_hold_seconds:
        reader.wrong("hold-seconds", "must not be above max-hold-seconds")
    if reader.mistakes:
        raise Failure("\n".join(f"{mistake.field}: {mistake.description}" for mistake in reader.mistakes))
    return after


def as_json(program: Program) -> dict[str, Any]:
    """The terms of every wallet and the rest, as rules write them."""
    ledger = program.ledger
    lots = {name: ledger.lot_terms(name) for name in program.point_types}
    return {
        "wallets": {
            name: {
                "pending": render_pending(Pending(terms.pending_days, terms.activates_on)),
                "expire": render_expire(terms.expiry),
            }
            for name, terms in lots.items()
        },
        "clawback": str(ledger.clawback),
        "refundGraceDays": ledger.refund_grace_days,
        "holdSeconds": ledger.hold_seconds,
        "maxHoldSeconds": ledger.max_hold_seconds,
        "transferLimit": ledger.transfer_points,
        "approvalAbove": ledger.approval_points,
        "warnDays": list(ledger.warn_days),
    }


def in_words(program: Program) -> list[tuple[str, str]]:
    """The same for people: a name and a text each."""
    ledger = program.ledger
    lots = [(name, ledger.lot_terms(name)) for name in program.point_types]
    most = ledger.transfer_points
    return [
        *(
            (
                f"new {name}",
                f"can be spent {spendable(terms.pending_days, terms.activates_on)}; "
                f"expire {expiring(*terms.expiry)}",
            )
            for name, terms in lots
        ),
        ("clawback", str(ledger.clawback)),
        ("refund grace", f"{ledger.refund_grace_days} days"),
        ("holds", f"{ledger.hold_seconds:,} seconds, at most {ledger.max_hold_seconds:,}"),
        (
            "transfers",
            f"up to {most:,} points at once" if most else "none",
        ),
        ("adjustments", f"above {ledger.approval_points:,} points need a second person"),
        (
            "warnings",
            f"{' and '.join(map(str, ledger.warn_days))} days before points expire"
            if ledger.warn_days
            else "none",
        ),
    ]
