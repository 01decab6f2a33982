"""The document and the page to try it in, without anything from elsewhere."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette

from gateway.openapi.page import pages

made: list[int] = []


def document() -> dict[str, str]:
    made.append(1)
    return {"openapi": "3.1.1", "title": "é"}


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    made.clear()
    transport = ASGITransport(Starlette(routes=pages(document, {"name": "Shop", "version": "1"})))
    async with AsyncClient(transport=transport, base_url="http://shim") as client:
        yield client


class Links(HTMLParser):
    """Everything that a page loads, and scripts that stand in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        link = named.get("src") or named.get("href")
        if link:
            self.links.append(link)
        elif tag in {"script", "style"} or "style" in named:
            self.inline += 1


async def test_the_document_is_made_once_and_asked_for_again_by_its_tag(client: AsyncClient) -> None:
    assert not made
    first = await client.get("/openapi.json")
    assert (first.status_code, first.headers["content-type"]) == (200, "application/json")
    assert first.json()["title"] == "é"
    again = await client.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert len(made) == 1


async def test_the_front_says_what_this_is_and_where_to_read_on(client: AsyncClient) -> None:
    front = await client.get("/")
    assert front.headers["content-type"] == "application/json"
    told = front.json()
    assert (told.pop("name"), told.pop("version")) == ("Shop", "1")
    assert set(told) == {"docs", "openapi"}
    for link in told.values():
        assert (await client.get(link)).status_code == 200
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == front.headers["content-length"]


async def test_the_page_loads_only_what_is_here(client: AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    found = Links(page.text)
    assert len(found.links) == 4
    assert not found.inline
    for link in found.links:
        asset = await client.get("/" + link)
        assert asset.status_code == 200, link
        assert asset.headers["x-content-type-options"] == "nosniff"
        if link.endswith(".css"):
            assert not re.search(r"@import|url\((?!['\"]?data:)", asset.text)
    assert "validatorUrl: null" in (await client.get("/docs/start.js")).text


async def test_the_page_may_run_and_reach_nothing_else(client: AsyncClient) -> None:
    policy = dict(
        part.split(" ", 1)
        for part in (await client.get("/docs")).headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("path", ["/docs/", "/docs/../gateway", "/docs/LICENSE", "/docs/start.js/x"])
async def test_nothing_else_is_served(client: AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code in {404, 307}
