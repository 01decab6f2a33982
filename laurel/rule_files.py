"""Rules in files: YAML (and so JSON) into plain definitions, exactly as written.

A file holds documents. Each is an object with ``event_types`` and ``rules``, or a list of
rules, or one rule.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from laurel.failures import Failure
from server.domain.errors import InvalidArgument
from server.domain.rules.canonical import canonical

PARTS = ("event_types", "rules")
EVENT_TYPE_KEYS = ("name", "attributes", "description")


class Exact(yaml.SafeLoader):
    """Reads YAML without its guesses: `100.00` and `2026-11-01` stay text, `no` and `17:00` too.

    A key that stands twice is a mistake, not the second value.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the parent declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """An object whose keys differ."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"-?(0|[1-9][0-9]{0,17})", list("-0123456789")),
    ("merge", r"<<", ["<"]),
):
    Exact.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


@dataclass(frozen=True, slots=True)
class RuleFile:
    """What files ask for: definitions by name of rule and event types by name, both as written."""

    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    event_types: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read(path: Path) -> RuleFile:
    """The file's content. Raises Failure with every mistake that shows without a server."""
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), Exact))
    except UnicodeDecodeError:
        raise Failure(f"{path}: is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise Failure(f"{path}: is not YAML: {_why(error)}") from None
    except RecursionError:
        raise Failure(f"{path}: is nested too deeply") from None
    mistakes: list[str] = []
    rules: dict[str, Mapping[str, Any]] = {}
    event_types: dict[str, Mapping[str, Any]] = {}
    for document in documents:
        definitions, declared = _parts(document, mistakes)
        for definition in definitions:
            _add_rule(definition, rules, mistakes)
        for event_type in declared:
            _add_event_type(event_type, event_types, mistakes)
    if not mistakes and not rules and not event_types:
        mistakes.append("there are no rules in it")
    if mistakes:
        raise Failure("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return RuleFile(rules, event_types)


def _why(error: yaml.YAMLError) -> str:
    """What is wrong with a text, and where."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _parts(document: Any, mistakes: list[str]) -> tuple[list[Any], list[Any]]:
    """The rules and the event types of one document."""
    if document is None:
        return [], []
    if isinstance(document, list):
        return document, []
    if not isinstance(document, dict):
        mistakes.append("a document is a list of rules, or has `rules` and `event_types`")
        return [], []
    if "rule" in document:
        return [document], []
    for key in document:
        if key not in PARTS:
            mistakes.append(f"{key}: is unknown; known are {', '.join(PARTS)}")
    parts = {part: document.get(part) or [] for part in PARTS}
    for part, content in parts.items():
        if not isinstance(content, list):
            mistakes.append(f"{part}: must be a list")
            parts[part] = []
    return parts["rules"], parts["event_types"]


def _add_rule(definition: Any, rules: dict[str, Mapping[str, Any]], mistakes: list[str]) -> None:
    name = definition.get("rule", "without a name") if isinstance(definition, dict) else "that is no object"
    try:
        canonical(definition)
    except InvalidArgument as refused:
        mistakes.extend(f"rule {name}: {v.field}: {v.description}" for v in refused.violations)
        return
    if name in rules:
        mistakes.append(f"rule {name}: stands there twice")
    rules[name] = definition


def _add_event_type(event_type: Any, known: dict[str, Mapping[str, Any]], mistakes: list[str]) -> None:
    """Names and types are the server's to check; here only that there are some."""
    if not isinstance(event_type, dict) or not isinstance(event_type.get("name"), str):
        mistakes.append("event_types: each has a name, attributes and a description")
        return
    name = event_type["name"]
    attributes = event_type.get("attributes") or {}
    for key in event_type:
        if key not in EVENT_TYPE_KEYS:
            mistakes.append(f"event type {name}: {key}: is unknown; known are {', '.join(EVENT_TYPE_KEYS)}")
    if not isinstance(attributes, dict) or not all(
        isinstance(part, str) for pair in attributes.items() for part in pair
    ):
        mistakes.append(f"event type {name}: attributes: must be names with string, number or boolean")
    elif not isinstance(event_type.get("description", ""), str):
        mistakes.append(f"event type {name}: description: must be text")
    elif name in known:
        mistakes.append(f"event type {name}: stands there twice")
    else:
        known[name] = {
            "name": name,
            "attributes": attributes,
            "description": event_type.get("description", ""),
        }
