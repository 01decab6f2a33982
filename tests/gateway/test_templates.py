import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.templates import DEEP, STAR, Literal, Template, TemplateError, Variable, decode, parse

LITERALS = st.text(min_size=1, max_size=4).map(Literal)
NAMES = st.from_regex(re.compile(r"[a-z][a-z0-9_]{0,3}(\.[a-z]{1,3})?", re.ASCII), fullmatch=True)
SINGLE = LITERALS | st.just(STAR)


@st.composite
def templates(draw: st.DrawFn) -> Template:
    """Any template that can be written down."""
    segments: list[Literal | str] = []
    variables: list[Variable] = []
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    for _ in range(draw(st.integers(0, 4))):
        taken = draw(st.lists(SINGLE, min_size=1, max_size=2))
        if names and draw(st.booleans()):
            start = len(segments)
            field = tuple(names.pop().split("."))
            variables.append(Variable(field, start, start + len(taken), len(taken) > 1))
        segments += taken
    if draw(st.booleans()):
        if names:
            variables.append(Variable(tuple(names.pop().split(".")), len(segments), len(segments) + 1, True))
        segments.append(DEEP)
    verb = draw(st.text(min_size=1, max_size=3).filter(lambda text: ":" not in text)) if segments else ""
    return Template(tuple(segments), tuple(variables), verb if draw(st.booleans()) else "")


@given(templates())
def test_what_is_written_is_read_back(template: Template) -> None:
    assert parse(str(template)) == template


@given(st.text(alphabet="/*{}=.:%ab0 ", max_size=12))
def test_any_text_is_a_template_or_a_mistake(text: str) -> None:
    try:
        template = parse(text)
    except TemplateError:
        return
    assert parse(str(template)) == template


@given(value=st.text(min_size=1))
def test_one_segment_takes_any_text(value: str) -> None:
    template = parse("/members/{member_id}")
    path = template.expand({"member_id": value})
    assert path.count("/") == 2
    assert template.capture(path[1:].split("/")) == {"member_id": value}


@given(
    parts=st.lists(
        st.text(alphabet=st.characters(codec="utf-8", exclude_characters="/"), min_size=1), max_size=4
    )
)
def test_several_segments_take_any_texts(parts: list[str]) -> None:
    template = parse("/files/{name=**}:copy")
    path = template.expand({"name": "/".join(parts)})
    raw = path[1:].removesuffix(":copy").split("/")
    assert template.capture(raw) == {"name": "/".join(parts)}


def test_an_encoded_slash_belongs_to_its_segment() -> None:
    assert decode(["a%2Fb%20c"], multiple=False) == "a/b c"
    assert decode(["a%2Fb%20c", "d%2f%C3%A9"], multiple=True) == "a%2Fb c/d%2fé"
    assert decode(["a%2Fb", "c"], multiple=True, fully=True) == "a/b/c"
    assert decode(["a%2Fb"], multiple=True, fully=True) == "a%2Fb"
    assert decode(["a%252Fb", "c"], multiple=True) == "a%2Fb/c"


@pytest.mark.parametrize("raw", ["%", "%4", "%zz", "%ff", "%c3%28"])
def test_what_is_no_encoded_text_is_refused(raw: str) -> None:
    for multiple in (False, True):
        with pytest.raises(ValueError, match=r"percent|codec"):
            decode([raw], multiple=multiple)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", 1), ("a", 1), ("/a/", 4), ("//a", 2), ("/{a", 4), ("/{a=}", 5), ("/{=a}", 3), ("/{a.}", 5),
        ("/{a={b}}", 5), ("/a b", 3), ("/é", 2), ("/a:", 4), ("/a%2", 3), ("/a/**b", 6), ("/a*b", 3),
        ("/{a}b", 5), ("/?a", 2), ("/a}", 3), ("/%ff", 2),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(text: str, place: int) -> None:
    with pytest.raises(TemplateError, match=f"character {place}: "):
        parse(text)


@pytest.mark.parametrize("text", ["/**/a", "/{a=**}/b", "/{a}/{a}", "/{a=b/**/c}"])
def test_what_no_path_can_mean_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(text)):
        parse(text)


def test_a_value_that_does_not_fit_makes_no_path() -> None:
    template = parse("/v1/{name=shelves/*}")
    assert template.expand({"name": "shelves/a b"}) == "/v1/shelves/a%20b"
    for value in ("", "shelves", "books/1", "shelves/", "shelves/1/2"):
        with pytest.raises(ValueError, match="does not fit"):
            template.expand({"name": value})
    with pytest.raises(ValueError, match="wildcard"):
        parse("/*").expand({})
