"""A run's record survives being killed, keeps no secret, and never mixes two configurations."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine.record
from engine.code import code_sha256
from engine.errors import SceneError, StoreError
from engine.places import ObjectPath, entries
from engine.record import open_record, read_record

CONFIG = {
    "name": "fiji",
    "out": "runs",
    "years": [2019, 2020],
    "cube": {"min_looks": 3, "keep": "annual"},
    "notice": "SIMULATED data",
}


def _read(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def _freeze(folder: Path, ids=("a", "b", "c")) -> Path:
    pd.DataFrame({"id": list(ids)}).to_parquet(folder / "items.parquet")
    return folder / "items.parquet"


def test_a_record_says_what_made_the_run_and_what_it_cost(tmp_path):
    folder = tmp_path / "fiji"
    with open_record(folder, CONFIG) as record:
        assert not record.resumed
        assert _read(folder)["status"] == "running"
        with record.stage("search") as counts:
            record.note_items(_freeze(folder), [("LC08_X", "no qa_pixel asset")])
            counts.update(scenes=np.int64(3))
        record.note_masks([{"name": "GMW", "year": 2020, "licence": "CC-BY-4.0"}])
        record.note_harmonisation({"lines": {"TM": ((0.98, 0.002),)}})
        record.note_scene_lost("LE07_Y", "red: truncated", tile="z01_c01_r+001", year=2019)
    data = _read(folder)
    assert data["status"] == "finished"
    assert data["name"] == "fiji"
    assert data["notice"] == "SIMULATED data"
    assert data["config"] == CONFIG
    assert data["stages"]["search"]["counts"] == {"scenes": 3}
    assert data["stages"]["search"]["seconds"] >= 0
    digest = hashlib.sha256((folder / "items.parquet").read_bytes()).hexdigest()
    assert data["items"] == {"file": "items.parquet", "count": 3, "sha256": digest}
    assert data["refused"] == [{"scene": "LC08_X", "reason": "no qa_pixel asset"}]
    assert data["lost"] == [
        {"scene": "LE07_Y", "tile": "z01_c01_r+001", "year": 2019, "cause": "red: truncated"},
    ]
    assert data["masks"][0]["licence"] == "CC-BY-4.0"
    assert data["harmonisation"] == {"lines": {"TM": [[0.98, 0.002]]}}
    [session] = data["sessions"]
    assert session["versions"]["mangroves"] == engine.__version__
    assert session["versions"]["engine_sha256"] == code_sha256()
    assert {"numpy", "rasterio", "gdal", "python"} <= set(session["versions"])
    assert session["started"] <= session["ended"]


def test_two_commands_do_not_work_on_one_run_at_once(tmp_path):
    folder = tmp_path / "fiji"
    with open_record(folder, CONFIG):
        before = _read(folder)
        for fresh in (False, True):
            with pytest.raises(StoreError, match=r"another command works on .*fiji; wait for it, or stop it"):
                open_record(folder, CONFIG, fresh=fresh).__enter__()
        assert _read(folder) == before
        with open_record(folder / "study", CONFIG):
            pass  # a run inside this one is another
    with open_record(folder, CONFIG) as record:
        assert record.resumed


def test_a_second_command_goes_on_with_the_record(tmp_path):
    for _ in range(2):
        with open_record(tmp_path / "fiji", CONFIG) as record:
            with record.stage("cube") as counts:
                time.sleep(0.02)
                counts["done"] = 4 if not record.resumed else 0
            record.note_scene_lost("S", "red: gone", tile="t", year=2019)
    assert record.resumed
    data = _read(tmp_path / "fiji")
    assert len(data["sessions"]) == 2
    assert data["stages"]["cube"]["runs"] == 2
    assert data["stages"]["cube"]["seconds"] >= 0.04
    assert data["stages"]["cube"]["counts"] == {"done": 0}
    assert len(data["lost"]) == 1


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ({"cube": {"min_looks": 4, "keep": "annual"}}, "cube.min_looks"),
        ({"years": [2019], "season": None, "seed": 2}, "seed, years"),
        ({"habitat": {"max_elevation_m": 40.0}}, "habitat.max_elevation_m"),
    ],
)
def test_a_changed_configuration_is_refused_naming_what_differs(tmp_path, change, keys):
    with open_record(tmp_path / "fiji", CONFIG):
        (tmp_path / "fiji" / "cube").mkdir()
    before = (tmp_path / "fiji" / "run.json").read_bytes()
    with (
        pytest.raises(
            StoreError, match=rf"another configuration \(differs in: {keys}\); choose another name or .*--fresh"
        ),
        open_record(tmp_path / "fiji", {**CONFIG, **change}),
    ):
        pytest.fail("opened")
    assert (tmp_path / "fiji" / "run.json").read_bytes() == before


def test_where_to_work_and_going_on_without_bad_scenes_does_not_make_another_run(tmp_path):
    with open_record(tmp_path / "fiji", CONFIG):
        pass
    with open_record(tmp_path / "fiji", {**CONFIG, "out": "elsewhere", "skip_bad": True}) as record:
        (tmp_path / "fiji" / "cube").mkdir()
        assert record.resumed
    how = {"cube": {**CONFIG["cube"], "block_px": 256}, "train": {"distributed": "yes"}, "change": {"by": "name"}}
    with open_record(tmp_path / "fiji", {**CONFIG, **how}) as record:
        assert record.resumed


def test_a_run_that_was_only_planned_starts_anew_with_another_configuration(tmp_path):
    with open_record(tmp_path / "fiji", CONFIG):
        _freeze(tmp_path / "fiji")
    with open_record(tmp_path / "fiji", {**CONFIG, "years": [2001]}) as record:
        assert not record.resumed
    assert not (tmp_path / "fiji" / "items.parquet").exists()


def test_fresh_sets_the_old_run_aside_whole(tmp_path):
    with open_record(tmp_path / "fiji", CONFIG):
        (tmp_path / "fiji" / "cube").mkdir()
    with open_record(tmp_path / "fiji", {**CONFIG, "years": [2001]}, fresh=True) as record:
        assert not record.resumed
    assert sorted(p.name for p in (tmp_path / "fiji").iterdir()) == ["run.json"]
    [aside] = tmp_path.glob("fiji-*")
    assert aside.name.startswith("fiji-2")
    assert _read(aside)["config"]["years"] == [2019, 2020]
    assert (aside / "cube").is_dir()


def test_a_store_keeps_a_copy_of_the_record_that_its_files_refer_to(tmp_path, bucket):
    outputs = bucket / "fiji"
    with open_record(tmp_path / "fiji", CONFIG, outputs=outputs) as record:
        beside = record.write_beside(outputs / "maps" / "2020" / "class_2020.vrt")
        local = record.write_beside(tmp_path / "fiji" / "areas.csv")
    assert (outputs / "run.json").read_text() == (tmp_path / "fiji" / "run.json").read_text()
    assert json.loads(beside.read_text())["record"] == "../../run.json"
    assert json.loads(local.read_text())["record"] == "run.json"


def test_a_store_belongs_to_one_run(tmp_path, bucket):
    outputs = bucket / "fiji"
    with open_record(tmp_path / "fiji", CONFIG, outputs=outputs):
        pass
    # Only planned: what nothing was made from binds nobody, here either.
    with open_record(tmp_path / "fiji", {**CONFIG, "years": [2001]}, outputs=outputs) as record:
        assert not record.resumed
        (outputs / "cube" / "a.json").write_bytes(b"{}")
    with open_record(tmp_path / "fiji", {**CONFIG, "years": [2001]}, outputs=outputs) as record:
        assert record.resumed
    refusals = {
        tmp_path / "fiji": r"another configuration \(differs in: years\)",
        tmp_path / "other": "fiji holds files of another run than .*other; choose another name or pass --fresh",
    }
    for folder, refusal in refusals.items():
        with pytest.raises(StoreError, match=refusal):
            open_record(folder, CONFIG, outputs=outputs).__enter__()
    with open_record(tmp_path / "third", CONFIG):
        pass
    with pytest.raises(StoreError, match="files of another run"):
        open_record(tmp_path / "third", CONFIG, outputs=outputs).__enter__()


def test_fresh_sets_aside_what_is_in_the_store_too(tmp_path, bucket):
    outputs = bucket / "fiji"
    with open_record(tmp_path / "fiji", CONFIG, outputs=outputs):
        (outputs / "cube" / "a.json").write_bytes(b"{}")
    with open_record(tmp_path / "fiji", {**CONFIG, "years": [2001]}, outputs=outputs, fresh=True) as record:
        assert not record.resumed
    assert [path.name for paths in entries(outputs) for path in paths] == ["run.json"]
    [aside] = [path for path in entries(bucket)[0] if path != outputs]
    assert aside.name.startswith("fiji-2")
    assert (aside / "cube" / "a.json").is_file()
    assert json.loads((aside / "run.json").read_text())["config"]["years"] == [2019, 2020]


def test_a_store_that_does_not_answer_is_one_clear_line(tmp_path, bucket):
    outputs = ObjectPath("s3://no-such-bucket-anywhere/fiji")
    with pytest.raises(StoreError, match=r"fiji cannot be read \(.+\); see to its bucket"):
        open_record(tmp_path / "fiji", CONFIG, outputs=outputs).__enter__()
    assert not (tmp_path / "fiji").exists()


def test_a_folder_with_files_of_no_run_is_refused(tmp_path):
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(StoreError, match=r"holds files but no run\.json"), open_record(tmp_path, CONFIG):
        pytest.fail("opened")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.doc"]


def test_leftovers_of_a_write_that_was_cut_off_are_no_files_of_a_run(tmp_path):
    (tmp_path / ".run.12345678.part.json").write_text("{")
    with open_record(tmp_path, CONFIG) as record:
        assert not record.resumed


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": 1}', '"\ud83d"'])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(StoreError, match=r"run\.json is damaged"), open_record(tmp_path, CONFIG):
        pytest.fail("opened")


@pytest.mark.parametrize(
    "change",
    [
        {"status": None}, {"name": []}, {"items": [1]}, {"items": {"sha256": ""}}, {"lost": [5]}, {"lost": [{}]},
        {"stages": {"plan": {}}}, {"stages": {"plan": {"seconds": "1", "runs": 1, "counts": {}}}},
        {"stages": {"plan": {"seconds": 1.0, "runs": 1, "counts": []}}},
    ],
)  # fmt: skip
def test_a_record_that_somebody_changed_is_refused_where_it_is_read(tmp_path, change):
    with open_record(tmp_path, CONFIG) as record, record.stage("plan"):
        pass
    (tmp_path / "run.json").write_text(json.dumps({**record.data, **change}))
    with pytest.raises(StoreError, match=r"run\.json is damaged"):
        read_record(tmp_path)


def test_a_changed_item_list_or_version_is_refused(tmp_path, monkeypatch):
    with open_record(tmp_path, CONFIG) as record:
        record.note_items(_freeze(tmp_path))
    _freeze(tmp_path, ids=("a", "b"))
    with pytest.raises(StoreError, match=r"items\.parquet is not the item list this run froze"):
        open_record(tmp_path, CONFIG).__enter__()
    _freeze(tmp_path)
    monkeypatch.setattr(engine, "__version__", "99.0")
    with pytest.raises(StoreError, match=r"made with mangroves .*, this is 99\.0"):
        open_record(tmp_path, CONFIG).__enter__()


def test_an_item_list_that_was_frozen_but_not_noted_is_noted_on_resuming(tmp_path):
    with open_record(tmp_path, CONFIG):
        _freeze(tmp_path)
    with open_record(tmp_path, CONFIG) as record:
        assert record.data["items"]["count"] == 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [("", "SIMULATED a; SIMULATED b"), ("draft", "SIMULATED a; SIMULATED b; draft"), ("SIMULATED", "SIMULATED")],
)
def test_the_notice_comes_from_the_scenes_and_outlives_the_command(tmp_path, asked, said):
    frozen = tmp_path / "items.parquet"
    with open_record(tmp_path, {"notice": asked}) as record:
        pq.write_table(pa.table({"id": list("abc"), "notice": ["SIMULATED b", "", "SIMULATED a"]}), frozen)
        record.note_items(frozen)
        assert record.notice == said
    with open_record(tmp_path, {"notice": asked}) as record:
        assert record.notice == said


def test_a_failed_run_says_so_without_its_secrets(tmp_path):
    href = "https://x.blob/a.tif?se=2026&sig=SECRET"

    def work():
        with open_record(tmp_path, {**CONFIG, "catalog": href}) as record, record.stage("cube") as counts:
            record.note_scene_lost("S", f"403 from {href}", tile="t", year=2020)
            record.write_beside(tmp_path / "a.tif", source=href)
            counts["last"] = href
            raise SceneError(f"cannot read {href}")

    with pytest.raises(SceneError):
        work()
    data = _read(tmp_path)
    assert data["status"] == "failed"
    assert data["sessions"][0]["error"].startswith("SceneError: cannot read https://x.blob/a.tif?se=***")
    assert data["stages"]["cube"]["runs"] == 1
    for path in tmp_path.iterdir():
        assert "SECRET" not in path.read_text()


def test_a_token_renewed_in_the_configuration_does_not_make_another_run(tmp_path):
    with open_record(tmp_path, {**CONFIG, "catalog": "https://x/a?sig=one"}):
        pass
    with open_record(tmp_path, {**CONFIG, "catalog": "https://x/a?sig=two"}) as record:
        assert record.resumed


def test_an_output_carries_a_short_account_of_what_made_it(tmp_path):
    with open_record(tmp_path, CONFIG) as record:
        record.note_items(_freeze(tmp_path))
        beside = record.write_beside(tmp_path / "maps" / "class_2020.vrt", year=2020)
    account = json.loads(beside.read_text())
    assert beside.name == "class_2020.vrt.json"
    assert account["output"] == "class_2020.vrt"
    assert account["year"] == 2020
    assert account["notice"] == "SIMULATED data"
    assert account["record"] == "../run.json"
    assert account["config_sha256"] == record.config_sha256
    assert account["items"]["count"] == 3


_KILLED = """
import sys
from engine.places import ObjectPath, entries
from engine.record import open_record, read_record
with open_record(sys.argv[1], {"name": "x", "years": [2020]}) as record:
    with record.stage("cube"):
        print("working", flush=True)
        while True:
            record.save()
"""


def test_a_run_killed_half_way_leaves_a_valid_record_and_goes_on(tmp_path):
    folder = tmp_path / "x"
    root = Path(engine.record.__file__).parents[1]
    command = [sys.executable, "-c", _KILLED, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)})
    assert process.stdout.readline() == b"working\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert _read(folder)["status"] == "running"
    with open_record(folder, {"name": "x", "years": [2020]}) as record:
        assert record.resumed
    assert [session["status"] for session in _read(folder)["sessions"]] == ["running", "finished"]


def test_an_output_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with (
        pytest.raises(StoreError, match=r"fiji cannot be written \(.+\); free space or choose another out"),
        open_record(tmp_path / "runs" / "fiji", CONFIG),
    ):
        pytest.fail("opened")
