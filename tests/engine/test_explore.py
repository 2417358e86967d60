"""What a sample holds: every table against a few independent lines of numpy, pandas and scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, gaussian_kde, wasserstein_distance

from engine.errors import SampleError
from engine.explore import (
    ALL,
    JOINT,
    LEAST_ROWS,
    OUTLIER_SHARE,
    compare_regions,
    correlate_features,
    estimate_densities,
    features_of,
    find_outliers,
    gather_rows,
    measure_separability,
    natural,
    rank_regions,
    summarise_spectra,
)
from engine.kernels.features import COMPOSITE_FEATURES, KNOWN_FEATURES, MISSING
from engine.kernels.indices import INDICES, spectral_indices
from engine.landsat import BANDS

CLASSES = {"mangrove": 2, "other": 1}
WATER = np.array([8700, 9000, 8500, 8000, 7700, 7600])
FOREST = np.array([8400, 9200, 8600, 18000, 12800, 9700])
MANGROVE = np.array([8300, 9000, 8500, 15500, 10000, 8500])


def make_rows(size: int = 900, *, regions: tuple[str, ...] = ("A", "B", "C"), wrong: float = 0.0) -> pd.DataFrame:
    """Draw a table of mangrove between water and forest; ``wrong`` of each class carry the other's label.

    Region C is brighter in the near infrared; ranges are missing in a fifth of the rows.
    """
    rng = np.random.default_rng(7)
    truth = rng.choice([1, 2], size, p=[0.6, 0.4])
    region = rng.choice(regions, size)
    centre = np.where(truth[:, None] == 2, MANGROVE, np.where(rng.random((size, 1)) < 0.4, WATER, FOREST))
    brightness = rng.normal(0, 120, (size, 1))  # common to all bands, as light is
    bands = centre + brightness + rng.normal(0, 150, (size, 6))
    bands[:, 3] += np.where(region == "C", 1500, 0)
    dn = bands.T.astype(np.uint16)
    columns: dict[str, np.ndarray] = dict(zip(BANDS, dn.astype(np.int32), strict=True))
    columns |= dict(zip(INDICES, spectral_indices(dn), strict=True))
    columns["ndvi_range"] = np.where(rng.random(size) < 0.2, MISSING, rng.integers(0, 3000, size)).astype(np.int32)
    columns["label"] = np.where(rng.random(size) < wrong, 3 - truth, truth).astype(np.uint8)
    columns["weight"] = np.where(truth == 2, 4.0, 16.0) * rng.uniform(0.8, 1.2, size)
    columns |= {"region": region, "tile": np.full(size, "z48_c08_r-016", dtype=object)}
    columns |= {"year": rng.choice([2019, 2020], size).astype(np.int16), "zone": np.full(size, 48, np.uint8)}
    columns |= {"grid_row": np.arange(size, dtype=np.int32), "grid_col": np.arange(size, dtype=np.int32) % 97}
    columns |= {"interior": rng.random(size) < 0.8, "lon": 105 + 1e-4 * np.arange(size), "lat": np.full(size, 9.0)}
    return pd.DataFrame(columns).assign(truth=truth)


@pytest.fixture(scope="module")
def drawn() -> pd.DataFrame:
    return make_rows()


@pytest.fixture(scope="module")
def frame(drawn: pd.DataFrame) -> pd.DataFrame:
    return gather_rows([drawn], rows=10_000, seed=1)[0]


def group_of(frame: pd.DataFrame, region: str, name: str) -> pd.DataFrame:
    of_class = frame[frame["label"] == CLASSES[name]]
    return of_class if region == ALL else of_class[of_class["region"] == region]


# Reading


def test_neither_parts_nor_their_order_matter(drawn):
    whole, counts = gather_rows([drawn], rows=60, seed=1)
    parts = [drawn.iloc[500:], drawn.iloc[:0], drawn.iloc[:100], drawn.iloc[100:500]]
    again, counts_again = gather_rows(parts, rows=60, seed=1)
    pd.testing.assert_frame_equal(again, whole)
    pd.testing.assert_frame_equal(counts_again, counts)
    assert not gather_rows([drawn], rows=60, seed=2)[0].equals(whole)


def test_no_more_rows_are_kept_than_asked_and_they_stand_for_all_pixels(drawn):
    kept, _ = gather_rows([drawn], rows=60, seed=1)
    assert set(kept.groupby(["region", "label"]).size()) == {60}
    assert kept.attrs["rows"] == 60
    pixels = drawn.groupby(["region", "label"])["weight"].sum()
    np.testing.assert_allclose(kept.groupby(["region", "label"])["weight"].sum(), pixels, rtol=1e-4)
    fewer, _ = gather_rows([drawn.iloc[:450], drawn.iloc[450:]], rows=60, seed=1, most=200)
    assert fewer.attrs["rows"] == LEAST_ROWS
    assert set(fewer.groupby(["region", "label"]).size()) == {LEAST_ROWS}
    pd.testing.assert_frame_equal(fewer, gather_rows([drawn], rows=LEAST_ROWS, seed=1)[0])


def test_counts_are_of_all_rows(drawn):
    _, counts = gather_rows([drawn], rows=60, seed=1)
    for row in counts.itertuples():
        chosen = drawn[(drawn["region"] == row.region) & (drawn["year"] == row.year)]
        chosen = chosen[chosen["label"] == CLASSES[row[3]]]
        assert (row.rows, row.interior) == (len(chosen), chosen["interior"].sum())
        assert row.pixels == pytest.approx(chosen["weight"].sum(), abs=len(chosen) / 2**13)
    assert counts["rows"].sum() == len(drawn)


def test_sensors_are_taken_along_and_unlabelled_rows_are_not(drawn):
    odd = drawn.assign(sensor="L8+L9", label=np.where(np.arange(900) < 10, 0, drawn["label"]))
    kept, counts = gather_rows([odd], rows=10_000, seed=1)
    assert set(kept["sensor"]) == {"L8+L9"}
    assert set(find_outliers(kept, seed=1)[0]["sensor"]) <= {"L8+L9"}
    assert counts["rows"].sum() == 890


def test_a_pixel_seen_again_in_a_thinned_composite_counts_once(drawn):
    again = pd.concat([drawn.assign(thinned=False), drawn.assign(thinned=True, weight=1e6)])
    once = gather_rows([drawn], rows=60, seed=1)
    for found, expected in zip(gather_rows([again], rows=60, seed=1), once, strict=True):
        pd.testing.assert_frame_equal(found, expected)


def test_a_table_that_is_no_sample_is_told_in_one_line(drawn):
    with pytest.raises(SampleError, match="no column swir22; draw it with"):
        gather_rows([drawn.drop(columns="swir22")], rows=60, seed=1)
    with pytest.raises(SampleError, match="no column weight"):
        gather_rows([drawn.drop(columns="weight")], rows=60, seed=1)
    with pytest.raises(SampleError, match="a weight that is not a number above 0"):
        gather_rows([drawn.assign(weight=np.nan)], rows=60, seed=1)
    for nothing in ([], [drawn.iloc[:0]]):
        with pytest.raises(SampleError, match=r"no labelled row|no part"):
            gather_rows(nothing, rows=60, seed=1)


def test_features_are_those_known_bands_first(drawn):
    assert features_of(drawn.columns[::-1]) == (*COMPOSITE_FEATURES, "ndvi_range")
    assert set(features_of(drawn.columns)) <= set(KNOWN_FEATURES)


# Tables


@pytest.mark.parametrize("feature", ["nir08", "mvi", "ndvi_range"])
def test_densities_are_those_of_scipy(frame, feature):
    table = estimate_densities(frame)
    scale = {"nir08": 2.75e-5, "mvi": 1e-3, "ndvi_range": 1e-4}[feature]
    for (region, name), curve in table[table["feature"] == feature].groupby(["region", "class"]):
        x, bandwidth = curve["x"].to_numpy(), curve["bandwidth"].iloc[0]
        group = group_of(frame, region, name)
        group = group[group[feature] != MISSING]
        assert set(curve["rows"]) == {len(group)}
        if region == ALL:
            parts = table[(table["feature"] == feature) & (table["class"] == name) & (table["region"] != ALL)]
            pixels = group.groupby("region")["weight"].sum()
            by_region = parts.pivot(index="x", columns="region", values="density")
            expected = by_region.to_numpy() @ (pixels / pixels.sum()).loc[by_region.columns].to_numpy()
        else:
            values = group[feature].to_numpy() * scale - (0.2 if feature == "nir08" else 0)
            deviation = np.sqrt(np.cov(values, aweights=group["weight"]))
            expected = gaussian_kde(values, bandwidth / deviation, weights=group["weight"])(x)
            silverman = 0.9 * deviation * (group["weight"].sum() ** 2 / (group["weight"] ** 2).sum()) ** -0.2
            assert bandwidth <= max(1.001 * silverman, x[1] - x[0])
        np.testing.assert_allclose(curve["density"], expected, rtol=1e-6, atol=1e-9 * expected.max())
        assert np.trapezoid(curve["density"], x) == pytest.approx(1, abs=0.01)


def test_densities_of_a_class_share_points_and_cover_each_region_and_class(frame):
    table = estimate_densities(frame)
    assert len(table.groupby(["region", "class", "feature"])) == 4 * 2 * 14
    assert (table.groupby("feature")["x"].nunique() == 512).all()


def test_spectra_are_quantiles_of_pixels(frame):
    table = summarise_spectra(frame)
    assert set(table["region"]) == {ALL, "A", "B", "C"}
    for row in table.itertuples():
        group = group_of(frame, row.region, row[2])
        often = np.repeat(group[row.band].to_numpy(), np.round(group["weight"] * 1000).astype(int))
        expected = np.quantile(often, [0.25, 0.5, 0.75], method="inverted_cdf") * 2.75e-5 - 0.2
        np.testing.assert_allclose([row.p25, row.p50, row.p75], expected, atol=2e-4)
        assert row.rows == len(group)


def test_separability_is_the_formula_and_the_overlap_of_the_curves(frame):
    densities = estimate_densities(frame)
    table = measure_separability(frame, densities)
    assert len(table) == 4 * 15
    for row in table.itertuples():
        columns = list(BANDS) if row.feature == JOINT else [row.feature]
        mean, cov = [], []
        for name in ("mangrove", "other"):
            group = group_of(frame, row.region, name)
            known = group[(group[columns] != MISSING).all(axis=1)]
            mean.append(np.average(known[columns], axis=0, weights=known["weight"]))
            cov.append(np.atleast_2d(np.cov(known[columns].T, aweights=known["weight"], bias=True)))
        middle, away = (cov[0] + cov[1]) / 2, mean[0] - mean[1]
        det = np.linalg.det
        exponent = away @ np.linalg.inv(middle) @ away / 8
        exponent += np.log(det(middle) / np.sqrt(det(cov[0]) * det(cov[1]))) / 2
        assert row.jm == pytest.approx(2 * (1 - np.exp(-exponent)), rel=1e-3)
        assert 0 <= row.jm <= 2
        if row.feature == JOINT:
            assert np.isnan(row.jm_density)
            continue
        curves = densities[(densities["region"] == row.region) & (densities["feature"] == row.feature)]
        p, q = (curves[curves["class"] == name].set_index("x")["density"] for name in ("mangrove", "other"))
        step = p.index[1] - p.index[0]
        assert row.jm_density == pytest.approx(2 - 2 * (np.sqrt(p * q).sum() * step), abs=0.01)


def test_a_class_between_two_others_is_told_apart_by_its_shape(frame):
    # Mangrove is as bright as the mean of water and forest: normal classes hide what the densities show.
    table = measure_separability(frame, estimate_densities(frame)).set_index(["region", "feature"])
    assert table.loc[("A", "nir08"), "jm_density"] > 1.5 > table.loc[("A", "nir08"), "jm"]


def test_correlations_are_those_of_numpy(frame):
    table = correlate_features(frame)
    assert len(table) == 4 * 2 * 14 * 14
    for row in table.sample(60, random_state=0).itertuples():
        group = group_of(frame, row.region, row[2])
        group = group[(group[[row.a, row.b]] != MISSING).all(axis=1)]
        cov = np.cov(group[row.a], group[row.b], aweights=group["weight"])
        assert row.r == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]), abs=1e-9)
        assert row.rows == len(group)
    assert np.allclose(table.loc[table["a"] == table["b"], "r"], 1)


def test_distances_of_regions_are_wassersteins_in_deviations(frame):
    table = compare_regions(frame)
    assert len(table) == 2 * 3 * 3
    for row in table.itertuples():
        one, two = group_of(frame, row.region, row[3]), group_of(frame, row.against, row[3])
        apart = {}
        for feature in COMPOSITE_FEATURES:
            within = [np.cov(g[feature], aweights=g["weight"], bias=True) for g in
                      (group_of(frame, region, row[3]) for region in "ABC")]  # fmt: skip
            distance = wasserstein_distance(one[feature], two[feature], one["weight"], two["weight"])
            apart[feature] = distance / np.sqrt(np.mean(within))
        assert row.distance == pytest.approx(np.mean(list(apart.values())), abs=0.01)
        if row.region != row.against and "C" in (row.region, row.against):
            assert apart[row.feature] == pytest.approx(max(apart.values()), rel=0.05)
    square = table[table["class"] == "other"].pivot(index="region", columns="against", values="distance")
    assert (square.to_numpy() == square.to_numpy().T).all()
    assert (np.diag(square) == 0).all()


def test_the_region_that_is_brighter_is_the_most_unlike(frame):
    table = compare_regions(frame)
    ranked = rank_regions(table)
    assert ranked["region"].iloc[0] == "C"
    apart = table[(table["region"] == "C") & (table["against"] != "C")]
    expected = apart.groupby("class")["distance"].median().mean()
    assert ranked["unlikeness"].iloc[0] == pytest.approx(expected)


# Outliers


def test_wrong_labels_are_listed_and_few_right_ones():
    drawn = make_rows(3000, wrong=0.05)
    frame, _ = gather_rows([drawn], rows=10_000, seed=1)
    outliers, counts = find_outliers(frame, seed=1)
    truth = drawn.set_index(["grid_row", "grid_col"])["truth"]
    really = truth.loc[pd.MultiIndex.from_frame(outliers[["grid_row", "grid_col"]])].to_numpy()
    wrong = really != outliers["label"].to_numpy()
    assert wrong.mean() > 0.9
    assert wrong.sum() > 0.7 * (drawn["truth"] != drawn["label"]).sum()
    for row in counts.itertuples():
        chosen = outliers[(outliers["region"] == row.region) & (outliers["class"] == row[2])]
        group = group_of(frame, row.region, row[2])
        assert (row.listed, row.examined) == (len(chosen), len(group))
        assert row.share == pytest.approx(len(chosen) / len(group))
        assert row.listed_px == pytest.approx(chosen["weight"].sum())
        assert row.examined_px == pytest.approx(group["weight"].sum())
        assert row.share_px == pytest.approx(row.listed_px / row.examined_px)


def test_what_is_listed_is_far_from_its_own_class_and_near_the_other_and_has_a_place():
    frame, _ = gather_rows([make_rows(1500, wrong=0.05)], rows=10_000, seed=1)
    outliers, _ = find_outliers(frame, seed=1)
    limit = np.sqrt(chi2.ppf(OUTLIER_SHARE, 6))
    assert (outliers["own_distance"] > limit).all()
    assert (outliers["other_distance"] <= limit).all()
    assert outliers.crs.to_epsg() == 4326
    assert (outliers.geometry.x == outliers["lon"]).all()
    source = frame.set_index(["grid_row", "grid_col"]).loc[outliers.set_index(["grid_row", "grid_col"]).index]
    np.testing.assert_allclose(outliers["nir08"], source["nir08"] * 2.75e-5 - 0.2)
    assert outliers["own_distance"].groupby([outliers["region"], outliers["class"]]).agg(
        lambda group: group.is_monotonic_decreasing
    ).all()  # fmt: skip


def test_a_mangrove_row_is_as_far_from_mangrove_as_a_robust_fit_of_it_says():
    frame, _ = gather_rows([make_rows(3000, regions=("A",), wrong=0.05)], rows=10_000, seed=1)
    outliers, _ = find_outliers(frame, seed=1)
    mangrove = frame[frame["label"] == 2]
    bands = mangrove[list(BANDS)].to_numpy().astype(float)
    middle = np.median(bands, axis=0)
    bulk = bands[(np.abs(bands - middle) < 700).all(axis=1)]
    listed = outliers[outliers["label"] == 2]
    dn = (listed[list(BANDS)].to_numpy() + 0.2) / 2.75e-5 - bulk.mean(axis=0)
    expected = np.sqrt(np.einsum("rf,fg,rg->r", dn, np.linalg.inv(np.cov(bulk.T)), dn))
    np.testing.assert_allclose(listed["own_distance"], expected, rtol=0.3)


# Edges


def run_all(drawn: pd.DataFrame) -> dict[str, pd.DataFrame]:
    frame, counts = gather_rows([drawn], rows=10_000, seed=1)
    densities = estimate_densities(frame)
    outliers, listed = find_outliers(frame, seed=1)
    return {
        "counts": counts,
        "densities": densities,
        "spectra": summarise_spectra(frame),
        "separability": measure_separability(frame, densities),
        "correlations": correlate_features(frame),
        "distances": compare_regions(frame),
        "outliers": outliers,
        "listed": listed,
    }


def test_a_single_region_is_not_told_twice(drawn):
    found = run_all(drawn[drawn["region"] == "A"])
    for name in ("densities", "spectra", "separability", "correlations", "distances", "listed"):
        assert set(found[name]["region"]) == {"A"}, name
    assert rank_regions(found["distances"]).empty


def test_a_region_of_one_class_has_no_separability_and_no_outliers(drawn):
    found = run_all(drawn[(drawn["region"] != "B") | (drawn["label"] == 1)])
    for name in ("separability", "listed", "outliers"):
        assert "B" not in set(found[name]["region"]), name
    spectra = found["spectra"]
    assert set(spectra.loc[spectra["region"] == "B", "class"]) == {"other"}
    assert set(found["distances"].query("region == 'B'")["class"]) == {"other"}


def test_groups_of_few_rows_are_counted_and_not_described(drawn):
    few = pd.concat([drawn[drawn["region"] == "A"], drawn[drawn["region"] == "B"].iloc[: LEAST_ROWS // 2]])
    found = run_all(few)
    assert set(found["counts"]["region"]) == {"A", "B"}
    for name in ("spectra", "separability", "correlations", "distances", "listed"):
        assert "B" not in set(found[name]["region"]), name


def test_a_tiny_sample_gives_empty_tables_with_their_columns(drawn):
    found = run_all(drawn.iloc[:5])
    assert found["counts"]["rows"].sum() == 5
    for name in ("densities", "spectra", "separability", "correlations", "distances", "outliers", "listed"):
        assert found[name].empty, name
        assert {"region"} <= set(found[name].columns), name


def test_a_constant_feature_and_one_that_is_never_known_do_no_harm(drawn):
    found = run_all(drawn.assign(blue=8000, ndvi_range=MISSING))
    assert "ndvi_range" not in set(found["densities"]["feature"])
    separability = found["separability"].set_index(["region", "feature"])
    assert separability.loc[("A", "blue"), "jm"] == pytest.approx(0)
    assert ("A", "ndvi_range") not in separability.index
    assert np.isfinite(separability.loc[("A", JOINT), "jm"])
    correlations = found["correlations"]
    assert correlations.query("a == 'blue' or b == 'ndvi_range'")["r"].isna().all()
    assert np.isfinite(found["distances"]["distance"]).all()
    assert np.isfinite(found["listed"]["share"]).all()


def test_rows_that_miss_a_band_are_left_out_of_what_needs_it(drawn):
    found = run_all(drawn.assign(red=np.where(np.arange(900) < 300, MISSING, drawn["red"])))
    assert found["listed"]["examined"].sum() == 600
    spectra = found["spectra"]
    assert spectra.query("band == 'red' and region == @ALL")["rows"].sum() == 600
    assert spectra["p25"].min() > -0.1


def test_natural_units_are_reflectance_and_index():
    np.testing.assert_allclose(natural("red", np.array([8000, MISSING])), [0.02, np.nan])
    np.testing.assert_allclose(natural("nir08_150m", np.array([8000])), [0.02])
    np.testing.assert_allclose(natural("ndvi", np.array([-5000, 7572])), [-0.5, 0.7572])
    np.testing.assert_allclose(natural("mvi", np.array([20_000])), [20.0])
    np.testing.assert_allclose(natural("water_frequency", np.array([6250])), [0.625])


def test_real_pixels_of_any_two_classes_are_described(shared_data: Path):
    folder = shared_data / "landsat-rasters" / "c2l2-pixel-timeseries"
    if not folder.is_dir():
        pytest.skip("needs the real time series")
    table = pd.read_parquet(folder / "lsat_example.parquet")
    names = {"LANDSAT_5": (1, 2, 3, 4, 5, 7), "LANDSAT_7": (1, 2, 3, 4, 5, 7), "LANDSAT_8": (2, 3, 4, 5, 6, 7)}
    parts = [
        part.assign(**{band: part[f"SR_B{number}"] for band, number in zip(BANDS, names[sensor], strict=True)})
        for sensor, part in table.groupby("SPACECRAFT_ID")
        if sensor in names
    ]
    real = pd.concat(parts).dropna(subset=list(BANDS))
    real = real[((real[list(BANDS)] > 0) & (real[list(BANDS)] < 65_536)).all(axis=1)]
    dn = real[list(BANDS)].to_numpy().T.astype(np.uint16)
    places = sorted(real["sample_id"].unique())
    number = real["sample_id"].map({place: number for number, place in enumerate(places)}).to_numpy()
    drawn = pd.DataFrame(
        {
            **dict(zip((*BANDS, *INDICES), np.vstack([dn.astype(np.int32), spectral_indices(dn)]), strict=True)),
            "label": np.where(number % 2, 2, 1).astype(np.uint8),
            "weight": 1.0,
            "region": np.where(number % 4 < 2, "north", "south"),
            "tile": "z12_c00_r000",
            "year": pd.to_datetime(real["date"]).dt.year.to_numpy(),
            "zone": 12,
            "grid_row": number,
            "grid_col": np.arange(len(real)),
            "interior": True,
            "lon": real["lon"].to_numpy(),
            "lat": real["lat"].to_numpy(),
        }
    )
    assert len(drawn) > 1000
    found = run_all(drawn)
    assert set(found["spectra"]["region"]) == {ALL, "north", "south"}
    assert found["separability"]["jm"].between(0, 2).all()
    assert found["separability"]["jm_density"].dropna().between(0, 2).all()
    mass = (
        found["densities"].groupby(["region", "class", "feature"]).apply(lambda c: np.trapezoid(c["density"], c["x"]))
    )
    assert mass.between(0.97, 1.001).all()
