"""A trace in sentences that a support agent can read out."""

import json
from collections.abc import Callable, Mapping

from server.domain.lots import Until
from server.domain.rules.evaluation import EXCLUDED, OUTBID, Note, RuleResult
from server.domain.rules.money import written
from server.domain.rules.trace import load
from server.domain.terms_in_words import expiring, spendable

_PER: Mapping[str, str] = {
    "event": "per purchase",
    "day": "per day",
    "week": "per week",
    "month": "per month",
    "year": "per year",
    "ever": "in all",
}
_ROUNDED: Mapping[str, str] = {
    "floor": "rounded down",
    "half_even": "rounded to the nearest",
    "ceil": "rounded up",
}


def sentences(trace: str) -> list[str]:
    """A stored trace, sentence by sentence, in the order in which rules were considered."""
    told = [sentence for result in load(trace) for sentence in _told(result)]
    worth = json.loads(trace).get("worth")
    if worth:
        told.append(
            f"Rule {worth['rule']} (version {worth['version']}) made the points worth "
            f"{written(worth['value'], worth['currency'])}: {written(worth['money'], worth['currency'])} "
            f"for every {worth['points']}."
        )
    return told


def notes(result: RuleResult) -> list[str]:
    """The arithmetic of one result and what bit, in words."""
    return [_NOTES[str(note["kind"])](note, result) for note in result.notes]


def _told(result: RuleResult) -> list[str]:
    name = f"Rule {result.rule} (version {result.version})"
    steps = [note for note in result.notes if note["kind"] in _ARITHMETIC]
    arithmetic = "; ".join(_NOTES[str(note["kind"])](note, result) for note in steps)
    limits = [note for note in result.notes if note["kind"] not in _ARITHMETIC]
    if result.outcome in (EXCLUDED, OUTBID):
        # The note tells the whole story.
        return [f"{name} gave nothing: {_NOTES[str(note['kind'])](note, result)}." for note in limits[-1:]]
    capped = any(note["kind"] == "cap" for note in limits)
    # Before caps: what the cap left is the next sentence.
    gave = counted(result.computed if capped else result.points, result.point_type)
    told = [f"{name} {'came to' if capped else 'gave'} {gave}: {arithmetic}."] if arithmetic else []
    for note in limits:
        words = _NOTES[str(note["kind"])](note, result)
        told.append(f"Rule {result.rule} {words}." if told else f"{name} {words}.")
    return told


def _earn(note: Note, _: RuleResult) -> str:
    currency, lines = str(note["currency"]), int(note["lines"])
    over = "" if lines == 1 else f" over {lines} lines, each {_ROUNDED[str(note['rounding'])]}"
    return (
        f"{note['points']} per {written(str(note['per']), currency)} "
        f"on {written(str(note['amount']), currency)}{over}"
    )


def _multiply(note: Note, result: RuleResult) -> str:
    lines = " of the matching lines" if note["of"] == "lines" else ""
    base = counted(int(note["base"]), result.point_type)
    return f"{note['by']} times the base of {base}{lines}, that is {note['more']} more"


def _fixed(note: Note, result: RuleResult) -> str:
    return f"{counted(int(note['points']), result.point_type)}, whatever the amount"


def _bonus(note: Note, _: RuleResult) -> str:
    units = int(note["units"])
    return f"{note['points']} for each of {units} item{'' if units == 1 else 's'}"


def _cap(note: Note, result: RuleResult) -> str:
    left = int(note["left"])
    were = "was" if left == 1 else "were"
    limit = f"was capped at {_limit(note, result)}"
    if note["per"] == "event":
        return f"{limit}, so it gave {left} instead of {result.computed}"
    remained = f"{left} {were} left" if left else "nothing was left"
    return f"{limit}; {remained}, so it gave {left} instead of {result.computed}"


def _limit(note: Note, result: RuleResult) -> str:
    return f"{counted(int(note['points']), result.point_type)} {_PER[str(note['per'])]}"


def _outbid(note: Note, result: RuleResult) -> str:
    group, other = note["group"], note["by"]
    if note["mode"] == "first":
        return f"rule {other} came before it in the group {group}, where the first one counts"
    theirs, own = int(note["theirs"]), int(note["own"])
    gave = counted(theirs, result.point_type)
    if theirs == own:
        return f"rule {other} of the group {group} gave as much, {gave}, and came first"
    cap = next((other_note for other_note in result.notes if other_note["kind"] == "cap"), None)
    left = "" if cap is None else f" that its cap of {_limit(cap, result)} left"
    return f"rule {other} of the group {group} gave more, {gave} against {own}{left}"


def _excluded(note: Note, _: RuleResult) -> str:
    return f"rule {note['by']} is exclusive and came before it"


def _tag(note: Note, _: RuleResult) -> str:
    return f"put the tag {note['tag']} on the member"


def _terms(note: Note, _: RuleResult) -> str:
    """Only what the rule itself says: the program's terms aren't its doing."""
    said = []
    if "days" in note:
        said.append(f"can be spent {spendable(int(note['days']), str(note['until']))}")
    if "expire" in note:
        until = Until(str(note["expire"]))
        when = expiring(until, int(note["number"]))
        said.append("never expire" if until is Until.NEVER else f"expire {when}")
    separator = ", and " if ", " in said[0] else " and "
    return f"says that its points {separator.join(said)}"


def counted(points: int, point_type: str) -> str:
    """Points with their name, such as `1 point`."""
    unit = point_type.removesuffix("s") if points == 1 else point_type
    return f"{points} {unit}"


_NOTES: Mapping[str, Callable[[Note, RuleResult], str]] = {
    "earn": _earn,
    "multiply": _multiply,
    "fixed": _fixed,
    "bonus": _bonus,
    "cap": _cap,
    "outbid": _outbid,
    "excluded": _excluded,
    "tag": _tag,
    "terms": _terms,
}
_ARITHMETIC = ("earn", "multiply", "fixed", "bonus")
