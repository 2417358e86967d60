"""The count of promises, put to the test itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]

SAMPLE = """
import pytest

def test_one(promise):
    with promise("R1", "a fault that is survived"):
        pass
    with promise("R1", "one that is not"):
        raise ValueError("lost")
    with promise("S1", "another"):
        pass

def test_two(promise):
    promise.cannot("R7", ["a full disk"], "no mounts here")

def test_three(promise):
    with promise("R8", "one that nothing refuses"):
        with pytest.raises(ValueError):
            pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_faults_are_counted_by_promise_also_across_processes(pytester, monkeypatch, workers) -> None:
    pytester.makeconftest((ROOT / "tests" / "faults" / "conftest.py").read_text())
    pytester.makepyfile(SAMPLE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = pytester.runpytest_subprocess("--faults-json", "faults.json", *workers)
    counts = json.loads((pytester.path / "faults.json").read_text())
    assert counts["R1"] == {"injected": 2, "held": 1}
    assert counts["S1"] == {"injected": 1, "held": 1}
    assert counts["R8"] == {"injected": 1, "held": 0}
    assert counts["R7"] == {"injected": 1, "held": 0}
    assert counts["R2"] == {"injected": 0, "held": 0}
    done.stdout.fnmatch_lines(["*R1, one that is not: ValueError: lost*", "*R1*1 of 2*BROKEN"])
