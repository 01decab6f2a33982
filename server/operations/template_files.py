"""Templates in files: Laurel's own, and those that programs keep in a folder.

    LANGUAGE/OCCASION.yaml:
        email: {subject: "...", text: "...", html: "..."}
        sms: {text: "..."}

Each channel is a template; channels and parts may be left out.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import yaml

from server.domain.errors import InvalidArgument, Violation, invalid
from server.domain.members import language_code
from server.domain.notifications.occasions import OCCASIONS
from server.domain.notifications.templates import PARTS, Content, Key, Template, languages

OWN = Path(__file__).parents[1] / "templates"


def read_folder(folder: Path) -> Iterator[Template]:
    """Every template of a folder, by path. Raises InvalidArgument, which names the file, and OSError."""
    for path in sorted(folder.glob("*/*.yaml")):
        try:
            contents = read(path.read_text(encoding="utf-8"))
            language = language_code(path.parent.name)
        except UnicodeDecodeError:
            raise invalid(f"{path.parent.name}/{path.name}", "is not UTF-8") from None
        except ValueError as error:
            raise invalid(path.parent.name, str(error)) from None
        except InvalidArgument as error:
            raise invalid(f"{path.parent.name}/{path.name}", error.violations[0].description) from None
        if path.stem not in OCCASIONS:
            raise invalid(f"{path.parent.name}/{path.name}", f"is none of {', '.join(OCCASIONS)}")
        for channel, content in contents.items():
            yield Template(Key(path.stem, channel, language), content)


def read(text: str) -> Mapping[str, Content]:
    """The templates of one file, by channel. Raises InvalidArgument."""
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise invalid("file", f"{where}is no YAML") from None
    if not isinstance(said, dict) or not said.keys() <= PARTS.keys():
        raise invalid("file", f"must hold templates by channel: {', '.join(PARTS)}")
    return {channel: _content(channel, parts) for channel, parts in said.items()}


def _content(channel: str, parts: object) -> Content:
    known = PARTS[channel]
    if not isinstance(parts, dict) or not parts.keys() <= known.keys():
        raise invalid("file", f"{channel} must hold {', '.join(known)}")
    wrong = [name for name, text in parts.items() if not isinstance(text, str)]
    if wrong:
        raise InvalidArgument([Violation("file", f"{channel}.{name} must be text") for name in wrong])
    return Content(**parts)


@cache
def own() -> Mapping[Key, Template]:
    """Laurel's own templates."""
    return MappingProxyType({template.key: template for template in read_folder(OWN)})


def chosen(occasion: str, channel: str, wanted: tuple[str, str], given: Mapping[Key, Template]) -> Template:
    """The template for who wants a language, and whose program has a fallback: the first of ``languages``.

    In each language the program's come before Laurel's own.
    """
    keys = [Key(occasion, channel, language) for language in languages(*wanted)]
    return next(found[key] for key in keys for found in (given, own()) if key in found)
