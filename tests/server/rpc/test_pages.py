import pytest

from server.domain.errors import InvalidArgument
from server.rpc.pages import Pages

PAGES = Pages(b"k" * 32)
FILTERS = {"program": "p", "member_id": "m", "point_type": ""}
POSITION = ["2024-01-01T00:00:00+00:00", "01890a5d-ac96-774b-bcce-b302099a8057"]
TOKEN = PAGES.encode("ListHistory", FILTERS, POSITION)


def test_a_token_brings_back_its_position() -> None:
    assert PAGES.decode("ListHistory", FILTERS, TOKEN) == POSITION
    assert PAGES.decode("ListHistory", dict(reversed(FILTERS.items())), TOKEN) == POSITION


def test_no_token_is_the_first_page() -> None:
    assert PAGES.decode("ListHistory", FILTERS, "") is None


@pytest.mark.parametrize(
    ("method", "filters", "token"),
    [
        ("ListMembers", FILTERS, TOKEN),
        ("ListHistory", {**FILTERS, "program": "another"}, TOKEN),
        ("ListHistory", {**FILTERS, "point_type": "miles"}, TOKEN),
        ("ListHistory", {"program": "p", "member_id": "m"}, TOKEN),
        ("ListHistory", FILTERS, TOKEN[:-4] + "AAAA"),
        ("ListHistory", FILTERS, TOKEN[:10]),
        ("ListHistory", FILTERS, "!"),
        ("ListHistory", FILTERS, "a"),
        ("ListHistory", FILTERS, "é\0"),
        ("ListHistory", FILTERS, "A" * 100_000),
        ("ListHistory", FILTERS, Pages(b"x" * 32).encode("ListHistory", FILTERS, POSITION)),
    ],
)
def test_a_token_of_another_list_or_of_nobody_is_refused(
    method: str, filters: dict[str, str], token: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PAGES.decode(method, filters, token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
    assert caught.value.violations[0].field == "page_token"
