"""Reference masks fetched for an area, or for all that a configuration names."""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine

from engine.params import LabelParams
from tests.integration.loopback import serving
from tests.jobs.calls import mangroves


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def zenodo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Serve Global Mangrove Watch of two years, one tile each, on loopback; give the host."""
    folder = tmp_path / "zenodo"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    host = f"127.0.0.1:{server.server_port}"
    files = []
    for year in (2019, 2020):
        tile = folder / f"GMW_N09E104_{year}_v3.tif"
        place = {"crs": "EPSG:4326", "transform": Affine(0.01, 0, 104, 0, -0.01, 9)}
        with rasterio.open(tile, "w", driver="GTiff", width=100, height=100, count=1, dtype="uint8", **place) as target:
            target.write(np.ones((1, 100, 100), "uint8"))
        packed = folder / f"gmw_v3_{year}_gtiff.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(tile, tile.name)
        body = packed.read_bytes()
        files.append(
            {
                "key": packed.name,
                "size": len(body),
                "checksum": f"md5:{hashlib.md5(body).hexdigest()}",
                "links": {"self": f"http://{host}/{packed.name}"},
            }
        )
    (folder / "record").write_text(json.dumps({"files": files}))
    monkeypatch.setattr("engine.mask_archives.GMW_RECORD", f"http://{host}/record")
    monkeypatch.chdir(tmp_path)
    with serving(server):
        yield host


def write_config(folder: Path, *masks: dict[str, object]) -> Path:
    path = folder / "coast.yaml"
    area = {"bbox": [104.5, 8.4, 104.9, 8.8]}
    path.write_text(yaml.safe_dump({"area": area, "years": [2020], "labels": {"masks": list(masks)}}))
    return path


def test_every_mask_that_a_configuration_names_by_source_is_fetched(tmp_path, zenodo):
    config = write_config(
        tmp_path, {"path": "gmw", "year": 2019}, {"path": "gmw", "year": 2020}, {"path": "own.tif", "year": 2018}
    )
    answer = mangroves("masks", "get", "--config", config, "--allow-host", zenodo)
    assert answer.code == 0, answer.err
    for year in (2019, 2020):
        assert (tmp_path / "masks" / f"gmw-{year}" / f"GMW_N09E104_{year}_v3.tif").is_file()
    # What it prints is a section of a configuration.
    said = yaml.safe_load(answer.out.removeprefix("in a configuration:\n"))
    labels = LabelParams.model_validate(said["labels"])
    assert [(mask.path, mask.year, mask.value) for mask in labels.masks] == [
        ("masks/gmw-2019", 2019, (1,)),
        ("masks/gmw-2020", 2020, (1,)),
    ]


def test_without_a_configuration_source_year_and_area_say_what(tmp_path, zenodo):
    what = ("--source", "gmw", "--year", "2020", "--area", "104.5,8.4,104.9,8.8")
    answer = mangroves("masks", "get", *what, "--out", "here", "--allow-host", zenodo, "--json")
    assert json.loads(answer.out) == {"masks": [{"path": "here/gmw-2020", "year": 2020, "value": [1]}]}
    assert f"host {zenodo} is not allowed" in mangroves("masks", "get", *what, "--out", "there").error
    assert not (tmp_path / "there" / "gmw-2020").exists()


def test_it_is_either_a_configuration_or_all_three(tmp_path):
    config = write_config(tmp_path, {"path": "gmw", "year": 2020})
    three = {"--source": "gmw", "--year": "2020", "--area": "Cuba1"}
    for key in three:
        two = [word for pair in three.items() if pair[0] != key for word in pair]
        for arguments in ([], two, [key, three[key]], ["--config", config, key, three[key]]):
            answer = mangroves("masks", "get", *arguments)
            assert "give --source, --year and --area, or --config in place of those three" in answer.error
            assert answer.code == 2


def test_a_configuration_that_names_none_is_told(tmp_path):
    config = write_config(tmp_path, {"path": "own.tif", "year": 2018})
    line = mangroves("masks", "get", "--config", config).error
    assert "coast.yaml: labels.masks names no mask by source; name worldcover or gmw as path" in line
