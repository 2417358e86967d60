"""Assessing a map: the draw, labels, and what is estimated from them."""

from __future__ import annotations

import xml.etree.ElementTree as Xml
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from engine.assess import (
    TOTAL,
    UNSURE,
    Assessment,
    Domains,
    choose_points,
    compare_readers,
    design_sample,
    draw_points,
    estimate_accuracy,
    estimate_area,
    estimate_areas,
    kml_of,
    labels_template,
    mapped_loss_ha,
    merge_tallies,
    read_labels,
    reader_error_coverage,
    sample_seed,
    tally_maps,
    tally_strata,
    write_labels,
)
from engine.errors import SampleError
from engine.grid import Tile, lonlat_of
from engine.kernels.accuracy import Z_95
from engine.kernels.design import FAR_OTHER, INNER_MANGROVE, LARGE, MAPPED_GAIN, MAPPED_LOSS, STRATA
from engine.legend import MANGROVE, OTHER
from engine.params import AssessParams

RNG = np.random.default_rng(7)
WHOLE = Tile(48, 8, -16, (-16 * 2048, 8 * 2048, 40, 60))
WEST = Tile(48, 8, -16, (-16 * 2048, 8 * 2048, 40, 25))
EAST = Tile(48, 8, -16, (-16 * 2048, 8 * 2048 + 25, 40, 35))
STRATUM = RNG.choice([0, 1, 3, 4, 5], (40, 60), p=[0.1, 0.2, 0.2, 0.4, 0.1]).astype("uint8")
REGION = np.where(STRATUM > 0, np.where(np.arange(60) < 30, 1, 2), 0).astype("uint16")
DOMAINS = Domains("region", ("north", "south"), REGION)
HECTARES = np.linspace(0.0899, 0.0901, 60)
WANTED = {1: 50, 3: 40, 4: 60, 5: 10_000}
HALF = {WEST.window: slice(0, 25), EAST.window: slice(25, 60)}


def part_of(tile: Tile) -> tuple[np.ndarray, Domains, np.ndarray]:
    cols = HALF[tile.window]
    return STRATUM[:, cols], DOMAINS._replace(codes=REGION[:, cols]), HECTARES[cols]


def drawn(*tiles: Tile) -> pd.DataFrame:
    pool = []
    for tile in tiles:
        strata, domains, _ = part_of(tile) if tile is not WHOLE else (STRATUM, DOMAINS, HECTARES)
        pool.append(draw_points(strata, WANTED, [domains], tile, seed=sample_seed(3)))
    return choose_points(pool, WANTED, second_reader=0.1, seed=sample_seed(3))


def test_the_sample_does_not_depend_on_tiles_or_their_order():
    whole = drawn(WHOLE)
    pd.testing.assert_frame_equal(whole, drawn(EAST, WEST))
    pd.testing.assert_frame_equal(whole, drawn(WEST, EAST))


def test_every_stratum_gives_what_was_asked_or_all_it_has():
    points = drawn(WHOLE)
    assert points["id"].is_unique
    count = points["stratum"].value_counts()
    assert {code: int(count[code]) for code in WANTED} == {1: 50, 3: 40, 4: 60, 5: int((STRATUM == 5).sum())}
    y, x = points["row"] - WHOLE.window[0], points["col"] - WHOLE.window[1]
    assert (STRATUM[y, x] == points["stratum"]).all()
    assert (np.array(["", "north", "south"])[REGION[y, x]] == points["region"]).all()
    lon, lat = lonlat_of(48, points["row"].to_numpy(), points["col"].to_numpy())
    assert np.array_equal(points.geometry.x, lon)
    assert np.array_equal(points["lat"], lat)


def test_a_larger_sample_holds_the_smaller_and_second_readers_see_all_strata():
    pool = [draw_points(STRATUM, {4: 90, 1: 90}, [DOMAINS], WHOLE, seed=5)]
    small, large = (choose_points(pool, {4: n, 1: n}, second_reader=0.1, seed=5) for n in (20, 90))
    assert set(small["id"]) < set(large["id"])
    assert small.groupby("stratum")["reader2"].sum().tolist() == [2, 2]
    # Neither order nor name tells the stratum.
    assert np.abs(np.corrcoef(large["stratum"], np.arange(len(large)))[0, 1]) < 0.2


def test_tallies_of_tiles_add_up_to_plain_counts():
    tables = [tally_strata(part_of(tile)[0], [part_of(tile)[1]], part_of(tile)[2]) for tile in (WEST, EAST)]
    found = merge_tallies(tables).set_index(["by", "where", "stratum"])
    area = np.broadcast_to(HECTARES, STRATUM.shape)
    for code in STRATA:
        assert found.loc[("total", TOTAL, code), "pixels"] == (code == STRATUM).sum()
        south = (code == STRATUM) & (REGION == 2)
        assert found.loc[("region", "south", code), "hectares"] == pytest.approx(area[south].sum())


def test_mapped_areas_are_those_of_years_and_of_every_change():
    classes = RNG.choice([0, 1, 2, 3], (4, 40, 60), p=[0.1, 0.4, 0.4, 0.1]).astype("uint8")
    maps = zip((2001, 2003, 2004, 2010), classes, strict=True)
    found = merge_tallies([tally_maps(maps, [DOMAINS], HECTARES)])
    assert not found.duplicated(["by", "where", "first", "last", "class"]).any()
    found = found.set_index(["where", "first", "last", "class"])["pixels"]
    inside = REGION == 1
    mangrove, other = (classes == 2) & inside, np.isin(classes, [1, 3]) & inside
    assert found["north", 2003, 2003, "mangrove"] == mangrove[1].sum()
    assert found["north", 2003, 2003, "other"] == other[1].sum()
    assert found["north", 2010, 2010, "not observed"] == ((classes[3] == 0) & inside).sum()
    assert found["north", 2003, 2004, "loss"] == (mangrove[1] & other[2]).sum()
    assert found["north", 2004, 2010, "gain"] == (other[2] & mangrove[3]).sum()
    assert found["north", 2001, 2010, "stable other"] == (other[0] & other[3]).sum()
    assert found["north", 2001, 2010, "loss"] == (mangrove[0] & other[3]).sum()
    assert found["north", 2001, 2010, "ever lost"] == (mangrove[:-1] & other[1:]).any(axis=0).sum()


def test_a_design_names_its_strata_and_refuses_an_empty_area():
    sizes = merge_tallies([tally_strata(STRATUM, [DOMAINS], HECTARES)])
    strata, halfwidth = design_sample(sizes, AssessParams(min_per_large=30, min_per_stratum=10, most=300))
    assert strata["points"].sum() <= 300
    assert (strata["points"] <= strata["pixels"]).all()
    assert halfwidth > 0
    assert mapped_loss_ha(strata) == pytest.approx(np.broadcast_to(HECTARES, STRATUM.shape)[STRATUM == 5].sum())
    with pytest.raises(SampleError, match="no pixel lies in the area"):
        design_sample(sizes.assign(pixels=0), AssessParams())


def test_a_pixel_is_outlined_round_its_centre():
    points = drawn(WHOLE).head(3)
    space = {"k": "http://www.opengis.net/kml/2.2"}
    places = Xml.fromstring(kml_of(points)).findall(".//k:Placemark", space)
    assert [place.findtext("k:name", None, space) for place in places] == points["id"].tolist()
    text = places[0].findtext(".//k:coordinates", "", space)
    ring = np.array([corner.split(",") for corner in text.split()], float)
    assert len(ring) == 5
    assert ring[:4].mean(axis=0) == pytest.approx(points.loc[0, ["lon", "lat"]].to_numpy(float), abs=1e-6)
    edges = np.diff(ring, axis=0) * [111_320 * np.cos(np.radians(ring[0, 1])), 110_574]
    assert np.hypot(*edges.T) == pytest.approx(30, rel=0.01)
    assert np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]) > 0  # counter-clockwise


# ---------------------------------------------------------------- labels


IDS, YEARS = ["a", "b"], (2019, 2020)


def test_labels_come_back_as_they_were_written():
    labels = np.array([[MANGROVE, OTHER], [UNSURE, MANGROVE]], np.uint8)
    text = write_labels(IDS, YEARS, labels)
    assert text == "id,2019,2020\na,mangrove,other\nb,unsure,mangrove\n"
    assert read_labels(text, IDS, YEARS, what="l.csv").tolist() == labels.tolist()
    swapped = "note, 2020,id ,2019\nx,Mangrove,b, unsure\ny,other ,a,mangrove\n"
    assert read_labels(swapped, IDS, YEARS, what="l.csv").tolist() == labels.tolist()
    assert labels_template(IDS, YEARS) == "id,2019,2020\na,,\nb,,\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("id,2019\na,other\n", "l.csv lacks column '2020'; fill labels_template.csv"),
        ("name,2019,2020\na,other,other\n", "l.csv lacks column 'id'"),
        ("id,2019,2020\na,other,other\n", "l.csv lacks a point: 'b' .1 such.; label all points"),
        ("id,2019,2020\na,other,other\nb,other,other\nc,other,other\n", "not of this sample: 'c'"),
        ("id,2019,2020\na,other,other\na,other,other\nb,other,other\n", "names a point twice: 'a'"),
        (
            "id,2019,2020\na,other,water\nb,,other\n",
            "point a, 2020: 'water' is no label .2 such.; write mangrove, other",
        ),
        ("", "l.csv is no table .EmptyDataError."),
        ('id,2019,2020\na,other,"x\n', "l.csv is no table .ParserError."),
    ],
)
def test_labels_that_are_not_whole_are_refused_in_one_line(text, error):
    with pytest.raises(SampleError, match=error) as told:
        read_labels(text, IDS, YEARS, what="l.csv")
    assert "\n" not in str(told.value)


def test_readers_are_compared_where_both_are_sure():
    first = np.array([[2, 2], [1, 1], [2, 1], [0, 2]], np.uint8)
    second = np.array([[2, 2], [1, 1], [2, 2], [1, 2]], np.uint8)
    found = compare_readers(first, second, YEARS).set_index("period")
    assert found["labels"].to_dict() == {"2019": 3, "2020": 4, "all years": 7, "trajectory": 3}
    assert found.loc["2020", "agreement"] == 0.75
    chance = (2 * 3 + 2 * 1) / 16
    assert found.loc["2020", "kappa"] == pytest.approx((0.75 - chance) / (1 - chance))
    assert found.loc["trajectory", "agreement"] == pytest.approx(2 / 3)
    assert np.isnan(compare_readers(first[:1], second[:1], YEARS)["kappa"]).all()


# ---------------------------------------------------------------- estimates

# Olofsson et al. 2014, table 8, in the order of the matrix: deforestation, gain, stable forest, stable other.
MATRIX = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
OF_CLASS = np.array([MAPPED_LOSS, MAPPED_GAIN, INNER_MANGROVE, FAR_OTHER])
PAIR = np.array([[MANGROVE, OTHER], [OTHER, MANGROVE], [MANGROVE, MANGROVE], [OTHER, OTHER]], np.uint8)


def paper() -> Assessment:
    mapped, true = (np.repeat(place.ravel(), MATRIX.ravel()) for place in np.indices(MATRIX.shape))
    sizes = pd.DataFrame({"by": "total", "where": TOTAL, "stratum": OF_CLASS, "pixels": PIXELS})
    areas = pd.DataFrame({"by": "total", "where": TOTAL, "first": 2000, "last": 2010, "class": ["loss", "gain"]})
    return Assessment(
        years=(2000, 2010),
        points=pd.DataFrame({"stratum": OF_CLASS[mapped], "region": ""}),
        mapped=PAIR[mapped],
        labels=PAIR[true],
        sizes=sizes.assign(hectares=PIXELS * 0.09),
        areas=areas.assign(hectares=PIXELS[:2] * 0.09),
    )


def test_the_example_of_the_paper_comes_out_of_the_tables():
    areas = estimate_areas(paper()).set_index(["period", "class"])
    change = areas.loc["2000-2010"]
    expected = {"loss": 21158, "gain": 11686, "stable mangrove": 285770, "stable other": 581386, "ever lost": 21158}
    assert {name: round(change.loc[name, "estimated_ha"]) for name in expected} == expected
    assert round(Z_95 * change.loc["stable mangrove", "se_ha"]) == 15510
    # Of the paper 15 000 to 27 316: what few points found missed is less sure upwards than downwards.
    assert [round(change.loc["loss", end], -2) for end in ("low_ha", "high_ha")] == [17_500, 31_300]
    assert change.loc["loss", "mapped_ha"] == 18_000
    assert change.loc["net", "mapped_ha"] == -4_500
    assert change.loc["net", "estimated_ha"] == pytest.approx(11686 - 21158, abs=1)
    start = areas.loc[("2000", "mangrove"), "estimated_ha"]
    assert start == pytest.approx(285770 + 21158, abs=1)
    assert change.loc["loss", "pct_per_year"] == pytest.approx(100 * change.loc["loss", "estimated_ha"] / start / 10)
    found = estimate_accuracy(paper()).figures
    found = found[found["period"] == "2000-2010"].set_index(["measure", "class"])
    assert round(found.loc[("overall", "all"), "value"], 3) == 0.947
    names = ["loss", "gain", "stable mangrove", "stable other"]
    assert found.loc["users"].loc[names, "value"].round(3).tolist() == [0.88, 0.733, 0.927, 0.963]
    assert (Z_95 * found.loc["users"].loc[names, "se"]).round(3).tolist() == [0.074, 0.101, 0.04, 0.021]
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()
    assert found.loc["producers"].loc[names, "value"].round(3).tolist() == [0.749, 0.847, 0.935, 0.962]


def test_the_matrix_counts_points_and_shares_the_land():
    cells = estimate_accuracy(paper()).matrix
    cells = cells[cells["period"] == "2000-2010"]
    assert cells["points"].sum() == MATRIX.sum()
    assert cells["share"].sum() == pytest.approx(1)
    cell = cells.set_index(["mapped", "true"]).loc[("loss", "stable mangrove")]
    assert cell["points"] == 5
    assert cell["share"] == pytest.approx(0.02 * 5 / 75)


def test_points_that_are_unsure_take_no_part_where_they_are():
    sample = paper()
    labels = sample.labels.copy()
    labels[:10, 1] = UNSURE  # ten of those mapped and found as loss
    found = estimate_areas(replace(sample, labels=labels)).set_index(["period", "class"])
    before = estimate_areas(sample).set_index(["period", "class"])
    assert found.loc[("2000", "mangrove")].equals(before.loc[("2000", "mangrove")])
    lost = found.loc[("2000-2010", "loss")]
    shares = (np.array([56 / 65, 0, 1 / 165, 2 / 325]) * PIXELS).sum() * 0.09
    assert lost["estimated_ha"] == pytest.approx(shares)
    assert lost["points"] == MATRIX.sum() - 10


def test_a_stratum_nobody_could_read_is_joined_to_its_neighbour():
    sample = paper()
    labels = sample.labels.copy()
    labels[sample.points["stratum"] == MAPPED_GAIN] = UNSURE
    found = estimate_areas(replace(sample, labels=labels)).set_index(["period", "class"])
    shares = (66 / 75 * (PIXELS[0] + PIXELS[1]) + PIXELS[2] / 165 + 2 / 325 * PIXELS[3]) * 0.09
    assert found.loc[("2000-2010", "loss"), "estimated_ha"] == pytest.approx(shares)
    nobody = estimate_areas(replace(sample, labels=np.zeros_like(labels)))
    assert nobody["estimated_ha"].isna().all()
    assert len(estimate_accuracy(replace(sample, labels=np.zeros_like(labels))).figures) == 0


def world(seed: int = 1, regions: int = 2) -> tuple[pd.DataFrame, AssessParams]:
    """A population of pixels: stratum, region, true and mapped class of three years."""
    rng = np.random.default_rng(seed)
    size = 60_000
    region = rng.choice([f"r{number}" for number in range(regions)], size)
    true = np.repeat(rng.random((size, 1)) < 0.3, 3, axis=1)
    for year in (1, 2):
        lost = rng.random(size) < 0.02
        true[lost, year:] = False
    mapped = true ^ (rng.random((size, 1)) < 0.02)
    gone, come = mapped[:, 0] & ~mapped[:, 2], ~mapped[:, 0] & mapped[:, 2]
    stratum = np.select([gone, come, mapped[:, 0]], [MAPPED_LOSS, MAPPED_GAIN, INNER_MANGROVE], FAR_OTHER)
    columns = {"stratum": stratum, "region": region} | {f"t{n}": true[:, n] for n in range(3)}
    frame = pd.DataFrame(columns | {f"m{n}": mapped[:, n] for n in range(3)})
    return frame, AssessParams(min_per_large=200, min_per_stratum=60, most=600, halfwidth=0.05)


def assessed(frame: pd.DataFrame, params: AssessParams, seed: int) -> Assessment:
    """A sample of a population, read without fault."""
    count = frame.groupby(["region", "stratum"]).size().rename("pixels").reset_index()
    count = count.assign(by="region", where=count.pop("region"), hectares=count["pixels"] * 0.09)
    sizes = merge_tallies([count])
    strata, _ = design_sample(sizes, params)
    wanted = strata.set_index("stratum")["points"]
    chosen = pd.concat(
        part.sample(int(wanted[code]), random_state=seed) for code, part in frame.groupby("stratum") if wanted[code]
    )
    code = np.array([OTHER, MANGROVE], np.uint8)
    empty = pd.DataFrame({name: [] for name in ("by", "where", "first", "last", "class", "hectares")})
    return Assessment(
        years=(2000, 2005, 2010),
        points=chosen[["stratum", "region"]].reset_index(drop=True),
        mapped=code[chosen[["m0", "m1", "m2"]].to_numpy(int)],
        labels=code[chosen[["t0", "t1", "t2"]].to_numpy(int)],
        sizes=sizes,
        areas=empty,
    )


def test_periods_classes_and_places_of_a_table_of_areas():
    frame, params = world()
    found = estimate_areas(assessed(frame, params, 1))
    assert found["period"].unique().tolist() == ["2000", "2005", "2010", "2000-2005", "2005-2010", "2000-2010"]
    assert found["where"].unique().tolist() == [TOTAL, "r0", "r1"]
    steps = found[(found["where"] == TOTAL) & (found["period"] == "2005-2010")]
    assert steps["class"].tolist() == ["loss", "gain", "net"]
    whole = found[found["where"] == TOTAL].set_index(["period", "class"])
    years = whole.xs("mangrove", level="class")["estimated_ha"]
    assert whole.loc[("2000-2005", "net"), "estimated_ha"] == pytest.approx(years["2005"] - years["2000"])
    bounds = found[found["class"] != "net"]
    assert (bounds["low_ha"] <= bounds["estimated_ha"]).all()
    assert (bounds["estimated_ha"] <= bounds["high_ha"]).all()


@pytest.mark.parametrize("regions", [2, 120])
def test_regions_add_up_about_to_the_whole_whether_strata_are_their_own_or_not(regions):
    frame, params = world(regions=regions)
    sample = assessed(frame, params, 2)
    found = estimate_areas(sample)
    extent = found[(found["period"] == "2000") & (found["class"] == "mangrove")].set_index("where")["estimated_ha"]
    assert extent.drop(TOTAL).sum() == pytest.approx(extent[TOTAL], rel=0.05)
    judged = estimate_accuracy(sample).figures["where"].nunique()
    assert judged == 3 if regions == 2 else judged < 60  # regions with a stratum nobody looked at are left out


@pytest.mark.slow
def test_intervals_of_regions_hold_the_truth_as_often_as_they_say():
    frame, params = world(regions=6)
    lost = frame["t0"] & ~frame["t2"]
    truth = {"mangrove": frame.groupby("region")["t0"].sum() * 0.09, "loss": lost.groupby(frame["region"]).sum() * 0.09}
    inside = []
    for seed in range(60):
        found = estimate_areas(assessed(frame, params, seed))
        found = found[found["period"].isin(["2000", "2000-2010"]) & (found["by"] == "region")].set_index("where")
        for name, true in truth.items():
            rows = found[found["class"] == name]
            inside.append(((rows["low_ha"] <= true) & (true <= rows["high_ha"])).mean())
    assert 0.92 <= np.mean(inside) <= 0.99


def test_many_questions_are_answered_at_once():
    hits = np.array([[3, 40], [0, 50], [1, 0]])
    at_once = estimate_area(np.array([900.0, 100.0]), np.array([400, 50]), hits)
    for index, one in enumerate(hits):
        alone = estimate_area(np.array([900.0, 100.0]), np.array([400, 50]), one)
        assert [end[index] for end in at_once] == pytest.approx([float(end) for end in alone])


def test_coverage_under_wrong_labels_is_told_for_extent_and_loss():
    right, wrong = (reader_error_coverage(paper(), error=error, draws=400) for error in (0, 0.05))
    assert set(right) == {"extent", "loss"}
    assert min(right.values()) > 0.9
    assert wrong["loss"] < 0.2


def test_nothing_is_told_of_coverage_where_nobody_was_sure():
    sample = paper()
    labels = sample.labels.copy()
    labels[:, 1] = UNSURE
    assert reader_error_coverage(replace(sample, labels=labels), draws=10) == {}
    labels = sample.labels.copy()
    labels[:, 0] = UNSURE
    assert set(reader_error_coverage(replace(sample, labels=labels), draws=10)) == {"extent"}


def test_large_strata_are_those_without_change():
    assert {STRATA[code] for code in LARGE} == {
        "mangrove",
        "mangrove near an edge or change",
        "other near mangrove or change",
        "other",
    }
