"""What a person sees, and what a program reads."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from jobs import reporter
from jobs.reporter import Reporter


def test_progress_passes_items_on_and_counts_to_the_end(capsys):
    assert list(Reporter().track("abc", 3, "cube")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "cube      3/3  0 s, about 0 s left\n", "not a terminal: no line for each item"


def test_progress_that_takes_long_is_told_between(capsys, monkeypatch):
    seconds = iter([100, 104, 106, 107, 112])
    monkeypatch.setattr(reporter, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    list(Reporter().track("abcd", 4, "cube"))
    assert capsys.readouterr().err.splitlines() == [
        "cube      2/4  6 s, about 6 s left",
        "cube      4/4  12 s, about 0 s left",
    ]


@pytest.mark.parametrize("as_json", [True, False])
def test_json_is_all_there_is_on_standard_output(capsys, as_json):
    reporter = Reporter(as_json=as_json)
    reporter.table("Areas", ("region", "ha"), [("park [/b]", 1.5)])
    reporter.say("a line [of] progress")
    reporter.result({"ha": 1.5}, "1.5 ha [east]")
    out, err = capsys.readouterr()
    assert err == "a line [of] progress\n"
    if as_json:
        assert json.loads(out) == {"ha": 1.5}
    else:
        assert out.startswith("Areas")
        assert out.endswith("1.5 ha [east]\n")
        assert "park [/b]" in out, "a name is no markup"
