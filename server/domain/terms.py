"""How a program's points live, as JSON.

    {"lots": {"points": {"pending_days": 14, "activates_on": "", "expiry": {"months": 12}}},
     "clawback": "allow_debt", "refund_grace_days": 30, "hold_seconds": 900, ...}

Whatever isn't there has its default; expiry is one of {"days": n}, {"months": n}, {"years": n},
{"rolling_days": n} and {}.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from server.domain.lots import AT_ONCE_AND_FOR_EVER, NEVER, Expiry, LotTerms, Until
from server.domain.program import Clawback, LedgerTerms


def dump(ledger: LedgerTerms) -> dict[str, Any]:
    """The terms as JSON, without what is default anyway."""
    default = LedgerTerms()
    said = {
        name: value
        for name, value in asdict(ledger).items()
        if name != "lots" and value != getattr(default, name)
    }
    if lots := _told_apart(ledger.lots):
        said["lots"] = {point_type: dump_lot(terms) for point_type, terms in lots.items()}
    return said


def load(said: Mapping[str, Any]) -> LedgerTerms:
    """The terms that ``dump`` wrote down."""
    plain = {f.name: said[f.name] for f in fields(LedgerTerms) if f.name in said}
    if "lots" in plain:
        plain["lots"] = _told_apart({name: load_lot(terms) for name, terms in plain["lots"].items()})
    if "clawback" in plain:
        plain["clawback"] = Clawback(plain["clawback"])
    if "warn_days" in plain:
        plain["warn_days"] = tuple(plain["warn_days"])
    return LedgerTerms(**plain)


def dump_lot(terms: LotTerms) -> dict[str, Any]:
    """How lots live, as JSON."""
    said: dict[str, Any] = {}
    if terms.pending_days:
        said["pending_days"] = terms.pending_days
    if terms.activates_on:
        said["activates_on"] = terms.activates_on
    if terms.expiry != NEVER:
        said["expiry"] = {terms.expiry.until.value: terms.expiry.number}
    return said


def load_lot(said: Mapping[str, Any]) -> LotTerms:
    """How lots live; ``said`` is what ``dump_lot`` wrote."""
    expiry = NEVER
    for until, number in said.get("expiry", {}).items():
        expiry = Expiry(Until(until), number)
    return LotTerms(said.get("pending_days", 0), said.get("activates_on", ""), expiry)


def _told_apart(lots: Mapping[str, LotTerms]) -> Mapping[str, LotTerms]:
    """Only the wallets whose points don't simply live at once and for ever."""
    return {point_type: terms for point_type, terms in lots.items() if terms != AT_ONCE_AND_FOR_EVER}
