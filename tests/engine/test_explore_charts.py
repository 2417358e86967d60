"""Charts of exploring: drawn from tables alone, of one region or of many, with the notice, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

import engine.charts
from engine import explore_charts as charts
from engine.landsat import BANDS

ALL = "all regions"
FEATURES = ("red", "ndvi", "ndvi_range")
RNG = np.random.default_rng(3)


def tables(regions: list[str]) -> dict[str, pd.DataFrame]:
    """Return tables as exploring makes them, filled with numbers."""
    classes, names = ("mangrove", "other"), [ALL, *regions]
    x = np.linspace(0, 1, 64)
    densities = [
        pd.DataFrame({"region": region, "class": name, "feature": feature, "x": x, "density": RNG.random() + x})
        for feature in FEATURES
        for region in names
        for name in classes
    ]
    pairs = [(region, name) for region in names for name in classes]
    spectra = pd.DataFrame([(*pair, band) for pair in pairs for band in BANDS], columns=["region", "class", "band"])
    spectra = spectra.assign(p25=0.1, p50=RNG.random(len(spectra)), p75=0.9)
    separability = pd.DataFrame(
        [(r, f) for r in names for f in (*FEATURES, "all bands")], columns=["region", "feature"]
    )
    separability = separability.assign(jm=RNG.random(len(separability)), jm_density=0.5)
    separability.loc[separability["feature"] == "all bands", "jm_density"] = np.nan
    correlations = pd.DataFrame(
        [(*pair, a, b) for pair in pairs for a in FEATURES for b in FEATURES], columns=["region", "class", "a", "b"]
    ).assign(r=lambda table: RNG.uniform(-1, 1, len(table)))
    distances = pd.DataFrame(
        [(one, two, name) for one in regions for two in regions for name in classes],
        columns=["region", "against", "class"],
    )
    place = {region: number for number, region in enumerate(regions)}
    distances["distance"] = abs(distances["region"].map(place) - distances["against"].map(place)) / len(regions)
    counts = pd.DataFrame([(region, name) for region in regions for name in classes], columns=["region", "class"])
    counts = counts.assign(year=2020, rows=50, pixels=900.0, listed=3, share=0.06)
    return {
        "densities": pd.concat(densities, ignore_index=True),
        "spectra": spectra,
        "separability": separability,
        "correlations": correlations,
        "distances": distances,
        "counts": counts,
    }


def drawers(found: dict[str, pd.DataFrame]) -> dict[str, Callable[..., None]]:
    return {
        "densities": partial(charts.draw_densities, densities=found["densities"], whole=ALL),
        "ridges": partial(charts.draw_ridges, densities=found["densities"], features=("red",), whole=ALL),
        "counts": partial(charts.draw_counts, counts=found["counts"]),
        "spectra": partial(charts.draw_spectra, spectra=found["spectra"]),
        "separability": partial(charts.draw_separability, separability=found["separability"]),
        "correlations": partial(charts.draw_correlations, correlations=found["correlations"], whole=ALL),
        "distances": partial(charts.draw_region_distances, distances=found["distances"]),
        "outliers": partial(charts.draw_outliers, counts=found["counts"]),
    }


ODD = tables(["A", "$\\frac{$ {not} <b>a</b> formula of any kind at all, however long it may be"])
"""Region names are whatever a user's file says."""


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Collect the axes of every chart drawn."""
    seen: list[np.ndarray] = []
    chart = charts.chart

    class Spy:
        def __init__(self, *args, **options):
            self.context = chart(*args, **options)

        def __enter__(self):
            seen.append(self.context.__enter__())
            return seen[-1]

        def __exit__(self, *about):
            return self.context.__exit__(*about)

    monkeypatch.setattr(charts, "chart", Spy)
    return seen


def matrix_of(ax: Axes) -> np.ndarray:
    [image] = ax.images
    return np.asarray(image.get_array())


@pytest.mark.parametrize("name", list(drawers(ODD)))
def test_any_name_of_a_region_can_be_drawn(name, tmp_path):
    path = tmp_path / "chart.png"
    drawers(ODD)[name](path, title="what, wall to wall · label: mask", notice="SIMULATED")
    assert imread(path).shape[1] >= 400


def test_the_same_table_gives_the_same_bytes(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        charts.draw_region_distances(path, ODD["distances"], title="t", notice="SIMULATED")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_of_very_many_regions_the_first_are_shown_and_the_chart_says_so(tmp_path, axes, monkeypatch):
    monkeypatch.setattr(charts, "MOST_REGIONS", 4)
    many = tables([f"region {number}" for number in range(6)])
    charts.draw_counts(tmp_path / "a.png", many["counts"], title="t", notice="")
    charts.draw_separability(tmp_path / "b.png", many["separability"], title="t", notice="")
    charts.draw_region_distances(tmp_path / "c.png", many["distances"], title="t", notice="")
    assert len(axes[0][0, 0].get_yticks()) == 4
    assert matrix_of(axes[1][0, 0]).shape == (4, len(FEATURES) + 1)
    assert matrix_of(axes[2][0, 0]).shape == (4, 4)
    assert axes[0][0, 0].figure.get_suptitle() == "t\nfirst 4 of 6 regions"


def test_bars_are_the_sums_of_the_table(tmp_path, axes):
    counts = pd.DataFrame(
        [("A", 2019, "mangrove", 5, 10.0), ("A", 2020, "mangrove", 7, 20.0), ("A", 2020, "other", 4, 90.0)],
        columns=["region", "year", "class", "rows", "pixels"],
    )
    charts.draw_counts(tmp_path / "a.png", counts, title="t", notice="")
    left, right = axes[0][0]
    assert [bar.get_width() for bar in left.patches] == [12, 4]
    assert [bar.get_width() for bar in right.patches] == [25]
    assert [text.get_text() for text in right.texts] == [" 25.0 % of 120 px"]


def test_lines_of_spectra_are_the_medians(tmp_path, axes):
    charts.draw_spectra(tmp_path / "a.png", ODD["spectra"], title="t", notice="")
    expected = ODD["spectra"].query("region == 'A' and `class` == 'other'").set_index("band")["p50"]
    panel = axes[0].flat[1]
    assert panel.get_title(loc="left") == "A"
    np.testing.assert_array_equal(panel.lines[1].get_ydata(), expected.loc[list(BANDS)])


def test_heat_maps_are_the_tables(tmp_path, axes):
    charts.draw_separability(tmp_path / "a.png", ODD["separability"], title="t", notice="")
    first = ODD["separability"].query("feature == 'all bands'")["jm"].to_numpy()
    np.testing.assert_array_equal(matrix_of(axes[0][0, 0])[:, 0], first)
    assert (matrix_of(axes[0][0, 0])[:, 1:] == 0.5).all()
    charts.draw_correlations(tmp_path / "b.png", ODD["correlations"], ALL, title="t", notice="")
    shown = ODD["correlations"].query("region == @ALL and `class` == 'other' and a == 'red' and b == 'ndvi'")["r"]
    found = matrix_of(axes[1][0, 1])
    assert found[FEATURES.index("red"), FEATURES.index("ndvi")] == shown.iloc[0]


def test_near_regions_stand_side_by_side(tmp_path, axes):
    line = tables(["a", "d", "b", "c"])  # distances by place in this list
    charts.draw_region_distances(tmp_path / "a.png", line["distances"], title="t", notice="")
    names = [label.get_text() for label in axes[0][0, 0].get_yticklabels()]
    assert names in (["a", "d", "b", "c"], ["c", "b", "d", "a"])
    np.testing.assert_allclose(np.diag(matrix_of(axes[0][0, 0]), 1), 0.25)


def test_curves_of_a_ridge_are_the_table_to_one_scale(tmp_path, axes):
    charts.draw_ridges(tmp_path / "a.png", ODD["densities"], ("red",), title="t", notice="", whole=ALL)
    curves = ODD["densities"].query("region == 'A' and feature == 'red'")
    peak = curves["density"].max()
    for line, name in zip(axes[0][0, 0].lines[2:4], ("mangrove", "other"), strict=True):
        expected = 1 - 0.95 * curves.loc[curves["class"] == name, "density"] / peak
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_a_table_of_nothing_is_drawn_empty(tmp_path):
    for name, draw in drawers({name: table.iloc[:0] for name, table in ODD.items()}).items():
        draw(tmp_path / f"{name}.png", title="nothing to show", notice="")
        assert (tmp_path / f"{name}.png").is_file()


def test_the_colours_of_classes_are_those_of_the_maps():
    assert tuple(engine.charts.CLASS_COLOURS) == charts.CLASSES
