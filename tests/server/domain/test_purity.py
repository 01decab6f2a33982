"""The domain is pure: it imports what computes, and nothing that looks at the world."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES = sorted((ROOT / "server" / "domain").rglob("*.py"))
# Of the standard library, what has no input or output, no clock and no randomness. Zones are the exception:
# their rules are read from files, and are the same for everybody.
PURE = frozenset(
    {
        "base64",
        "collections",
        "collections.abc",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
        "enum",
        "fnmatch",
        "functools",
        "hashlib",
        "hmac",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "re",
        "types",
        "typing",
        "urllib.parse",
        "uuid",
        "zoneinfo",
    }
)
# What these modules have that is not pure, as it would be called.
IMPURE = frozenset(
    {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "uuid.uuid1", "uuid.uuid4"}
)
# The one library that the domain takes: it writes bytes for values, and a test holds it to those of ``json``.
BESIDE = {"canonical_json.py": {"orjson"}}


def imported(tree: ast.AST) -> Iterator[str]:
    """The names of the modules, and of what is taken out of uuid."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield str(node.module)
            if node.module == "uuid":
                assert {alias.name for alias in node.names} == {"UUID"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "server" / "domain")))
def test_a_module_of_the_domain_imports_only_what_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text())
    foreign = {name for name in imported(tree) if name not in PURE and not name.startswith("server.domain")}
    assert foreign == BESIDE.get(path.name, set())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called & IMPURE == set()
    assert called.isdisjoint({"open", "print", "input"})
