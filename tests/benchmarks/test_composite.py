"""The benchmark's workload works, and both sides give the same values; no timing is asserted."""

from __future__ import annotations

import pytest

from benchmarks.composite import composite_vs_odc


@pytest.mark.slow
def test_the_fused_task_and_odc_stac_give_the_same_composite(tmp_path):
    pytest.importorskip("odc.stac")
    pair = composite_vs_odc(tmp_path, size_px=128, scenes=6, runs=1)
    assert pair.equal
    assert len(pair.record()["wall"]) == 1
