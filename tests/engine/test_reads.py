"""What is kept of what was read."""

from __future__ import annotations

import json

from engine.reads import Reads, read_reads, reads_path


def test_ranges_retries_and_faults_are_counted_by_file_and_seconds_in_the_whole(tmp_path):
    reads = Reads()
    once = reads.of_range({"scene": "a", "asset": "red"})
    with once.on("fetch", 10):
        pass
    twice = reads.of_range({"scene": "a", "asset": "red"})
    for _ in range(3):
        with twice.on("sign"):
            pass
        with twice.on("fetch", 5):
            pass
    twice.count("transient")
    twice.count("transient")
    twice.count(None)
    store = tmp_path / "2019.zarr"
    reads.write(reads_path(store), tile="t", year=2019, lost=[])
    assert read_reads(store) == {
        "tile": "t",
        "year": 2019,
        "scenes": {"a": {"red": {"ranges": 2, "bytes": 15, "retries": 2, "faults": {"transient": 2}}}},
        "lost": [],
    }
    assert reads.attempts_of("a", "red") == 3
    assert reads.attempts_of("a", "blue") == 0
    assert reads.bytes["fetch"] == 25
    assert set(reads.record()) == {"sign", "fetch"}


def test_a_store_without_a_ledger_has_none(tmp_path):
    assert read_reads(tmp_path / "2019.zarr") is None
    reads_path(tmp_path / "2019.zarr").write_text("{")
    assert read_reads(tmp_path / "2019.zarr") is None
    reads_path(tmp_path / "2019.zarr").write_text(json.dumps({"scenes": {}}))
    assert read_reads(tmp_path / "2019.zarr") == {"scenes": {}}
