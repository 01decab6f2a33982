"""Path templates as OpenAPI writes paths.

OpenAPI's parameters take one segment each. So a variable of several segments, such as
``{name=shelves/*/books/*}``, becomes a path with a parameter for each of its wildcards,
and what can't be said in a path (``**``) is said in words.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from gateway.templates import DEEP, STAR, Literal, Template, Variable

# As a template writes them; the colon would begin a verb.
LITERAL_SAFE = "-._~!$&'()+,;@"
PARAMETER = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a path. ``variable`` is the template's; None for a wildcard outside of all."""

    name: str
    variable: Variable | None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A path and its parameters, in order."""

    path: str
    parameters: tuple[Parameter, ...]

    @property
    def shape(self) -> str:
        """What tells the path from others: OpenAPI holds two that differ in names alone for one."""
        return PARAMETER.sub("{}", self.path)

    def renamed(self, path: str) -> "Rendered":
        """The same with the names of a path of the same shape."""
        names = [found[1:-1] for found in PARAMETER.findall(path)]
        pairs = zip(names, self.parameters, strict=True)
        return Rendered(path, tuple(Parameter(name, old.variable, old.words) for name, old in pairs))


def render(template: Template) -> Rendered:
    """The path of a template."""
    parameters = dict(_parameters(template))
    parts = [
        quote(segment.text, safe=LITERAL_SAFE)
        if isinstance(segment, Literal)
        else f"{{{parameters[place].name}}}"
        for place, segment in enumerate(template.segments)
    ]
    verb = f":{quote(template.verb, safe=LITERAL_SAFE)}" if template.verb else ""
    return Rendered("/" + "/".join(parts) + verb, tuple(parameters.values()))


def _parameters(template: Template) -> Iterator[tuple[int, Parameter]]:
    """The wildcards of a template, by their places."""
    inside = {
        place: variable for variable in template.variables for place in range(variable.start, variable.end)
    }
    outside = [place for place in _wildcards(template) if place not in inside]
    for place in _wildcards(template):
        variable = inside.get(place)
        if variable is None:
            name = _numbered("wildcard", outside, place)
            yield place, Parameter(name, None, _spread(template, place))
        else:
            among = [other for other in _wildcards(template) if inside.get(other) == variable]
            name = _numbered(variable.name, among, place)
            yield place, Parameter(name, variable, _words(template, variable, among, place))


def _wildcards(template: Template) -> list[int]:
    return [place for place, segment in enumerate(template.segments) if segment in {STAR, DEEP}]


def _numbered(name: str, among: list[int], place: int) -> str:
    return name if len(among) == 1 else f"{name}_{among.index(place) + 1}"


def _words(template: Template, variable: Variable, among: list[int], place: int) -> str:
    """How the segment and the field hang together, where the path alone doesn't tell."""
    if not variable.multiple:
        return ""
    parts = [
        segment.text
        if isinstance(segment, Literal)
        else f"{{{_numbered(variable.name, among, variable.start + number)}}}"
        for number, segment in enumerate(template.segments[variable.start : variable.end])
    ]
    made = "" if len(parts) == 1 else f"`{variable.name}` is `{'/'.join(parts)}`."
    return " ".join(text for text in (made, _spread(template, place)) if text)


def _spread(template: Template, place: int) -> str:
    return "Any number of segments, with slashes between them." if template.segments[place] == DEEP else ""
