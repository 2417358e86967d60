"""The same map from workers that are started over ssh."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import Deployed, made
from tests.cluster.services import ROOT, sshd

pytestmark = pytest.mark.cluster


def test_workers_over_ssh_make_the_same_map(deployed: Deployed, reference: dict[str, str]) -> None:
    with sshd() as login:
        more = {"processes": 2, "environment": {"PYTHONPATH": str(ROOT)}}  # a login has an environment of its own
        deployed.profile = {"kind": "ssh", **login, **more}
        deployed.call("run")
    assert made(deployed.job.run) == reference
