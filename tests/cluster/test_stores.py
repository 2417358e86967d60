"""The same map written into a bucket of S3 and into a container of Azure's blobs."""

from __future__ import annotations

import os

import pytest

from engine.places import ObjectPath
from tests.cluster.conftest import Deployed, made
from tests.cluster.services import ROOT

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("home", ["bucket", "container"])
def test_a_store_holds_the_same_map(
    deployed: Deployed, reference: dict[str, str], home: str, request: pytest.FixtureRequest
) -> None:
    place: ObjectPath = request.getfixturevalue(home)
    deployed.env = {**os.environ, "PYTHONPATH": str(ROOT)}  # with what the fixture set
    deployed.job.config["store"] = str(place / "mangroves")
    deployed.call("run", "--allow-root", str(place / "mangroves"))
    assert made(place / "mangroves" / "tiny") == reference
    assert not [path for path in deployed.job.run.rglob("*") if path.suffix in (".zarr", ".tif")]
