import pytest

from laurel.failures import Failure
from laurel.imports.columns import match
from laurel.imports.newcomers import TARGET
from laurel.imports.table import Row


def test_obvious_headings_find_their_fields() -> None:
    header = [
        "E-Mail",
        "Vorname",
        "Last Name",
        "Mobile-Number",
        "PLZ",
        "card_numbers",
        "attributes.Size",
        "X",
    ]
    columns = match(TARGET, header, [])
    assert columns.places == {
        "email": [0],
        "given_name": [1],
        "family_name": [2],
        "phone": [3],
        "address.postal_code": [4],
        "card_numbers": [5],
        "attributes.Size": [6],
    }
    assert columns.left_out == ["X"]


def test_what_is_told_counts_before_what_is_guessed() -> None:
    columns = match(
        TARGET, ["email", "work mail", "phone"], [("email", "work mail"), ("tags", "email"), ("phone", "")]
    )
    assert columns.places == {"email": [1], "tags": [0]}
    assert columns.left_out == ["phone"]


def test_several_columns_fill_a_list() -> None:
    given = [("card_numbers", "Card 1"), ("card_numbers", "Card 2")]
    columns = match(TARGET, ["Card 1", "Card 2"], given)
    assert columns.texts(Row(2, [" 4711 ", ""]), "card_numbers") == ["4711"]
    assert columns.texts(Row(3, ["4711", "'=1"]), "card_numbers") == ["4711", "=1"]


@pytest.mark.parametrize(
    ("header", "given", "message"),
    [
        (["phone", "mobile"], [], "phone could be any of phone, mobile"),
        (["a", "a"], [], "two columns are headed 'a'"),
        (["a"], [("nonsense", "a")], "there is no such field; there is given_name"),
        (["a"], [("attributes.", "a")], "there is no such field"),
        (["a"], [("email", "b")], "no column is headed 'b'; there is a"),
        (["a"], [], "no column's heading is a field's; say with --map"),
        (["a", "b"], [("email", "a"), ("email", "b")], "email could be any of a, b"),
    ],
)
def test_what_is_not_clear_is_asked(header: list[str], given: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(Failure) as refused:
        match(TARGET, header, given)
    assert message in refused.value.message
