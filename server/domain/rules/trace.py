"""Why, as the ledger keeps it: JSON of int, str, bool, list and dict, never a float.

    earn    {"rules": [{"rule", "version", "outcome", "computed", "points", "point_type",
                        "lines": {line_id: points}, "notes": [{"kind", ...}],
                        "periods": [the counters of its caps that it used]}, ...],
             "activity": the digest of what happened, which the event log has}
    redeem  {"worth": {"rule", "version", "value", "currency", "points", "money"}}

The trace enters the row's hash, and returns are computed from it: keys are only ever added.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from server.domain import canonical_json
from server.domain.rules.evaluation import CapKey, Evaluation, RedemptionTerms, RuleResult
from server.domain.rules.reading import plain

_VOUCHED = '{"activity":"'


def canonical(trace: Mapping[str, object]) -> str:
    """The one text of a trace, whoever writes it down: it enters the row's hash."""
    return canonical_json.canonical(trace).decode()


def digest(activity: Mapping[str, Any]) -> str:
    """SHA-256 of an activity as the event log has it. In a row's trace it stands under the row's hash."""
    return hashlib.sha256(canonical_json.canonical(activity)).hexdigest()


def vouched(trace: str) -> str:
    """The digest of the activity for which the trace of a row that was earned vouches; "" in the oldest."""
    # Of the sorted keys it is the first, and whoever verifies reads one of each row.
    return trace[len(_VOUCHED) :].partition('"')[0] if trace.startswith(_VOUCHED) else ""


def dump(evaluation: Evaluation, point_type: str) -> dict[str, Any]:
    """The part of an evaluation that explains one wallet's award."""
    return {"rules": [_entry(result) for result in evaluation.results if result.point_type == point_type]}


def _entry(result: RuleResult) -> dict[str, Any]:
    entry = {
        "rule": result.rule,
        "version": result.version,
        "outcome": result.outcome,
        "computed": result.computed,
        "points": result.points,
        "point_type": result.point_type,
        "lines": result.lines,
        "notes": list(result.notes),
    }
    if result.periods:
        entry["periods"] = list(result.periods)
    return entry


def dump_terms(terms: RedemptionTerms) -> dict[str, Any]:
    """Why redeemed points were worth what they were; empty if no rule says so."""
    if terms.value is None:
        return {}
    return {
        "worth": {
            "rule": terms.rule,
            "version": terms.version,
            "value": plain(terms.value),
            "currency": terms.currency,
            "points": terms.unit_points,
            "money": plain(terms.unit_money),
        }
    }


def spread(trace: str) -> tuple[dict[str, int], dict[CapKey, dict[str, int]]]:
    """Of a row that was earned: the points of each line, and those that each counter of a cap counted.

    Points of something without a basket stand under the line "".
    """
    lines: dict[str, int] = {}
    counted: dict[CapKey, dict[str, int]] = {}
    for entry in json.loads(trace).get("rules", ()):
        own = entry["lines"] or ({"": entry["points"]} if entry["points"] else {})
        for line_id, points in own.items():
            lines[line_id] = lines.get(line_id, 0) + points
        for period in entry.get("periods", ()):
            counted[CapKey(entry["rule"], period)] = own
    return lines, counted


def load(trace: str) -> tuple[RuleResult, ...]:
    """The rule results of a stored trace; none for a redemption."""
    return tuple(
        RuleResult(
            entry["rule"],
            entry["version"],
            entry["outcome"],
            entry["computed"],
            entry["points"],
            entry["point_type"],
            dict(entry["lines"]),
            tuple(entry["notes"]),
            tuple(entry.get("periods", ())),
        )
        for entry in json.loads(trace).get("rules", ())
    )
