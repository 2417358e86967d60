"""Two real Global Mangrove Watch tiles, 1996 and 2020, compared as numpy and scipy compare them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import rasterio
from scipy.ndimage import label

from engine.legend import GAIN, LOSS
from tests.integration.test_real_masks import mask_files
from tests.jobs.calls import mangroves

YEARS = (1996, 2020)


@pytest.mark.slow
def test_loss_and_gain_of_real_tiles_are_those_of_numpy_and_their_small_patches_those_of_scipy(shared_data, tmp_path):
    paths = [mask_files(shared_data)[year] for year in YEARS]
    answer = mangroves("change", *paths, "--out", tmp_path / "florida", "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    arrays = []
    for path in paths:
        with rasterio.open(path) as source:
            arrays.append(source.read(1) == 1)
            north, step = source.transform.f, source.transform.e
    with rasterio.open(tmp_path / "florida" / "transition.tif") as source:
        codes = source.read(1)
    # Square metres of a row between its parallels, by its middle: M N cos(phi), exact to 1e-12 for so small a step.
    phi = np.radians(north + step * (np.arange(4500) + 0.5))
    a, e2 = 6378137.0, 0.0066943799901413165
    row_ha = a * a * (1 - e2) * np.cos(phi) / (1 - e2 * np.sin(phi) ** 2) ** 2 * np.radians(step) ** 2 / 1e4
    table = pd.DataFrame(said["change"]).set_index("least_ha")
    figures = {}
    for name, code, changed in (("loss", LOSS, arrays[0] & ~arrays[1]), ("gain", GAIN, ~arrays[0] & arrays[1])):
        assert (changed == (codes == code)).all()
        labels, _ = label(changed, structure=np.ones((3, 3)))
        rows, _ = np.nonzero(changed)
        patch_ha = np.bincount(labels[changed], weights=row_ha[rows])
        large = patch_ha[labels[changed]] >= 0.5
        hectares, large_ha = row_ha[rows].sum(), row_ha[rows][large].sum()
        assert table[f"{name}_px"].tolist() == [changed.sum(), large.sum()]
        assert table[f"{name}_ha"].tolist() == pytest.approx([hectares, large_ha], rel=1e-9)
        assert table.loc[0.5, f"small_{name}_share"] == pytest.approx(1 - large_ha / hectares, rel=1e-9)
        rate = 100 * hectares / (row_ha * arrays[0].sum(axis=1)).sum() / (YEARS[1] - YEARS[0])
        figures[name] = (int(changed.sum()), round(1 - large_ha / hectares, 2), round(rate, 2))
    # ../shared/spec/science.md: .5 ha removes 41 % of the loss and 81 % of the gain; .19 and .06 % a year.
    assert figures == {"loss": (83863, 0.41, 0.19), "gain": (24010, 0.81, 0.06)}
    assert said["least_px"] == [10, 10]
