"""Every command and block of the documents is run: page by page, in order, in a small simulated world."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin
from shapely.geometry import Polygon, box

from engine.params import RunParams
from engine.profiles import read_profiles
from engine.simulate import Archive, WorldParams, write_archive
from jobs.config import parse_config
from tests.certificates import Authority
from tests.documents import DOCUMENTS, ROOT, RUN, SHELLS, Block, blocks_of, name_of
from tests.jobs.calls import mangroves

THREADS = "profiles:\n  local: {kind: threads}\n  big: {kind: threads}\n"
"""In place of workers, whose starts other tests see to."""

SHOW = ["mangroves", "cluster", "show"]

SHELL_SIGNS = re.compile(r"[|<>;&$`*]")


def needs_world(path: Path) -> bool:
    """Tell whether a page asks for more than what a profile would start: for a world and its runs."""
    return any(
        block.language == "python" or any(words[:3] != SHOW for _, words in block.lines())
        for block in blocks_of(path)
        if block.language in (*SHELLS, "python") and block.not_run is None
    )


PAGES = [
    pytest.param(path, id=name_of(path), marks=[pytest.mark.long] if needs_world(path) else [])
    for path in DOCUMENTS
    if any(block.language in RUN for block in blocks_of(path))
]


def config_of(archive: Archive, name: str, out: str) -> dict[str, Any]:
    """Return a small run over an archive, by paths of the working folder."""
    masks = [{"path": str(path), "year": year} for year, path in sorted(archive.masks.items())]
    return {
        "name": name,
        "out": out,
        "area": {"file": str(archive.regions), "name_field": "name"},
        "years": list(archive.params.years),
        "search": {"catalogs": [str(archive.items)]},
        "labels": {"masks": masks},
        "sample": {"mangrove": 200, "other": 400, "thinned": 1},
        "train": {"rounds": 10, "max_depth": 3, "folds": 2, "hold_out": ["sim-India"]},
        "tune": {"candidates": ["xgboost"], "trials": 2, "folds": 2, "repeats": 1, "rows": 500},
        "assess": {"most": 20, "min_per_large": 5, "min_per_stratum": 5},
    }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all that pages name: two finished runs, and tables and rasters from elsewhere.

    Beside it, as ``kept``, stands what it is made from anew for each page: scenes are known by their paths.
    """
    folder = tmp_path_factory.mktemp("pages") / "world"
    folder.mkdir()
    with contextlib.chdir(folder):
        Path("cluster.yaml").write_text(THREADS, encoding="utf-8")
        params = WorldParams(
            ("Vietnam2", "India"), (2016, 2020), size_px=80, scenes_per_year=4, mask_years=(2015, 2020)
        )
        archive = write_archive(params, Path("demo/archive"))
        write_yaml("my-coast.yaml", config_of(archive, "my-coast", "runs"))
        write_yaml("demo/config.yaml", config_of(archive, "run", "demo"))
        for arguments in (("run",), ("assess", "design")):
            answer = mangroves(*arguments, "my-coast.yaml")
            assert answer.code == 0, answer.err
        for template, labels in (("labels_template", "labels"), ("labels_template_reader2", "second")):
            fill(Path(f"runs/my-coast/assess/{template}.csv"), Path(f"{labels}.csv"))
        copy_run(Path("runs/my-coast"), Path("demo/run"))
        answer = mangroves("suggest", "demo/run", "--count", "20")
        assert answer.code == 0, answer.err
        fill(Path("demo/run/suggest/labels_template.csv"), Path("read.csv"))
        shutil.rmtree("demo/run/suggest")
        others(np.random.default_rng(1))
    shutil.copytree(folder, folder.with_name("kept"))
    return folder


def write_yaml(path: str, content: dict[str, Any]) -> None:
    """Write a mapping as YAML."""
    Path(path).write_text(yaml.safe_dump(content), encoding="utf-8")


def copy_run(run: Path, copy: Path) -> None:
    """Copy a run under another name, as if its configuration had asked for that."""
    shutil.copytree(run, copy)
    record = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    record["config"] |= {"name": copy.name, "out": str(copy.parent)}
    (copy / "run.json").write_text(json.dumps(record), encoding="utf-8")


def fill(template: Path, labels: Path) -> None:
    """Fill a table of labels as an interpreter would who sees the same everywhere."""
    table = pd.read_csv(template)
    table[table.columns[1:]] = "other"
    table.to_csv(labels, index=False)


def others(rng: np.random.Generator) -> None:
    """Write the tables and rasters from elsewhere that pages name."""
    bands = ("blue", "green", "red", "nir08", "swir16", "swir22")
    dn = pd.DataFrame({band: rng.integers(7000, 19000, 40) for band in bands})
    dn.to_csv("plots.csv", index=False)
    pd.DataFrame({f"B{n}": rng.integers(100, 5000, 40) for n in (1, 2, 3, 4, 5, 7)}).to_parquet("plots.parquet")
    before = np.zeros((60, 60), np.uint8)
    before[5:40, 5:40] = 1
    after = np.roll(before, 4, axis=1)
    profile = {"driver": "GTiff", "height": 60, "width": 60, "count": 1, "dtype": "uint8", "crs": 4326}
    profile["transform"] = from_origin(-81.5, 25.9, 0.00025, 0.00025)
    names = {"GMW_N26W082_1996_v3": before, "GMW_N26W082_2020_v3": after, "2010": 95 * before, "2020": 95 * after}
    for name, values in names.items():
        with rasterio.open(f"{name}.tif", "w", **profile, nodata=0 if name.startswith("GMW") else None) as raster:
            raster.write(values, 1)
    drawn = geopandas.GeoDataFrame({"kind": ["add"]}, geometry=[corner_of("demo/archive/regions.geojson")], crs=4326)
    drawn.to_file("corrections.gpkg")
    district = box(-81.5, 25.885, -81.49, 25.9)
    geopandas.GeoDataFrame({"name": ["West"]}, geometry=[district], crs=4326).to_file("districts.gpkg")


def corner_of(regions: str) -> Polygon:
    """Return a square of some pixels inside the first region of a file."""
    middle = geopandas.read_file(regions).geometry[0].centroid
    return box(middle.x, middle.y, middle.x + 0.002, middle.y + 0.002)


@pytest.fixture
def page_folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of a page, the world as it was where the page needs it; and a home with keys."""
    folder = tmp_path / "page"
    folder.mkdir()
    if needs_world(request.getfixturevalue("path")):
        folder = request.getfixturevalue("world")
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name("kept"), folder)
    home = tmp_path / "home"
    Authority(home / "dask").issue("me")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").touch(mode=0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("path", PAGES)
def test_every_block_of_a_page_runs_or_says_why_not(path, page_folder):
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(path):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            read(block)
        elif block.language == "python" and block.not_run is not None:
            compile(block.text, block.where, "exec")
        elif block.language == "python":
            execute(block, names)
        elif block.language in SHELLS and block.not_run is None:
            for line, words in block.lines():
                type_line(line, words, block.where)


def read(block: Block) -> None:
    """Check a YAML block: profiles, which then stand in the folder's cluster.yaml, or keys of a configuration."""
    content = yaml.safe_load(block.text)
    if "profiles" in content:
        Path("page.yaml").write_text(block.text, encoding="utf-8")
        profiles, _ = read_profiles(Path("page.yaml"))
        assert set(profiles) == set(content["profiles"])
        known = yaml.safe_load(THREADS)["profiles"]
        write_yaml("cluster.yaml", {"profiles": {**content["profiles"], **known}})
    elif set(content) <= set(RunParams.model_fields):
        parse_config({"area": {"bbox": [0, 0, 1, 1]}, "years": [2020], **content}, source=block.where)
    else:
        pytest.fail(f"{block.where}: neither profiles nor keys of a configuration")


def execute(block: Block, names: dict[str, Any]) -> None:
    """Run a Python block in the names of its page."""
    if ">>>" in block.text:
        examples = doctest.DocTestParser().get_doctest(block.text, names, block.where, block.where, 0)
        assert doctest.DocTestRunner().run(examples, clear_globs=False).failed == 0
        return
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block.text, block.where, "exec"), names)


def type_line(line: str, words: list[str], where: str) -> None:
    """Run a line of a shell block: a plain command of ours in this process, anything else by a shell."""
    if words[0] == "mangroves" and not SHELL_SIGNS.search(line.partition(" #")[0]):
        answer = mangroves(*words[1:])
        assert answer.code == 0, f"{where}: {line}\n{answer.err}"
        return
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{where}: {line}\n{done.stderr}"


def test_what_cannot_run_here_is_counted():
    blocks = [block for path in DOCUMENTS for block in blocks_of(path) if block.language in RUN]
    left_out = [block for block in blocks if block.not_run is not None]
    for block in left_out:
        print(f"{block.where}: {block.not_run}")
    print(f"{len(blocks) - len(left_out)} blocks run or are read, {len(left_out)} cannot be run here")
    assert all(block.language in (*SHELLS, "python") for block in left_out), "data is always read"
    assert len(left_out) < len(blocks) / 3
