"""What templates may hold, and what comes of them."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import InvalidArgument
from server.domain.notifications.occasions import OCCASIONS
from server.domain.notifications.templates import PARTS, Content, Key, Template
from server.operations import template_files
from server.operations.rendering import RenderingError, example, mistakes, names, render

EMAIL = Key("points_earned", "email", "en")
SMS = Key("points_earned", "sms", "en")
PLAIN = Content(subject="Points", text="Text")


def said(text: str, key: Key = SMS, **facts: str | int) -> str:
    return render(key, Content(text=text), {**example(key.occasion), **facts}).text


def refused(text: str, part: str = "text", key: Key = EMAIL) -> str:
    found = mistakes(key, replace(PLAIN, **{part: text}))
    assert [violation.field for violation in found] == [part]
    return found[0].description


@pytest.mark.parametrize("key", template_files.own(), ids=".".join)
def test_laurels_own_templates_are_as_good_as_a_programs(key: Key) -> None:
    assert mistakes(key, template_files.own()[key].content) == []


def test_laurel_has_templates_of_its_own_for_everything_in_two_languages() -> None:
    assert set(template_files.own()) == {
        Key(occasion, channel, language)
        for occasion in OCCASIONS
        for channel in PARTS
        for language in ("en", "hi")
    }


def test_figures_and_days_are_written_as_the_language_does() -> None:
    text = "{{ points|number }}"
    assert said(text, points=1234567) == "1,234,567"
    assert said(text, Key("points_earned", "sms", "hi-IN"), points=1234567) == "12,34,567"
    assert said(text, Key("points_earned", "sms", "de"), points=1234567) == "1.234.567"
    assert said(text, Key("points_earned", "sms", "tlh"), points=1234567) == "1,234,567"
    day = "{{ expires_on|date }}"
    assert said(day, Key("points_expiring", "sms", "en")) == "December 31, 2026"
    assert said(day, Key("points_expiring", "sms", "hi")) == "31 दिसंबर 2026"


def test_what_is_written_into_html_is_escaped_and_elsewhere_it_is_not() -> None:
    content = Content(subject="{{ given_name }}", text="{{ given_name }}", html="<p>{{ given_name }}</p>")
    found = render(EMAIL, content, {**example("points_earned"), "given_name": "<b>A & B</b>"})
    assert found.subject == found.text == "<b>A & B</b>"
    assert found.html == "<p>&lt;b&gt;A &amp; B&lt;/b&gt;</p>"


@pytest.mark.parametrize("break_", ["\r\nBcc: x@example.com", "\n", "\v", "\f", "\x85", "\u2028"])
def test_a_subject_is_one_line_whatever_a_name_holds(break_: str) -> None:
    content = replace(PLAIN, subject="Hello {{ given_name }}")
    found = render(EMAIL, content, {**example("points_earned"), "given_name": f"A{break_}B"})
    assert len(found.subject.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Hello\n{{ surname }}", "line 2: surname is none of given_name, points, program, times"),
        ("{{ points|map }}", "line 1: map is none of the filters"),
        ("a\nb\n{% if points %}", "line 3: Unexpected end of template"),
        ("{{ given_name|safe }}", "line 1: safe is none of the filters"),
        ("{{ points - given_name }}", "line 1: mixes text and numbers"),
        ("\n{{ given_name|date }}", "line 2: does not go together with the facts"),
        ("{% for i in (1,2) %}{% endfor %}", "no for"),
        ("{% set a = 'x' %}", "no assign"),
        ("{% macro m() %}{% endmacro %}", "no macro"),
        ("{% include 'x' %}", "no include"),
        ("{% autoescape false %}{{ given_name }}{% endautoescape %}", "no "),
        ("{{ given_name.__class__ }}", "no getattr"),
        ("{{ given_name['__class__'] }}", "no getitem"),
        ("{{ ''.join('a') }}", "no "),
        ("{{ range(9) }}", "no call"),
        ("{{ self }}", "self is none of"),
        ("{{ 'a' * 1000000000 }}", "no mul"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "no pow"),
        ("{{ '%999999999d' % 1 }}", "no mod"),
        ("{{ 9999999999 // 1 }}", "no floordiv"),
        ("{{ given_name|replace('', given_name) }}", "replace is none of the filters"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "line 1"),
        ("{{ 1 " + "+ 1 " * 3000 + "}}", "line 1"),
        ("{{ " + "not " * 3000 + "1 }}", "line 1"),
        ("{{ 1 }}" * 2000, "line 1: has too many places"),
        ("x" * 16_001, "must be at most 16,000 characters"),
        ("a\x00b", "must not contain control characters"),
        ("  ", "line 1: comes to nothing"),
        ("{% if given_name %}x{% endif %}", "line 1: comes to nothing"),
        ("", "needs it"),
    ],
)
def test_a_template_holds_places_and_conditions_alone(text: str, why: str) -> None:
    assert why in refused(text)


def test_a_part_that_a_channel_has_not_is_refused() -> None:
    found = mistakes(SMS, replace(PLAIN, html="x"))
    assert [violation.field for violation in found] == ["subject", "html"]


def test_what_comes_of_it_is_bounded_too() -> None:
    with pytest.raises(RenderingError, match="comes to more than 1,000 characters"):
        said("{{ given_name }}" * 100, given_name="long" * 10)


def test_a_fault_names_no_value() -> None:
    with pytest.raises(RenderingError) as found:
        said("{{ given_name - 1 }}", given_name="Sushmita")
    assert "Sushmita" not in str(found.value)
    assert found.value.__cause__ is None


PIECES = st.sampled_from(
    [
        *(
            "{{ ",
            " }}",
            "{% if ",
            " %}",
            "{% else %}",
            "{% endif %}",
            "(",
            ")",
            "|number",
            "|truncate(9)",
            "|title",
        ),
        *(
            "points",
            "given_name",
            " ~ ",
            " + ",
            " - ",
            " < ",
            " and ",
            "'x'",
            "1",
            "\n",
            "<p>",
            "[",
            "]",
            ",",
        ),
        *("|default('y', true)", ".a", "|upper", "{# ", " #}", "|date", "not ", " in ", " if ", " else "),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_whatever_is_taken_renders_or_is_refused_with_a_line(text: str) -> None:
    for violation in mistakes(EMAIL, replace(PLAIN, text=text, html=text)):
        assert violation.description.startswith(("line ", "needs it", "a template"))


@pytest.mark.parametrize(
    ("wanted", "fallback", "found"),
    [
        ("hi-IN", "en", "program hi-IN"),
        ("hi", "en", "laurel hi"),
        ("hi-Latn", "en", "laurel hi"),
        ("", "hi", "laurel hi"),
        ("sv-FI", "de", "program sv"),
        ("fr", "de-AT", "program de"),
        ("fr", "pl", "laurel en"),
    ],
)
def test_a_language_is_looked_for_from_the_special_to_the_general(
    wanted: str, fallback: str, found: str
) -> None:
    given_ = {
        key: Template(key, PLAIN, 1)
        for key in (Key("welcome", "inbox", language) for language in ("hi-IN", "sv", "de"))
    }
    template = template_files.chosen("welcome", "inbox", (wanted, fallback), given_)
    assert f"{'program' if template.version else 'laurel'} {template.key.language}" == found


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        ("en/party.yaml", "sms: {text: x}", "party.yaml: is none of welcome"),
        ("x y/welcome.yaml", "sms: {text: x}", "must be a BCP 47 language tag"),
        ("en/welcome.yaml", "fax: {text: x}", "templates by channel: email, sms, push, inbox"),
        ("en/welcome.yaml", "sms: {subject: x}", "sms must hold text"),
        ("en/welcome.yaml", "sms:\n  text: 'x", "welcome.yaml: line 2: is no YAML"),
        ("en/welcome.yaml", "sms: {text: 7}", "sms.text must be text"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, path: str, text: str, why: str) -> None:
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=why):
        list(template_files.read_folder(tmp_path))


def test_every_fact_has_a_name_of_its_own() -> None:
    for occasion in OCCASIONS.values():
        assert names(occasion.name) == {*occasion.example, "given_name", "program"}
