"""The same map from a catalog in PostgreSQL, searched and paged through its STAC API; and a run's own catalog."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import requests

from tests.cluster.conftest import Deployed, made
from tests.cluster.services import stac_catalog
from tests.stac_api import collection_document

pytestmark = pytest.mark.cluster

CLOUDY = 60
"""Of every scene so many cloudy ones of the same days, so that there is more than a page of 250."""


def test_a_catalog_in_postgresql_gives_the_same_map(deployed: Deployed, reference: dict[str, str]) -> None:
    scenes = json.loads(deployed.job.archive.items.read_text())["features"]
    for item in scenes:
        for asset in item["assets"].values():
            asset["href"] = str(deployed.job.archive.items.parent / asset["href"])
    items = [cloudy(item, number) for item in scenes for number in range(CLOUDY)] + scenes
    names = sorted({item["collection"] for item in items})
    with stac_catalog([collection_document(name) for name in names], items) as catalog:
        deployed.job.config["search"] = {"catalogs": [catalog.url], "max_cloud": 95}
        deployed.call("run", "--allow-host", catalog.url.removeprefix("http://"))
        asked = [line for line in catalog.log.read_text().splitlines() if "/search" in line]
    assert made(deployed.job.run) == reference
    assert len(asked) >= len(items) / 250, asked
    assert all(" 200 " in f"{line} " for line in asked), asked


def test_the_catalog_of_a_run_is_searched_in_a_real_stac_api(deployed: Deployed) -> None:
    deployed.call("run")
    found = [json.loads(path.read_text()) for path in sorted((deployed.job.run / "stac").rglob("*.json"))]
    collections, items = ([one for one in found if one["type"] == kind] for kind in ("Collection", "Feature"))
    maps = [item for item in items if item["collection"] == "tiny-maps"]
    box, year = maps[0]["bbox"], maps[0]["properties"]["mangroves:years"][0]
    with stac_catalog(collections, items) as catalog:

        def search(**asked: Any) -> list[dict[str, Any]]:
            answer = requests.post(f"{catalog.url}/search", json={"limit": 1000, **asked}, timeout=60)
            assert answer.status_code == 200, answer.text
            return answer.json()["features"]

        assert {(one["collection"], one["id"]) for one in search()} == {(one["collection"], one["id"]) for one in items}
        of_maps = search(collections=["tiny-maps"], sortby=[{"field": "id", "direction": "desc"}])
        assert [one["id"] for one in of_maps] == sorted((one["id"] for one in maps), reverse=True)
        there = search(collections=["tiny-maps"], bbox=box, datetime=f"{year}-03-01T00:00:00Z/{year}-04-01T00:00:00Z")
        assert [one["id"] for one in there] == [maps[0]["id"]]
        assert there[0]["assets"]["class"]["file:checksum"] == maps[0]["assets"]["class"]["file:checksum"]
        assert there[0]["properties"]["mangroves:sha256"] == maps[0]["properties"]["mangroves:sha256"]
        assert search(collections=["tiny-maps"], datetime="1990-01-01T00:00:00Z/1990-12-31T00:00:00Z") == []
        assert search(collections=["tiny-maps"], bbox=[-10, 50, -9, 51]) == []
        [model] = search(ids=[one["id"] for one in items if one["collection"] == "tiny-models"][:1])
        assert model["properties"]["mlm:framework"] == "XGBoost"


def cloudy(item: dict[str, Any], number: int) -> dict[str, Any]:
    other = copy.deepcopy(item)
    other["id"] = f"{item['id']}-{number:03d}"
    other["properties"]["eo:cloud_cover"] = 99.0
    return other
