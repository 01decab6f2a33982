"""What is hashed is the same bytes, whichever library writes it."""

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from server.domain.canonical_json import canonical, canonical_ascii
from server.domain.ledger import Kind

# What either library might escape or refuse: surrogates are in no UTF-8.
ODD = '\x00\x1f\x7f\x80\u2028\u2029\ud800\udfff\uffff😀"\\/'
texts = some.text(some.characters() | some.sampled_from(ODD))
numbers = some.integers() | some.sampled_from([2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1])
values = some.recursive(
    some.none() | some.booleans() | numbers | texts | some.sampled_from(list(Kind)),
    lambda inner: some.lists(inner) | some.dictionaries(texts, inner) | some.tuples(inner, inner),
)


def written(value: Any, **options: Any) -> bytes:
    """By the standard library."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), **options).encode()


@given(values)
@example([character for character in ODD if character.isprintable()])
@example({character: character for character in ODD})
@example("\x7f")
def test_the_standard_library_would_write_the_same(value: Any) -> None:
    assert canonical_ascii(value) == written(value)
    try:
        expected = written(value, ensure_ascii=False)
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            canonical(value)
    else:
        assert canonical(value) == expected


class Pair(NamedTuple):
    """A tuple that orjson doesn't take."""

    one: str
    other: int


def test_what_is_deep_or_a_named_tuple_is_written_too() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    for value in (deep, Pair("é", 1), {"pair": [Pair("\x7f", 2)]}):
        assert canonical(value) == written(value, ensure_ascii=False)
        assert canonical_ascii(value) == written(value)


@pytest.mark.parametrize("value", [b"", {1, 2}, object()])
def test_what_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical(value)
