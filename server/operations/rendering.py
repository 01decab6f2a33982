"""Rendering templates of people who are not trusted with the machine.

A template is text with places for facts and conditions on them, in Jinja2's sandbox. It has no
loops, calls, attributes or assignments, and only filters whose result grows with their input: so time
and size are bounded by its length, whatever it says. All names it uses must be facts of its occasion.
"""

import re
import traceback
from collections.abc import Iterator, Mapping
from datetime import date as Day  # noqa: N812 - the filter of that name hides it
from functools import lru_cache
from types import MappingProxyType

from babel import Locale, UnknownLocaleError
from babel.dates import format_date
from babel.numbers import format_decimal
from jinja2 import StrictUndefined, TemplateError, nodes, pass_context
from jinja2 import Template as Compiled
from jinja2.exceptions import TemplateSyntaxError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.domain.errors import Violation
from server.domain.notifications.occasions import OCCASIONS, Facts
from server.domain.notifications.templates import LAST_RESORT, PARTS, Content, Key

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
MAX_NODES = 2000
MAX_DEPTH = 40
PERSONAL_EXAMPLE: Facts = MappingProxyType({"given_name": "Asha"})
PROGRAM_EXAMPLE: Facts = MappingProxyType({"program": "demo"})

# Without `safe`: what comes from facts is always escaped in HTML.
FILTERS = ("capitalize", "default", "e", "escape", "length", "lower", "title", "trim", "truncate", "upper")
ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Filter,
    nodes.Keyword,
    nodes.Concat,
    nodes.Add,
    nodes.Sub,
    nodes.Tuple,
    nodes.List,
)


class RenderingError(Exception):
    """A template did not go together with the facts. The message names part and line, no value."""


@pass_context
def _number(context: Context, value: int) -> str:
    """A whole number as the language groups its digits."""
    return format_decimal(value, locale=_locale(context))


@pass_context
def _date(context: Context, value: str) -> str:
    """A day such as 2026-12-31, as the language writes it out."""
    return format_date(Day.fromisoformat(value), "long", locale=_locale(context))


def _locale(context: Context) -> Locale:
    return _parsed_locale(str(context.get("language", LAST_RESORT)))


@lru_cache(maxsize=100)
def _parsed_locale(language: str) -> Locale:
    try:
        return Locale.parse(language, sep="-")
    except (UnknownLocaleError, ValueError):
        return Locale.parse(LAST_RESORT)


def _environment(html: bool) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(autoescape=html, undefined=StrictUndefined, cache_size=0)
    environment.filters = {name: environment.filters[name] for name in FILTERS}
    environment.filters |= {"number": _number, "date": _date}
    environment.globals.clear()
    environment.tests = {}
    return environment


_TEXT, _HTML = _environment(html=False), _environment(html=True)


def names(occasion: str) -> frozenset[str]:
    """What templates of an occasion may name."""
    return frozenset(example(occasion))


def example(occasion: str) -> Facts:
    """Facts of an occasion that didn't happen, and a member who isn't there."""
    return {**OCCASIONS[occasion].example, **PROGRAM_EXAMPLE, **PERSONAL_EXAMPLE}


def mistakes(key: Key, content: Content) -> list[Violation]:
    """What is wrong with a template, each with the part and the line; nothing if it can be put in force."""
    found: list[Violation] = []
    for name, source in _parts(content):
        part = PARTS[key.channel].get(name)
        if part is None:
            if source:
                found.append(Violation(name, f"a template for {key.channel} has none"))
        elif not source:
            if part.required:
                found.append(Violation(name, f"a template for {key.channel} needs it"))
        elif len(source) > part.limit:
            found.append(Violation(name, f"must be at most {part.limit:,} characters"))
        elif _CONTROL.search(source):
            found.append(Violation(name, "must not contain control characters, such as NUL"))
        elif wrong := _wrong(source, name, names(key.occasion)):
            found.append(Violation(name, wrong))
    if not found:
        try:
            render(key, content, example(key.occasion))
            render(key, content, {**example(key.occasion), "given_name": ""})
        except RenderingError as error:
            part_of, _, why = str(error).partition(": ")
            found.append(Violation(part_of, why))
    return found


def render(key: Key, content: Content, facts: Facts) -> Content:
    """The message. Raises RenderingError."""
    return Content(**{name: _rendered(key, name, source, facts) for name, source in _parts(content)})


def _parts(content: Content) -> Iterator[tuple[str, str]]:
    yield "subject", content.subject
    yield "text", content.text
    yield "html", content.html


def _rendered(key: Key, name: str, source: str, facts: Facts) -> str:
    if not source:
        return ""
    try:
        text = _compiled(source, name == "html").render(language=key.language, **facts)
    except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise RenderingError(f"{name}: line {_line(error)}: {_why(error)}") from None
    text = " ".join(text.split()) if name == "subject" else text.strip()
    limit = PARTS[key.channel][name].limit
    if len(text) > limit:
        raise RenderingError(f"{name}: line 1: comes to more than {limit:,} characters")
    if not text:
        raise RenderingError(f"{name}: line 1: comes to nothing")
    return text


def _wrong(source: str, part: str, known: frozenset[str]) -> str:
    """What is wrong with one part, "" if nothing is."""
    try:
        tree = _HTML.parse(source) if part == "html" else _TEXT.parse(source)
        if wrong := _forbidden(tree, known):
            return wrong
        _compiled(source, part == "html")
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except (TemplateError, RecursionError, SyntaxError, MemoryError, OverflowError, ValueError):
        return "line 1: is nested too deeply, or no template at all"
    return ""


def _forbidden(tree: nodes.Node, known: frozenset[str]) -> str:
    waiting, seen = [(tree, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if seen > MAX_NODES or depth > MAX_DEPTH:
            return f"line {node.lineno or 1}: has too many places and conditions"
        if not isinstance(node, ALLOWED):
            what = type(node).__name__.lower()
            return f"line {node.lineno or 1}: a template has places and conditions, no {what}"
        if isinstance(node, nodes.Name) and node.name not in known:
            return f"line {node.lineno}: {node.name} is none of {', '.join(sorted(known))}"
        if isinstance(node, nodes.Filter) and node.name not in _TEXT.filters:
            return (
                f"line {node.lineno}: {node.name} is none of the filters {', '.join(sorted(_TEXT.filters))}"
            )
        # What stands first in the text is looked at first.
        waiting += [(child, depth + 1) for child in reversed(list(node.iter_child_nodes()))]
    return ""


@lru_cache(maxsize=2000)
def _compiled(source: str, html: bool) -> Compiled:
    return (_HTML if html else _TEXT).from_string(source)


def _line(error: Exception) -> int:
    """The line of the template in which it went wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno or 1 for f in reversed(frames) if f.filename == "<template>"), 1)


def _why(error: Exception) -> str:
    # Of the library's own errors too, no text: it may quote a value.
    return _REASONS.get(type(error), "does not go together with the facts")


_REASONS: Mapping[type[Exception], str] = MappingProxyType(
    {TypeError: "mixes text and numbers, or a filter doesn't fit what it is given"}
)
