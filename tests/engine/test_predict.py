"""Tables in, the same tables with probability and class out; against pandas and XGBoost alone."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import predict, unpacked
from engine.errors import ConfigError, ModelError
from engine.kernels.calibrate import Calibration
from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES, MISSING
from engine.kernels.indices import INDICES, spectral_indices
from engine.landsat import BANDS
from engine.model import Model
from engine.params import TrainParams
from engine.predict import (
    check_output,
    choose_model,
    features_of,
    further_features,
    open_table,
    predict_table,
    survey_table,
)
from engine.train import fit
from tests.engine.samples import make_sample

REAL = Path(__file__).parents[3] / "shared/data/landsat-rasters/c2l2-pixel-timeseries/lsat_example.parquet"
PARAMS = TrainParams(rounds=6, max_depth=3)
SAMPLE = make_sample(900)
SAMPLE[list(INDICES)] = spectral_indices(SAMPLE[list(BANDS)].to_numpy(np.uint16).T).T  # as cubes hold them
FULL = replace(fit(SAMPLE, features=ALL_FEATURES, params=PARAMS), threshold=0.34)
ALONE = replace(fit(SAMPLE, features=COMPOSITE_FEATURES, params=PARAMS), threshold=0.34)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as training writes it."""
    folder = tmp_path_factory.mktemp("model")
    FULL.save(folder)
    ALONE.save(folder / "bands")
    return folder


def expected(frame: pd.DataFrame, model: Model) -> np.ndarray:
    """Return the probability of rows of a sample to 1e-4, by pandas, numpy and XGBoost."""
    codes = np.full((len(frame), len(model.features)), 255, np.uint8)
    for place, (name, edges) in enumerate(zip(model.features, model.edges, strict=True)):
        values = frame[name].to_numpy()
        codes[:, place] = np.where(values == MISSING, 255, (values[:, np.newaxis] >= edges).sum(axis=1))
    booster = xgboost.Booster(model_file=bytearray(model.trees))
    found = booster.predict(xgboost.DMatrix(codes.astype(np.float32), missing=255))
    return np.rint(found * 10_000).astype(float) / 10_000


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def predicted(path: Path, folder: Path, **options: str) -> tuple[pd.DataFrame, str]:
    """Return the table written for a table, and the name of the model taken."""
    table = open_table(path)
    survey = survey_table(table, further=further_features(FULL), **options)
    choice = choose_model(FULL, folder, table, foreign=survey.foreign)
    out = path.with_name(f"out{path.suffix}")
    outcome = predict_table(table, out, choice.model, survey)
    found = read(out)
    assert outcome.rows == len(found)
    assert outcome.missing == found["probability"].isna().sum() == found["class"].isna().sum()
    assert outcome.mangrove == (found["class"] == "mangrove").sum()
    return found, choice.name


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_ours_gives_what_xgboost_gives_for_its_features(tmp_path, folder, suffix):
    path = write(SAMPLE, tmp_path / f"table{suffix}")
    found, name = predicted(path, folder)
    assert name == "full"
    probability = expected(SAMPLE, FULL)
    np.testing.assert_array_equal(found["probability"], probability)
    assert (found["class"] == np.where(found["probability"] >= 0.34, "mangrove", "other")).all()
    assert found["class"].nunique() == 2
    pd.testing.assert_frame_equal(found.drop(columns=["probability", "class"]), read(path))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("scale", ["dn", "collection1", "reflectance"])
def test_bands_alone_of_any_scale_are_predicted_by_the_bands_model(tmp_path, folder, suffix, scale):
    rho = SAMPLE[list(BANDS)] * 2.75e-5 - 0.2
    bands = {"dn": SAMPLE[list(BANDS)], "collection1": (rho * 1e4).round(), "reflectance": rho}[scale]
    bands.columns = ["SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7"]
    frame = bands.assign(name=[f"plot, {i}" for i in range(len(bands))], ndvi=0.5)
    found, name = predicted(write(frame, tmp_path / f"table{suffix}"), folder)
    assert name == "bands"
    assert list(found.columns) == [*frame.columns, "probability", "class"]
    dn = SAMPLE[list(BANDS)]
    if scale == "collection1":
        dn = ((bands.set_axis(BANDS, axis=1) * 1e-4 + 0.2) / 2.75e-5).round().astype(int)
    indices = pd.DataFrame(spectral_indices(dn.to_numpy(np.uint16).T).T, columns=INDICES)
    probability = expected(pd.concat([dn, indices], axis=1), ALONE)
    np.testing.assert_array_equal(found["probability"], probability)
    assert (found["class"] == np.where(found["probability"] >= 0.34, "mangrove", "other")).all()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_calibrated_model_gives_calibrated_probabilities_and_its_threshold_is_on_them(tmp_path, suffix):
    curve = Calibration(np.array([0.3, 0.5]), np.array([0.02, 0.9]))
    model = replace(ALONE, calibration=curve, threshold=0.25)
    table = open_table(write(SAMPLE[list(BANDS)], tmp_path / f"t{suffix}"))
    predict_table(table, tmp_path / f"o{suffix}", model, survey_table(table))
    found = read(tmp_path / f"o{suffix}")
    by_hand = np.interp(expected(SAMPLE, ALONE), [0.3, 0.5], [0.02, 0.9])
    np.testing.assert_allclose(found["probability"], by_hand, atol=6e-5)
    assert (found["class"] == np.where(found["probability"] >= 0.25, "mangrove", "other")).all()
    assert found["class"].nunique() == 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_notice_of_a_model_is_on_every_row_it_predicts(tmp_path, suffix):
    model = replace(ALONE, metrics={"notice": 'SIMULATED: "no real place", at all'})
    table = open_table(write(SAMPLE[list(BANDS)], tmp_path / f"t{suffix}"))
    predict_table(table, tmp_path / f"o{suffix}", model, survey_table(table), prefix="m_")
    found = read(tmp_path / f"o{suffix}")
    assert list(found.columns[-3:]) == ["m_probability", "m_class", "m_notice"]
    assert set(found["m_notice"]) == {'SIMULATED: "no real place", at all'}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_without_bands_are_missing_and_stand_where_they_stood(tmp_path, folder, suffix):
    frame = SAMPLE[[*BANDS, "region"]].astype(dict.fromkeys(BANDS, float)).reset_index(drop=True)
    frame.loc[3, "red"] = np.nan
    frame.loc[5, "swir22"] = 0
    frame.loc[[8, 9], list(BANDS)] = [[-9999.0] * 6, [float(MISSING)] * 6]
    found, _ = predicted(write(frame, tmp_path / f"table{suffix}"), folder)
    assert np.flatnonzero(found["probability"].isna()).tolist() == [3, 5, 8, 9]
    assert np.flatnonzero(found["class"].isna()).tolist() == [3, 5, 8, 9]
    whole, _ = predicted(write(SAMPLE[list(BANDS)], tmp_path / f"whole{suffix}"), folder)
    seen = found["probability"].notna()
    assert (found["probability"][seen] == whole["probability"][seen]).all()


def test_a_part_of_a_table_is_predicted_as_the_whole(tmp_path, folder, monkeypatch):
    frame = pd.concat([SAMPLE] * 3, ignore_index=True)[[*BANDS, "region"]]
    whole = {suffix: predicted(write(frame, tmp_path / f"a{suffix}"), folder)[0] for suffix in (".csv", ".parquet")}
    monkeypatch.setattr(predict, "_PART_ROWS", 101)
    monkeypatch.setattr(predict, "MAX_LINE_BYTES", 4096)
    for suffix, found in whole.items():
        table = open_table(tmp_path / f"a{suffix}")
        assert len(list(predict._parts(table, ["red"]))) > 20
        pd.testing.assert_frame_equal(predicted(tmp_path / f"a{suffix}", folder)[0], found)


def test_no_more_of_a_parquet_table_is_held_than_a_part(tmp_path):
    size, groups = 20_000, 40
    group = pa.table({"red": np.random.default_rng(0).integers(0, 2**60, size)})
    with pq.ParquetWriter(tmp_path / "t.parquet", group.schema) as writer:
        for _ in range(groups):
            writer.write_table(group)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in predict._whole_parts(open_table(tmp_path / "t.parquet"), [])]
    assert max(held) < 0.25 * groups * group.nbytes


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_fields_of_a_csv_come_through_whatever_they_hold(tmp_path_factory, rows, end, mark):
    folder = tmp_path_factory.getbasetemp()
    path, out = folder / "odd.csv", folder / "odd-out.csv"
    header = ["a", *BANDS, 'say "b", c']
    fields = [[first, *map(str, SAMPLE[list(BANDS)].iloc[0]), last] for first, last in rows]
    content = io.StringIO()
    csv.writer(content, lineterminator=end).writerows([header, *fields])
    path.write_bytes(b"\xef\xbb\xbf" * mark + content.getvalue().encode())
    table = open_table(path)
    predict_table(table, out, ALONE, survey_table(table))
    with out.open(encoding="utf-8", newline="") as file:
        [head, *found] = csv.reader(file)
    assert head == [*header, "probability", "class"]
    assert [row[:-2] for row in found] == fields
    assert {row[-1] for row in found} <= {"mangrove", "other"}


def test_a_csv_in_another_encoding_keeps_its_bytes(tmp_path):
    line = b"C\xf4te," + ",".join(map(str, SAMPLE[list(BANDS)].iloc[0])).encode()
    (tmp_path / "a.csv").write_bytes(b"r\xe9gion," + ",".join(BANDS).encode() + b"\n" + line + b"\n")
    table = open_table(tmp_path / "a.csv")
    predict_table(table, tmp_path / "b.csv", ALONE, survey_table(table))
    head, row = (tmp_path / "b.csv").read_bytes().splitlines()
    assert head.startswith(b"r\xe9gion,blue,")
    assert row.startswith(line + b",0.")


def test_a_parquet_table_keeps_types_index_and_metadata(tmp_path):
    frame = SAMPLE.head(20)[list(BANDS)].assign(
        when=pd.Timestamp("2020-01-01"), kind=pd.Categorical(["a", "b"] * 10), tags=[["x"]] * 20, code=np.uint8(3)
    )
    frame.index = pd.Index(range(100, 120), name="plot")
    table = open_table(write(frame, tmp_path / "a.parquet"))
    predict_table(table, tmp_path / "b.parquet", ALONE, survey_table(table), about={"model": "bands"})
    found = pd.read_parquet(tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(found.drop(columns=["probability", "class"]), pd.read_parquet(tmp_path / "a.parquet"))
    schema = pq.read_schema(tmp_path / "b.parquet")
    assert json.loads(schema.metadata[b"mangroves"]) == {"notice": "", "model": "bands"}
    assert schema.field("probability").type == pa.float64()


def test_each_row_is_read_by_the_sensor_of_its_platform(tmp_path, folder):
    dn = SAMPLE.head(40)[list(BANDS)].to_numpy()
    old = np.arange(40) % 2 == 0
    columns = {f"SR_B{number}": np.full(40, np.nan) for number in range(1, 8)}
    for place, (new_number, old_number) in enumerate(zip((2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 7), strict=True)):
        columns[f"SR_B{new_number}"][~old] = dn[~old, place]
        columns[f"SR_B{old_number}"][old] = dn[old, place]
    columns["SR_B1"][~old] = 8000  # coastal
    frame = pd.DataFrame(columns).assign(SPACECRAFT_ID=np.where(old, "LANDSAT_5", "LANDSAT_8"))
    plain, _ = predicted(write(SAMPLE.head(40)[list(BANDS)], tmp_path / "plain.parquet"), folder)
    for suffix in (".csv", ".parquet"):
        found, _ = predicted(write(frame, tmp_path / f"both{suffix}"), folder)
        assert found["probability"].tolist() == plain["probability"].tolist()
        nobody = frame.assign(SPACECRAFT_ID=frame["SPACECRAFT_ID"].where(np.arange(40) != 4))
        found, _ = predicted(write(nobody, tmp_path / f"nobody{suffix}"), folder)
        assert np.flatnonzero(found["probability"].isna()).tolist() == [4]
    strange = write(frame.assign(SPACECRAFT_ID="SENTINEL-2A"), tmp_path / "strange.csv")
    with pytest.raises(ConfigError, match="'SPACECRAFT_ID' says 'SENTINEL-2A', which is no Landsat platform"):
        predicted(strange, folder)
    half = write(frame.drop(columns="SR_B6"), tmp_path / "half.csv")
    with pytest.raises(ConfigError, match="says 'LANDSAT_8', but of numbered bands only those of TM are there: SR_B1"):
        predicted(half, folder)


def test_a_temperature_is_not_read_as_a_band_even_where_the_scale_is_given(tmp_path):
    rho = (SAMPLE[list(BANDS)] * 2.75e-5 - 0.2).to_numpy()
    columns = dict(zip(("B1", "B2", "B3", "B4", "B5", "B7"), (rho * 1e4).round().T, strict=True))
    table = open_table(write(pd.DataFrame({**columns, "B6": 2950.0}), tmp_path / "t.csv"))
    for scale in (None, "collection1"):
        with pytest.raises(ConfigError, match="band 6 looks like a temperature"):
            survey_table(table, scale=scale)
    assert survey_table(table, sensor="tm").scale == "collection1"


# --- which model -----------------------------------------------------------------------------------------------


def test_the_richest_model_is_taken_whose_features_the_table_has(tmp_path, folder):
    def chosen(frame: pd.DataFrame) -> tuple[str, str]:
        table = open_table(write(frame, tmp_path / "t.csv"))
        survey = survey_table(table, further=further_features(FULL))
        choice = choose_model(FULL, folder, table, foreign=survey.foreign)
        return choice.name, choice.reason

    assert chosen(SAMPLE) == ("full", "the table has bands and 7 further features of the full model")
    name, reason = chosen(SAMPLE.drop(columns=["water_frequency"]))
    assert (name, reason) == ("bands", "the table lacks water_frequency of the full model's 20 features")
    assert "lacks ndvi_p10, ndvi_p90, ndvi_range and 4 more" in chosen(SAMPLE[list(BANDS)])[1]
    # The same name in another unit is another feature.
    name, reason = chosen(SAMPLE.assign(ndvi_p10=SAMPLE["ndvi_p10"] / 10_000))
    assert name == "bands"
    assert "column ndvi_p10 holds fractions" in reason


def test_neighbourhoods_are_taken_from_tables_of_dn_alone(tmp_path, folder):
    around = SAMPLE.assign(red_150m=SAMPLE["red"])
    full = fit(around, features=(*COMPOSITE_FEATURES, "red_150m"), params=PARAMS)
    whole = around.copy()
    whole[list(BANDS)] = ((SAMPLE[list(BANDS)] * 2.75e-5 - 0.2) * 1e4).round().astype(int)
    for frame, name in ((around, "full"), (whole, "bands")):
        table = open_table(write(frame, tmp_path / "t.csv"))
        survey = survey_table(table, further=further_features(full))
        choice = choose_model(full, folder, table, foreign=survey.foreign)
        assert choice.name == name
    assert choice.reason == "column red_150m is of bands that are not DN"


def test_indices_come_from_the_bands_whatever_the_table_says(tmp_path, folder):
    plain, _ = predicted(write(SAMPLE, tmp_path / "a.csv"), folder)
    wrong, name = predicted(write(SAMPLE.assign(**dict.fromkeys(INDICES, 77)), tmp_path / "b.csv"), folder)
    assert name == "full"
    assert (plain["probability"] == wrong["probability"]).all()


def test_without_a_bands_model_it_says_what_the_table_lacks(tmp_path):
    FULL.save(tmp_path / "model")
    table = open_table(write(SAMPLE[list(BANDS)], tmp_path / "t.csv"))
    with pytest.raises(ModelError, match=r"lacks ndvi_p10.*, and .*model has no model of bands alone"):
        choose_model(FULL, tmp_path / "model", table)
    FULL.save(tmp_path / "model" / "bands")
    with pytest.raises(ModelError, match=r"bands needs ndvi_p10, .*, which are no bands"):
        choose_model(FULL, tmp_path / "model", table)
    (tmp_path / "model" / "bands" / "model.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.json does not match"):
        choose_model(FULL, tmp_path / "model", table)


def test_further_features_are_missing_where_the_table_does_not_know_them():
    dn = SAMPLE[list(BANDS)].head(6).to_numpy(np.uint16).T.copy()
    dn[:, 5] = 0
    values = np.array([np.nan, MISSING, -32768, 65535, 4, 4])
    further = {"ndvi_p10": values, "water_frequency": values}
    found = features_of(dn, ("red", "ndvi_p10", "water_frequency", "ndvi"), further)
    assert found[0].tolist() == [*dn[2, :5], MISSING]
    assert found[1].tolist() == [MISSING, MISSING, MISSING, 65535, 4, MISSING]
    assert found[2].tolist() == [MISSING, MISSING, MISSING, MISSING, 4, MISSING]
    assert found[3].tolist() == [*spectral_indices(dn)[0, :5], MISSING]


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[:0], "has no rows"),
        (lambda f: f.drop(columns="red"), r"red is missing; found 'blue', 'green'"),
        (lambda f: f.assign(red=["high", *["9000"] * 39]), "column 'red' holds text: 'high' in row 1"),
        (lambda f: f.assign(red=[*["9000"] * 39, "9 000"]), "column 'red' holds text: '9 000' in row 40"),
        (lambda f: f.assign(red=np.nan), "no row has a value in all six bands"),
        (lambda f: pd.concat([f, f * 2.75e-5 - 0.2]), "scale of the bands is not clear"),
    ],
)
def test_bad_tables_are_told_in_one_line(tmp_path, folder, suffix, change, message):
    path = write(change(SAMPLE.head(40)[list(BANDS)]), tmp_path / f"t{suffix}")
    with pytest.raises(ConfigError, match=message) as caught:
        predicted(path, folder)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_text_that_is_numbers_is_numbers_and_other_types_are_not(tmp_path, folder):
    frame = SAMPLE.head(40)[list(BANDS)]
    plain, _ = predicted(write(frame, tmp_path / "a.parquet"), folder)
    words, _ = predicted(write(frame.astype(str).astype({"red": "category"}), tmp_path / "b.parquet"), folder)
    assert (plain["probability"] == words["probability"]).all()
    for values in (True, pd.Timestamp("2020-01-01"), [[1]] * 40):
        with pytest.raises(ConfigError, match=r"column 'red' is .*, not numbers"):
            predicted(write(frame.assign(red=values), tmp_path / "c.parquet"), folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"red\n1\n", "neither CSV nor Parquet"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n\n", "is empty"),
        ("t.csv", b"blue;green;red\n1;2;3\n", "does not part its columns by commas"),
        ("t.csv", b"x," * 5000 + b"y\n1", "has 5001 columns"),
        ("t.csv", b"x" * (2**23 + 1), "begins with a line of more than 8 MB"),
        ("t.csv", b"blue,green,red,nir,swir1,swir2\n1,2,3\n", r"cannot be read .*Expected 6 columns, got 3"),
        ("t.csv", b"blue,green,red,nir,swir1,swir2\n" + b"1" * (2**24 + 9), "cannot be read"),
        ("t.csv", b'"blue\n', "cannot be read"),
        ("t.parquet", b"PAR1 not really PAR1", "cannot be read"),
        ("t.parquet", b"", "cannot be read"),
    ],
)
def test_files_that_are_no_tables_are_told_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        survey_table(open_table(tmp_path / name))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is not there"):
        open_table(tmp_path / "other.csv")


def test_outputs_that_cannot_be_are_refused_before_anything_is_read(tmp_path):
    table = open_table(write(SAMPLE.head(3), tmp_path / "t.csv"))
    assert check_output(table, tmp_path / "o.csv", "m_") == ("m_probability", "m_class")
    for out, prefix, message in (
        ("t.csv", "", "is the table itself"),
        ("o.parquet", "", "not of the table's kind"),
        ("o.csv", "a,b", "not a plain name"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_output(table, tmp_path / out, prefix)
    taken = open_table(write(SAMPLE.head(3).assign(probability=1), tmp_path / "taken.csv"))
    with pytest.raises(ConfigError, match="has a column 'probability' already"):
        check_output(taken, tmp_path / "o.csv")


def test_a_table_that_changes_meanwhile_leaves_no_output(tmp_path):
    table = open_table(write(SAMPLE.head(30), tmp_path / "t.csv"))
    survey = survey_table(table)
    write(SAMPLE.head(20), tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="changed while it was read"):
        predict_table(table, tmp_path / "o.csv", ALONE, survey)
    assert not (tmp_path / "o.csv").exists()


# --- real pixels -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_file(), reason="needs ../shared/data")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_real_pixels_of_three_satellites_are_predicted_as_they_come(tmp_path, folder, suffix):
    frame = pd.read_parquet(REAL)
    path = write(frame, tmp_path / f"real{suffix}")
    found, name = predicted(path, folder)
    assert name == "bands"
    pd.testing.assert_frame_equal(found.drop(columns=["probability", "class"]), read(path))
    # The same by pandas: L8 by its own numbers, L5 and L7 by theirs.
    new = frame["SPACECRAFT_ID"] == "LANDSAT_8"
    pairs = zip(BANDS, (2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 7), strict=True)
    dn = pd.DataFrame({band: frame[f"SR_B{n}"].where(new, frame[f"SR_B{o}"]) for band, n, o in pairs})
    seen = (dn > 0).all(axis=1)
    assert (found["probability"].notna() == seen).all()
    assert 4900 < seen.sum() < 5000
    dn = dn[seen].astype(int).reset_index(drop=True)
    indices = pd.DataFrame(spectral_indices(dn.to_numpy(np.uint16).T).T, columns=INDICES)
    probability = expected(pd.concat([dn, indices], axis=1), ALONE)
    np.testing.assert_array_equal(found["probability"][seen], probability)


def repeated(text: str, rows: int, place: Path) -> Path:
    """Write a table of one text in every band and row, kept once."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "int32")), pa.array([text]))
    pq.write_table(pa.table(dict.fromkeys(BANDS, column)), place, compression="zstd", store_schema=False)
    return place


@pytest.mark.parametrize(
    ("text", "rows", "said"),
    [("9" * 1_000_000, 1_000_000, "unpacks to over"), ("9" * (2**23 + 1), 3, "holds a text of 8 MB")],
)
def test_text_that_unpacks_without_end_is_refused_before_it_is_unpacked(tmp_path, text, rows, said):
    table = open_table(repeated(text, rows, tmp_path / "t.parquet"))
    before = pa.total_allocated_bytes()
    with pytest.raises(ConfigError, match=said):
        survey_table(table)
    assert pa.total_allocated_bytes() - before < 2**27


def test_text_is_counted_however_deep_it_lies(tmp_path):
    kind = pa.struct({"a": pa.binary(), "b": pa.map_(pa.string(), pa.list_(pa.string()))})
    rows = [{"a": b"four", "b": [("key", ["one", None]), ("k", None)]}, None, {"a": None, "b": []}]
    pq.write_table(pa.table({"deep": pa.array(rows, kind)}), tmp_path / "t.parquet")
    with unpacked.open_packed(tmp_path / "t.parquet") as file:
        [batch] = file.iter_batches()
    assert unpacked.text_bytes(batch.column(0)).tolist() == [4 + 3 + 3 + 1, 0, 0]
    assert unpacked.text_bytes(batch.column(0).slice(1)).tolist() == [0, 0]


@given(
    notes=st.lists(st.none() | st.text(max_size=12), min_size=1, max_size=40),
    kind=st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
    part=st.integers(1, 40),
)
@settings(max_examples=30)
def test_text_passes_through_in_parts_of_any_size(tmp_path_factory, notes, kind, part):
    folder = tmp_path_factory.mktemp("text")
    frame = pa.table(
        {**{band: pa.array([9000 + 7 * place] * len(notes)) for place, band in enumerate(BANDS)}}
        | {"note": pa.array(notes, pa.string()).cast(kind)}
    )
    pq.write_table(frame, folder / "t.parquet")
    table = open_table(folder / "t.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unpacked, "PART_BYTES", part)
        predict_table(table, folder / "o.parquet", ALONE, survey_table(table))
    found = pq.read_table(folder / "o.parquet")
    assert found.column("note").type == kind
    assert found.column("note").to_pylist() == notes
