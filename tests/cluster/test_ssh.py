"""The same map from workers that are started over ssh."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import Deployed, made
from tests.cluster.services import sshd

pytestmark = pytest.mark.cluster


def test_workers_over_ssh_make_the_same_map(deployed: Deployed, reference: dict[str, str]) -> None:
    with sshd() as login:
        deployed.profile = {"kind": "ssh", "processes": 2, **login}
        deployed.call("run")
    assert made(deployed.job.run) == reference
