"""Finding the rasters of a collection, by servers friendly and hostile."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from engine import lookup, web
from engine.errors import CatalogError, TrustError
from engine.lookup import FoundRaster, planetary_rasters
from engine.trust import Trust
from tests.engine.loopback import Call, Loopback, Reply

Serve = Callable[[Callable[[Call], Reply]], Loopback]
Item = dict[str, Any]
BOX = (105.0, 8.0, 106.0, 9.0)
STORE = "https://elevationeuwest.blob.core.windows.net/dem"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr(web, "_FIRST_WAIT_S", 0.003)
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(Loopback(answer).running())


def item(name: str, **given: Any) -> Item:
    return {
        "type": "Feature",
        "id": name,
        "collection": "dem",
        "bbox": list(BOX),
        "properties": {"datetime": "2021-04-22T00:00:00Z"},
        "assets": {"data": {"href": f"{STORE}/{name}.tif?sig=abc"}},
        **given,
    }


def page(*items: Any, **following: Any) -> Reply:
    links = [{"rel": "next", **following}] if following else []
    return Reply(body={"type": "FeatureCollection", "features": list(items), "links": links})


def find(server: Loopback, *boxes: tuple[float, float, float, float], year: int | None = None) -> list[FoundRaster]:
    return planetary_rasters("dem", "data", boxes or [BOX], trust=server.trust, year=year, api=server.url)


def names(found: list[FoundRaster]) -> list[str]:
    return [raster.href.removeprefix(f"{STORE}/") for raster in found]


def test_rasters_are_found_once_unsigned_and_in_order(serve: Serve) -> None:
    far = (150.0, -20.0, 151.0, -19.0)
    replies = iter([page(item("b"), item("a", bbox=[105, 8, 0, 106, 9, 9])), page(item("c", bbox=far), item("d"))])
    server = serve(lambda call: next(replies))
    found = find(server, BOX, far)
    assert found == [
        FoundRaster(f"{STORE}/a.tif", None),
        *(FoundRaster(f"{STORE}/{n}.tif", b) for n, b in [("b", BOX), ("c", far)]),
    ]
    assert [call.path for call in server.calls] == ["/search"] * 2
    assert server.calls[1].body == {"collections": ["dem"], "limit": 250, "bbox": list(far)}


def test_what_a_server_did_not_filter_is_filtered_here(serve: Serve) -> None:
    span = {"datetime": None, "start_datetime": "2020-01-01T00:00:00Z", "end_datetime": "2020-12-31T00:00:00Z"}
    others = [item("b"), item("c", properties=span, bbox=[0, 0, 1, 1]), item("d", properties=span, collection="x")]
    server = serve(lambda call: page(item("a", properties=span), *others))
    assert names(find(server, year=2020)) == ["a.tif"]
    assert server.calls[0].body["datetime"] == "2020-01-01T00:00:00Z/2020-12-31T23:59:59Z"
    with pytest.raises(CatalogError, match="collection dem holds nothing of 2019 in this area; check the area"):
        find(server, year=2019)


def test_pages_are_followed_by_get_and_post(serve: Serve) -> None:
    def answer(call: Call) -> Reply:
        if call.number == 1:
            return page(item("a"), href=f"{server.url}/search", method="POST", body={"token": "2"}, merge=True)
        if call.number == 2:
            return page(item("b"), href="/search?token=3", headers={"Key": "k"})
        return page(item("c"))

    server = serve(answer)
    assert names(find(server)) == ["a.tif", "b.tif", "c.tif"]
    assert [(call.method, call.path) for call in server.calls[1:]] == [("POST", "/search"), ("GET", "/search?token=3")]
    assert server.calls[1].body == {**server.calls[0].body, "token": "2"}
    assert "key" not in server.calls[2].headers


@pytest.mark.parametrize("href", ["https://evil.example/search", "http://127.0.0.1:9/search", "file:///etc/passwd"])
def test_a_next_link_redirect_or_raster_elsewhere_is_refused(serve: Serve, href: str) -> None:
    for reply in (
        page(item("a"), href=href),
        page(item("a"), href=href, method="POST", body={}),
        Reply(302, headers={"Location": href}),
        page(item("a", assets={"data": {"href": href}})),
    ):
        server = serve(lambda call, reply=reply: reply)  # type: ignore[misc]
        with pytest.raises(TrustError, match=r"collection dem: .* is not allowed"):
            find(server)
        assert len(server.calls) == 1


@pytest.mark.parametrize("api", ["https://example.com/stac", "/etc", "file:///etc"])
def test_an_api_that_is_not_allowed_is_not_asked(api: str) -> None:
    with pytest.raises(TrustError, match=r"collection dem: .* is not allowed"):
        planetary_rasters("dem", "data", [BOX], trust=Trust(), api=api)


def test_a_fault_that_passes_is_waited_out(serve: Serve) -> None:
    server = serve(lambda call: Reply(503) if call.number < 3 else page(item("a")))
    assert names(find(server)) == ["a.tif"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(404), r"collection dem: no answer from 127\.0\.0\.1:\d+ \(HTTP 404\); check the address, or try later$"),
        (Reply(500), r"collection dem: no answer from .* \(HTTP 500, tried 6 times\)"),
        (Reply(body=b"<html>"), "answer is not JSON"),
        (Reply(body=b"[]"), "answer of .* holds no features; check the address"),
        (Reply(body={"type": "Catalog"}), "holds no features"),
        (page(), "collection dem holds nothing in this area"),
        (page(3), r"sent what is no STAC item \(AttributeError\)"),
        (page(item("a", bbox=["x"] * 4)), r"sent what is no STAC item \(TypeError\)"),
        (page(item("a", assets=None)), "sent what is no STAC item"),
        (page(item("a", assets={"photo": {}})), "item 'a' has no asset data"),
        (page(item("a"), method="GET"), r"sent what is no STAC item \(KeyError\)"),
    ],
)
def test_what_is_no_answer_ends_in_one_line(serve: Serve, reply: Reply, message: str) -> None:
    server = serve(lambda call: reply)
    with pytest.raises(CatalogError, match=message) as caught:
        find(server)
    assert "\n" not in str(caught.value)
    assert "HTTPConnectionPool" not in str(caught.value)


def test_pages_that_repeat_or_do_not_end_are_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda call: page(item("a"), href="/search?token=1"))
    with pytest.raises(CatalogError, match=rf"the pages of {server.host} repeat or do not end; ask for a smaller area"):
        find(server)
    assert len(server.calls) == 3
    tokens = itertools.count()
    server = serve(lambda call: page(item("a"), href=f"/search?token={next(tokens)}"))
    monkeypatch.setattr(lookup, "_MAX_PAGES", 5)
    with pytest.raises(CatalogError, match="repeat or do not end"):
        find(server)
    assert len(server.calls) == 6
    monkeypatch.setattr(lookup, "_MAX_ITEMS", 3)
    server = serve(lambda call: page(*[item("a")] * 4))
    with pytest.raises(CatalogError, match="repeat or do not end"):
        find(server)
