"""Path templates as google/api/http.proto defines them: text to segments and back.

    Template = "/" [ Segments [ Verb ] ]        Segment  = "*" | "**" | LITERAL | Variable
    Segments = Segment { "/" Segment }          Variable = "{" FieldPath [ "=" Segments ] "}"
    Verb     = ":" LITERAL                      FieldPath = IDENT { "." IDENT }

Only the grammar: nothing here knows of messages or of HTTP. "/" alone, which the
grammar leaves out, is the template without segments.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

STAR = "*"
DEEP = "**"

_IDENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What RFC 3986 lets stand in a segment. "*" is a wildcard, and braces and "=" are the grammar's own.
_LITERAL = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()+,;:@]|%[0-9A-Fa-f]{2})+")
# Without the colon, which would begin a verb.
_LITERAL_SAFE = "-._~!$&'()+,;@"
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SLASH = re.compile(r"%2[Ff]")


class TemplateError(ValueError):
    """The text is no path template; the message says what is wrong and at which character, from 1."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Text that a segment of the path must be, decoded."""

    text: str


Segment = Literal | str


@dataclass(frozen=True, slots=True)
class Variable:
    """A field and the segments [start, end) of the template whose text it takes.

    ``multiple`` tells whether the variable may take several segments of a path; these
    are encoded in another way than one alone.
    """

    field: tuple[str, ...]
    start: int
    end: int
    multiple: bool

    @property
    def name(self) -> str:
        """The field's path as it stands in the template."""
        return ".".join(self.field)


@dataclass(frozen=True, slots=True)
class Template:
    """A path template. Segments are ``Literal``, ``STAR`` or ``DEEP``, which is always the last."""

    segments: tuple[Segment, ...]
    variables: tuple[Variable, ...]
    verb: str = ""

    @property
    def deep(self) -> bool:
        """Whether it takes any number of segments at its end."""
        return bool(self.segments) and self.segments[-1] == DEEP

    def __str__(self) -> str:
        begins = {variable.start: variable for variable in self.variables}
        parts: list[str] = []
        place = 0
        while place < len(self.segments):
            variable = begins.get(place)
            if variable is None:
                parts.append(_show(self.segments[place]))
                place += 1
                continue
            inner = "/".join(_show(segment) for segment in self.segments[variable.start : variable.end])
            parts.append(f"{{{variable.name}}}" if inner == STAR else f"{{{variable.name}={inner}}}")
            place = variable.end
        return "/" + "/".join(parts) + (f":{_encode(self.verb)}" if self.verb else "")

    def capture(self, raw: Sequence[str], *, fully: bool = False) -> dict[str, str]:
        """The variables' text in the undecoded segments of a path that fits, by their names.

        ``fully`` is Http.fully_decode_reserved_expansion. Raises ValueError for an
        escape that is none, and for bytes that are not UTF-8.
        """
        return {
            variable.name: decode(
                raw[variable.start : None if variable.end == len(self.segments) else variable.end],
                multiple=variable.multiple,
                fully=fully,
            )
            for variable in self.variables
        }

    def expand(self, values: Mapping[str, str]) -> str:
        """The path that has these values, as a client makes it. Raises KeyError for one that is missing.

        ValueError for a value that doesn't fit its part of the template, and for a
        wildcard outside of variables, for which nobody has a value.
        """
        texts = [_encode(segment.text) if isinstance(segment, Literal) else None for segment in self.segments]
        parts: list[str] = []
        place = 0
        begins = {variable.start: variable for variable in self.variables}
        while place < len(self.segments):
            variable = begins.get(place)
            if variable is None:
                text = texts[place]
                if text is None:
                    raise ValueError("a wildcard outside of variables has no value")
                parts.append(text)
                place += 1
                continue
            parts += self._expanded(variable, values[variable.name])
            place = variable.end
        return "/" + "/".join(parts) + (f":{_encode(self.verb)}" if self.verb else "")

    def _expanded(self, variable: Variable, value: str) -> list[str]:
        if not variable.multiple:
            segments = [quote(value, safe="")]
            decoded = [value]
        elif not value:
            segments = decoded = []
        else:
            segments = [quote(part, safe="") for part in value.split("/")]
            decoded = value.split("/")
        if not fits(self.segments[variable.start : variable.end], decoded):
            raise ValueError(f"{value!r} does not fit {variable.name}")
        return segments


def fits(pattern: Sequence[Segment], parts: Sequence[str]) -> bool:
    """Whether decoded segments of a path are what the pattern asks for. A star takes no empty segment."""
    if pattern and pattern[-1] == DEEP:
        pattern = pattern[:-1]
        parts = parts[: len(pattern)]
    return len(pattern) == len(parts) and all(
        part == segment.text if isinstance(segment, Literal) else part != ""
        for segment, part in zip(pattern, parts, strict=True)
    )


def decode(raw: Sequence[str], *, multiple: bool, fully: bool = False) -> str:
    """The value that segments of a path stand for. Raises ValueError for what is no encoded UTF-8.

    What may span segments keeps an encoded slash as it is, so that it differs from one
    between segments; ``fully`` decodes even that where there are several.
    """
    if not multiple:
        return unescape(raw[0])
    text = "/".join(raw)
    if "%" not in text:
        return text
    if fully and len(raw) > 1:
        return unescape(text)
    return "".join(
        piece if _SLASH.fullmatch(piece) else unescape(piece) for piece in re.split(r"(%2[Ff])", text)
    )


def unescape(text: str) -> str:
    """Percent-decoded. Raises ValueError for what is no encoded UTF-8."""
    if "%" not in text:
        return text
    if _ESCAPE.search(text):
        raise ValueError("a percent sign must be followed by two hexadecimal digits")
    return unquote_to_bytes(text).decode("utf-8")


def parse(text: str) -> Template:
    """Read a template. Raises TemplateError."""
    return _Parser(text).template()


class _Parser:
    """Reads a template from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._segments: list[Segment] = []
        self._variables: list[Variable] = []

    def template(self) -> Template:
        self._expect("/", "a template begins with '/'")
        if self._place == len(self._text):
            return Template((), ())
        self._sequence(inside=False)
        verb = self._verb() if self._peek() == ":" else ""
        if self._place < len(self._text):
            raise self._wrong(f"{self._peek()!r} can't stand here")
        if DEEP in self._segments[:-1]:
            raise TemplateError(f"{self._text!r}: '**' must be the last segment")
        names = [variable.name for variable in self._variables]
        for name in names:
            if names.count(name) > 1:
                raise TemplateError(f"{self._text!r}: {name} is bound twice")
        return Template(tuple(self._segments), tuple(self._variables), verb)

    def _sequence(self, *, inside: bool) -> None:
        self._segment(inside=inside)
        while self._peek() == "/":
            self._place += 1
            self._segment(inside=inside)

    def _segment(self, *, inside: bool) -> None:
        sign = self._peek()
        if sign == "*":
            wildcard = DEEP if self._text.startswith(DEEP, self._place) else STAR
            self._place += len(wildcard)
            self._segments.append(wildcard)
        elif sign == "{":
            if inside:
                raise self._wrong("a variable can't hold another")
            self._variable()
        else:
            self._segments.append(Literal(self._literal(last_colon=not inside)))

    def _variable(self) -> None:
        self._place += 1
        field = [self._ident()]
        while self._peek() == ".":
            self._place += 1
            field.append(self._ident())
        start = len(self._segments)
        if self._peek() == "=":
            self._place += 1
            self._sequence(inside=True)
        else:
            self._segments.append(STAR)
        self._expect("}", "a variable ends with '}'")
        taken = self._segments[start:]
        multiple = len(taken) > 1 or taken == [DEEP]
        self._variables.append(Variable(tuple(field), start, len(self._segments), multiple))

    def _literal(self, *, last_colon: bool) -> str:
        """The text of a segment; a colon in the last segment of all begins the verb."""
        found = _LITERAL.match(self._text, self._place)
        if found is None:
            raise self._wrong(
                "a segment is missing"
                if self._peek() in ("", "/", ":", "}")
                else f"{self._peek()!r} can't stand here"
            )
        end = found.end()
        if last_colon and end == len(self._text) and ":" in found[0]:
            end = self._text.rindex(":", self._place, end)
            if end == self._place:
                raise self._wrong("a segment is missing")
        literal = self._text[self._place : end]
        try:
            decoded = unescape(literal)
        except ValueError:
            raise self._wrong("the literal is not UTF-8") from None
        self._place = end
        return decoded

    def _verb(self) -> str:
        self._place += 1
        if self._place == len(self._text):
            raise self._wrong("a verb is missing")
        verb = self._literal(last_colon=False)
        if ":" in verb:
            raise TemplateError(f"{self._text!r}: a verb has no ':' in it")
        return verb

    def _ident(self) -> str:
        found = _IDENT.match(self._text, self._place)
        if found is None:
            raise self._wrong("a field's name is missing")
        self._place = found.end()
        return found[0]

    def _expect(self, sign: str, why: str) -> None:
        if self._peek() != sign:
            raise self._wrong(why)
        self._place += 1

    def _peek(self) -> str:
        return self._text[self._place : self._place + 1]

    def _wrong(self, why: str) -> TemplateError:
        return TemplateError(f"{self._text!r}, character {self._place + 1}: {why}")


def _show(segment: Segment) -> str:
    return _encode(segment.text) if isinstance(segment, Literal) else segment


def _encode(text: str) -> str:
    return quote(text, safe=_LITERAL_SAFE)
