"""The same map from a cluster that a dask-gateway server makes."""

from __future__ import annotations

import getpass

import pytest

from tests.cluster.conftest import Deployed, made
from tests.cluster.services import gateway

pytestmark = pytest.mark.cluster


def test_a_cluster_of_a_gateway_makes_the_same_map(deployed: Deployed, reference: dict[str, str]) -> None:
    deployed.env = {**deployed.env, "DASK_GATEWAY__AUTH__KWARGS__USERNAME": getpass.getuser()}
    with gateway(deployed.env) as address:
        deployed.profile = {"kind": "gateway", "address": address, "auth": "basic", "workers": 2}
        deployed.call("run")
    assert made(deployed.job.run) == reference
