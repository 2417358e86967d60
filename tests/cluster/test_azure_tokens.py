"""The same map from blobs that want signatures of 20 seconds, through the real planetary-computer SDK."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.azure import AzureTokens, blob_storage
from tests.cluster.conftest import Deployed, made
from tests.integration.loopback import environment, serving, write_items

pytestmark = pytest.mark.cluster

LIFETIME_S = 20.0
LATENCY_S = 1.0


@pytest.mark.timeout(500)
def test_tokens_of_20_seconds_outlast_a_run_of_many_lifetimes(
    deployed: Deployed, reference: dict[str, str], tmp_path: Path
) -> None:
    folder = deployed.job.archive.items.parent
    with blob_storage(LATENCY_S) as blobs:
        blobs.put(folder)
        tokens = AzureTokens(blobs, LIFETIME_S)
        items = write_items(deployed.job.archive.items, blobs.host, tmp_path / "items.json")
        deployed.job.config["search"] = {"catalogs": [str(items)]}
        deployed.job.config["cube"] = {"requests": 1}  # one after the other, so that it takes long
        signed = environment(tmp_path / "site", tokens, blobs)
        path = f"{signed['PYTHONPATH']}:{deployed.env['PYTHONPATH']}"
        deployed.env = {**signed, "PYTHONPATH": path}
        with serving(tokens):
            hosts = ("--allow-host", tokens.address, "--allow-host", blobs.host)
            deployed.call("run", "--allow-root", tmp_path, *hosts)
        assert made(deployed.job.run) == reference
        assert set(blobs.answers()) == {206}, "no expired, no unsigned read"
    spans = [times[-1] - times[0] for times in tokens.callers.values()]
    assert len(spans) == 2, "workers alone ask"
    assert min(spans) >= 4 * LIFETIME_S, spans
    assert not tokens.early_calls()
    print(f"signing calls {[len(times) for times in tokens.callers.values()]} over {spans} s")
