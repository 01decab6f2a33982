"""From an HTTP method and a path to the binding that answers it.

Paths without variables are looked up at once, others walk a tree by segments. What is
more specific wins: a verb, then literal text before ``*`` before ``**``. Two routes that
could both take a path with neither the more specific keep the shim from starting.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.bindings import ANY_METHOD, Binding
from gateway.templates import DEEP, STAR, Literal, Segment, unescape


class RouteConflict(ValueError):  # noqa: N818 - reads as the sentence it is
    """Two bindings contend for a path; the message names both."""


@dataclass(frozen=True, slots=True)
class Match:
    """The binding that takes a path, and the segments of the path as they were sent."""

    binding: Binding
    raw: tuple[str, ...]

    def values(self) -> dict[str, str]:
        """The text of each variable, by its field path. Raises ValueError if it is no encoded UTF-8."""
        if not self.binding.template.variables:
            return {}
        return self.binding.template.capture(self.raw, fully=self.binding.fully)


Takers = dict[str, Binding]


@dataclass(slots=True)
class _Node:
    """What may follow the segments so far; takers by verb of the path, then by HTTP method."""

    literals: dict[str, "_Node"] = field(default_factory=dict)
    star: "_Node | None" = None
    here: dict[str, Takers] = field(default_factory=dict)
    deep: dict[str, Takers] = field(default_factory=dict)


class Routes:
    """All bindings, ready to be found. Raises RouteConflict for what contends."""

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self.bindings = tuple(bindings)
        self._root = _Node()
        self._fixed: dict[str, Takers] = {}
        for binding in _without_conflict(self.bindings):
            self._add(binding)

    def find(self, method: str, path: str) -> Match | None:
        """The binding for an undecoded path; None if the path has none for this method."""
        fixed = self._fixed.get(path)
        if fixed is not None and method in fixed:
            return Match(fixed[method], ())
        for takers, raw in self._candidates(path):
            binding = takers.get(method) or takers.get(ANY_METHOD)
            if binding is not None:
                return Match(binding, raw)
        return None

    def methods(self, path: str) -> tuple[str, ...]:
        """The HTTP methods that the path has, sorted; ``ANY_METHOD`` if it takes every one.

        HEAD is among them where GET does not stream: of a stream nobody knows the head
        without opening it.
        """
        found = {method for takers, _ in self._candidates(path) for method in takers}
        if (read := self.find("GET", path)) is not None and not read.binding.streams:
            found.add("HEAD")
        return tuple(sorted(found))

    def all(self, path: str) -> tuple[Match, ...]:
        """Every binding that would take the path, the most specific first."""
        return tuple(
            Match(binding, raw) for takers, raw in self._candidates(path) for binding in takers.values()
        )

    def _add(self, binding: Binding) -> None:
        template = binding.template
        node = self._root
        for segment in template.segments:
            if isinstance(segment, Literal):
                node = node.literals.setdefault(segment.text, _Node())
            elif segment == STAR:
                node.star = node = node.star or _Node()
        leaves = node.deep if template.deep else node.here
        leaves.setdefault(template.verb, {})[binding.verb] = binding
        if all(isinstance(segment, Literal) for segment in template.segments):
            # As it is usually sent; another spelling of the same path finds its way through the tree.
            self._fixed.setdefault(str(template), {})[binding.verb] = binding

    def _candidates(self, path: str) -> Iterator[tuple[Takers, tuple[str, ...]]]:
        """The takers of the path, the most specific first, each with the segments that they take."""
        if not path.startswith("/"):
            return
        raw = tuple(path[1:].split("/")) if path != "/" else ()
        last, colon, verb = raw[-1].rpartition(":") if raw else ("", "", "")
        if colon and verb:
            shortened = (*raw[:-1], last)
            verb = _decoded(verb)
            taken = False
            for takers in _walk(self._root, shortened, _all_decoded(shortened), 0, verb):
                taken = True
                yield takers, shortened
            if taken:
                # A verb that is there is one: what has no such method is not called something else.
                return
        for takers in _walk(self._root, raw, _all_decoded(raw), 0, ""):
            yield takers, raw


def _walk(node: _Node, raw: tuple[str, ...], parts: Sequence[str], place: int, verb: str) -> Iterator[Takers]:
    if place == len(raw):
        if verb in node.here:
            yield node.here[verb]
    else:
        following = node.literals.get(parts[place])
        if following is not None:
            yield from _walk(following, raw, parts, place + 1, verb)
        if node.star is not None and raw[place]:
            yield from _walk(node.star, raw, parts, place + 1, verb)
    if verb in node.deep:
        yield node.deep[verb]


def _all_decoded(raw: tuple[str, ...]) -> Sequence[str]:
    return [_decoded(part) for part in raw] if any("%" in part for part in raw) else raw


def _decoded(text: str) -> str:
    """What a literal is compared with; an escape that is none stays as it is and equals no literal."""
    try:
        return unescape(text)
    except ValueError:
        return text


def _without_conflict(bindings: Sequence[Binding]) -> Sequence[Binding]:
    for place, one in enumerate(bindings):
        for other in bindings[:place]:
            if one.verb != other.verb or one.template.verb != other.template.verb:
                continue
            ours, theirs = one.template.segments, other.template.segments
            if ours == theirs:
                raise RouteConflict(f"{other} and {one} have the same route")
            if _meet(ours, theirs) and not _covers(ours, theirs) and not _covers(theirs, ours):
                raise RouteConflict(f"{other} and {one} can take the same path, and neither is more specific")
    return bindings


def _meet(ours: Sequence[Segment], theirs: Sequence[Segment]) -> bool:
    """Whether some path fits both."""
    for one, other in zip(ours, theirs, strict=False):
        if DEEP in (one, other):
            return True
        if isinstance(one, Literal) and isinstance(other, Literal) and one != other:
            return False
    longer = max(ours, theirs, key=len)
    shorter = min(len(ours), len(theirs))
    return len(longer) == shorter or longer[shorter] == DEEP


def _covers(wide: Sequence[Segment], narrow: Sequence[Segment]) -> bool:
    """Whether every path that fits the narrow pattern fits the wide one."""
    for place, segment in enumerate(wide):
        if segment == DEEP:
            return True
        if place == len(narrow) or narrow[place] == DEEP:
            return False
        if isinstance(segment, Literal) and narrow[place] != segment:
            return False
    return len(wide) == len(narrow)
