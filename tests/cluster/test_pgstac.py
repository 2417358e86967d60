"""The same map from a catalog in PostgreSQL, searched and paged through its STAC API."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

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


def cloudy(item: dict[str, Any], number: int) -> dict[str, Any]:
    other = copy.deepcopy(item)
    other["id"] = f"{item['id']}-{number:03d}"
    other["properties"]["eo:cloud_cover"] = 99.0
    return other
