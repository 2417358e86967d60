"""Where the Planetary Computer keeps the rasters of a collection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pystac_client

from engine.errors import CatalogError
from engine.reader import Bounds, overlap
from engine.trust import Trust, redact, unsigned

PLANETARY_COMPUTER: Final = "https://planetarycomputer.microsoft.com/api/stac/v1"

MASK_SIDECAR: Final = "mask.json"
"""Beside the files of a mask that ``mangroves masks get`` made: licence, citation, definition, checksums."""

_MAX_ITEMS: Final = 10_000


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
        If the API fails twice, or holds nothing there.
    """
    trust.url(api, what="STAC API")
    what = f"collection {collection}"
    when = f"{year}-01-01T00:00:00Z/{year}-12-31T23:59:59Z" if year else None
    found: dict[str, FoundRaster] = {}
    for box in boxes:
        for item in _search(api, collection, box, when):
            properties, bbox = item.get("properties", {}), item.get("bbox")
            begin = properties.get("start_datetime") or properties.get("datetime") or ""
            # A server may ignore a filter it does not know: filter again.
            if (year and not str(begin).startswith(f"{year}-")) or (bbox and not overlap(bbox, box)):
                continue
            href = item.get("assets", {}).get(asset, {}).get("href")
            if not href:
                raise CatalogError(f"{what}: item {str(item.get('id'))[:60]!r} has no asset {asset}")
            href = trust.check(unsigned(href), what=what)
            found[href] = FoundRaster(href, tuple(bbox) if bbox and len(bbox) == 4 else None)
    if not found:
        raise CatalogError(
            f"{what} holds nothing{f' of {year}' if year else ''} in this area",
            fix="check the area (open sea has none) or give a file instead",
        )
    return [found[href] for href in sorted(found)]


def _search(api: str, collection: str, box: Bounds, when: str | None) -> list[dict[str, Any]]:
    """Return all items of a box as dicts; a failed search is tried once more."""
    for attempt in (1, 2):
        try:
            client = pystac_client.Client.open(api, timeout=60)
            search = client.search(collections=[collection], bbox=box, datetime=when, max_items=_MAX_ITEMS)
            return list(search.items_as_dicts())
        except Exception as error:  # the client lets requests', json's and its own errors through
            if attempt == 2:
                raise CatalogError(
                    f"STAC API {api} failed twice ({redact(str(error))[:120]})", fix="try again later"
                ) from None
    raise AssertionError
