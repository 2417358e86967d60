"""Where the Planetary Computer keeps the rasters of a collection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from pystac_client import ItemSearch
from pystac_client.stac_api_io import StacApiIO

from engine.align import Bounds, overlap
from engine.errors import CatalogError
from engine.trust import Trust, unsigned
from engine.web import Web

PLANETARY_COMPUTER: Final = "https://planetarycomputer.microsoft.com/api/stac/v1"

MASK_SIDECAR: Final = "mask.json"
"""Beside the files of a mask that ``mangroves masks get`` made: licence, citation, definition, checksums."""

_PAGE_ITEMS: Final = 250
_MAX_PAGES: Final = 1_000
_MAX_ITEMS: Final = 10_000
"""Of one box."""


class FoundRaster(NamedTuple):
    """A raster somebody keeps: where, and what it covers."""

    href: str
    """Unsigned."""

    bounds: Bounds | None
    """Degrees; None where it is not known without opening it."""


def planetary_rasters(
    collection: str,
    asset: str,
    boxes: Sequence[Bounds],
    *,
    trust: Trust,
    year: int | None = None,
    api: str = PLANETARY_COMPUTER,
) -> list[FoundRaster]:
    """Find the rasters of a collection that touch some boxes.

    Parameters
    ----------
    collection, asset : str
    boxes : sequence of (west, south, east, north)
        Degrees, none across the antimeridian.
    trust : Trust
    year : int, optional
        Only items that begin in this year.
    api : str
        A STAC API.

    Returns
    -------
    list of FoundRaster
        Sorted by href, each once.

    Raises
    ------
    CatalogError
        If the API does not answer, or not with items that have the asset, or holds nothing there.
    TrustError
        If the API, a page it links to, or a raster is at an address that is not allowed.
    """
    what = f"collection {collection}"
    # pystac-client takes what is no URL for a file of this machine.
    api = trust.url(api, what=what).rstrip("/")
    web = Web(trust)
    search: dict[str, Any] = {"collections": [collection], "limit": _PAGE_ITEMS}
    if year:
        search["datetime"] = f"{year}-01-01T00:00:00Z/{year}-12-31T23:59:59Z"
    found: dict[str, FoundRaster] = {}
    for box in boxes:
        pages = _Pages(web, f"{api}/search", what)
        try:
            for item in ItemSearch(pages.url, stac_io=pages, bbox=box, **search).items_as_dicts():
                bounds = tuple(item["bbox"]) if len(item.get("bbox") or ()) == 4 else None
                begin = item["properties"].get("start_datetime") or item["properties"].get("datetime")
                # A server may ignore a filter it does not know: filter again.
                if item.get("collection", collection) != collection or (bounds and not overlap(bounds, box)):
                    continue
                if year and not str(begin).startswith(f"{year}-"):
                    continue
                href = item["assets"].get(asset, {}).get("href")
                if not href:
                    raise CatalogError(f"{what}: item {str(item.get('id'))[:60]!r} has no asset {asset}")
                href = trust.check(unsigned(href), what=what)
                found[href] = FoundRaster(href, bounds)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise CatalogError(
                f"{what}: {urlsplit(api).netloc} sent what is no STAC item ({type(error).__name__})",
                fix="check the address, or give a file instead",
            ) from error
    if not found:
        raise CatalogError(
            f"{what} holds nothing{f' of {year}' if year else ''} in this area",
            fix="check the area (open sea has none) or give a file instead",
        )
    return [found[href] for href in sorted(found)]


class _Pages(StacApiIO):
    """Gets for pystac-client, through ``Web``, the pages of one search: addresses checked, size and number bounded."""

    def __init__(self, web: Web, url: str, what: str) -> None:
        super().__init__()
        self.web = web
        self.url = url
        self.what = what
        self.items = 0
        self.asked: set[str] = set()

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Return one page as text; headers that a link wants sent are not."""
        url, body = urljoin(self.url, href), parameters if method == "POST" else None
        host = urlsplit(url).netloc
        page = self.web.json(url, what=self.what, body=body)
        features = page.get("features") if isinstance(page, dict) else None
        if not isinstance(features, list):
            raise CatalogError(f"{self.what}: answer of {host} holds no features", fix="check the address")
        self.items += len(features)
        asked = f"{url} {json.dumps(body, sort_keys=True)}"
        if asked in self.asked or len(self.asked) >= _MAX_PAGES or self.items > _MAX_ITEMS:
            fix = "ask for a smaller area, or give a file instead"
            raise CatalogError(f"{self.what}: the pages of {host} repeat or do not end", fix=fix)
        self.asked.add(asked)
        return json.dumps(page)
