"""A run compared with what was written, from the command line."""

from __future__ import annotations

import json
import shutil

from tests.jobs.calls import mangroves


def test_a_finished_run_is_whole_and_each_damage_is_one_line(finished_copy):
    whole = mangroves("verify", finished_copy.run, "--cluster", "threads", "--json")
    assert whole.code == 0, whole.err
    found = json.loads(whole.out)
    assert found["damaged"] == found["unfinished"] == []
    assert found["checked"]["stores"] == 12
    assert found["checked"]["models"] == 2
    part = sorted((finished_copy.run / "sample").glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    model = finished_copy.run / "model" / "model.json"
    model.write_bytes(model.read_bytes().replace(b"1", b"2", 1))
    (finished_copy.run / "areas.csv").unlink()
    items = finished_copy.run / "items.parquet"
    items.write_bytes(items.read_bytes() + b"?")
    sorted((finished_copy.run / "cube").rglob("2016.json"))[0].unlink()
    answer = mangroves("verify", finished_copy.run, "--cluster", "threads")
    assert answer.code == 1
    lines = [line for line in answer.err.splitlines() if line.startswith("damaged")]
    assert len(lines) == 4
    for name in (part.name, "model.json", "areas.csv", "items.parquet"):
        assert any(name in line for line in lines), name
    assert "not finished: " in answer.out


def test_what_is_gone_with_its_marker_is_missed_as_the_record_counted_it(finished_copy):
    run = finished_copy.run
    shutil.rmtree(run / "maps" / "2016")
    shutil.rmtree(run / "model" / "bands")
    (history,) = (run / "change" / "history").glob("z48*.zarr")
    shutil.rmtree(history)
    history.with_suffix(".json").unlink()
    answer = mangroves("verify", run, "--cluster", "threads")
    assert answer.code == 1
    assert f"2 of 4 outputs below {run / 'maps'} are missing" in answer.err
    assert f"1 of 2 outputs below {run / 'change' / 'history'} are missing" in answer.err
    assert f"model {run / 'model' / 'bands'} is missing" in answer.err
    assert "3 damaged or missing" in answer.out
