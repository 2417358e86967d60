"""Bad assets of one scene, on a server: the run stops and names it, or goes on, lists it and counts its pixels."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import rasterio

from engine.errors import SceneError
from engine.params import CubeParams
from engine.simulate import WorldParams, read_archive, write_archive
from engine.store import open_store, read_marker
from tests.jobs.calls import Job

WORLD = WorldParams(regions=("Vietnam2",), years=(2016,), size_px=64, scenes_per_year=4, mask_years=(2015,))
HTML = b"<html><body>Service is being maintained</body></html>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Files

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        status = self.server.statuses.get(name)
        file = self.server.folder / name
        if status is None and not file.is_file():
            status = 404
        body, headers = HTML, {}
        if status is None:
            data = file.read_bytes()
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last), len(data) - 1)
            status = 206 if begin < len(data) else 416
            body = data[begin : end + 1]
            headers = {"Content-Range": f"bytes {begin}-{end}/{len(data)}"} if status == 206 else {}
        if 300 <= status < 400:
            headers = {"Location": "http://127.0.0.1:9/elsewhere.tif"}
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


class Files(ThreadingHTTPServer):
    """Ranges of the files of a folder; ``statuses`` are answered instead, with a page."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.statuses: dict[str, int] = {}

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up, which a refused answer makes them do."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Served(NamedTuple):
    job: Job
    files: Files
    band: Path
    """Near infrared of one scene, as it lies on the server's disk."""

    @property
    def scene(self) -> str:
        return self.band.parent.name


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Serve a small world; its items name the server."""
    write_archive(WORLD, folder / "archive")
    archive = read_archive(folder / "archive")
    files = Files(folder / "archive")
    content = json.loads(archive.items.read_text(encoding="utf-8"))
    for item in content["features"]:
        for asset in item["assets"].values():
            path = (archive.items.parent / asset["href"]).resolve()
            asset["href"] = f"http://{files.host}/{path.relative_to(files.folder.resolve()).as_posix()}"
    archive.items.write_text(json.dumps(content), encoding="utf-8")
    config = {
        "name": "tiny",
        "area": {"file": str(archive.regions), "name_field": "name"},
        "years": [2016],
        "search": {"catalogs": [str(archive.items)]},
        "labels": {"masks": [{"path": str(archive.masks[2015]), "year": 2015}]},
    }
    threading.Thread(target=files.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield Served(Job(folder, archive, config), files, sorted((folder / "archive").rglob("*_SR_B5.TIF"))[0])
    finally:
        files.shutdown()
        files.server_close()


def _rewritten(band: Path, **changes: object) -> None:
    """Write a band once more, with another profile."""
    with rasterio.open(band) as source:
        profile, values = source.profile, source.read()
    profile.update(changes)
    values = np.zeros((1, profile["height"], profile["width"]), profile["dtype"]) + values.flat[0].astype("uint16")
    with rasterio.open(band, "w", **profile) as target:
        target.write(values.astype(profile["dtype"]))


def _garbage_pixels(band: Path) -> None:
    whole = bytearray(band.read_bytes())
    start = len(whole) * 3 // 4
    whole[start:] = bytes(255 - (n * 7) % 256 for n in range(len(whole) - start))
    band.write_bytes(whole)


def _blank(band: Path) -> None:
    with rasterio.open(band) as source:
        profile, shape = source.profile, source.shape
    with rasterio.open(band, "w", **profile) as target:
        target.write(np.zeros(shape, "uint16"), 1)


DAMAGES = {
    "gone": lambda band: band.unlink(),
    "page in place of the file": lambda band: band.write_bytes(HTML * 400),
    "truncated": lambda band: band.write_bytes(band.read_bytes()[: band.stat().st_size // 2]),
    "empty": lambda band: band.write_bytes(b""),
    "pixels that do not decode": _garbage_pixels,
    "nothing but fill": _blank,
    "another size": lambda band: _rewritten(band, height=32, width=32),
    "another type": lambda band: _rewritten(band, dtype="uint8"),
    "another place": lambda band: _rewritten(band, transform=rasterio.Affine(30, 0, 0, 0, -30, 0)),
}
STATUSES = {"page with status 200": 200, "forbidden for ever": 401, "redirect": 302, "not there any more": 410}


def check_cost(job: Job, scene: str) -> None:
    """Hold that the scene is listed, and that its pixels are counted in cube, marker and table."""
    (lost,) = job.record["lost"]
    assert lost["scene"] == scene
    (row,) = pd.read_csv(job.run / "lost.csv").to_dict("records")
    assert (row["scene"], row["asset"]) == (scene, "nir08")
    assert row["kind"] in ("transient", "expired", "permanent", "hostile")
    (store,) = (job.run / "cube").rglob("2016.zarr")
    marker = read_marker(store)
    assert marker is not None
    with open_store(store) as data:
        count = data["lost_count"].values
    assert row["pixels"] == np.count_nonzero(count) == sum(marker["lost_px"].values()) > 0
    assert count.max() == 1


def arguments(world: Served, *more: str) -> tuple[str, ...]:
    return ("cube", "--allow-host", world.files.host, *more)


def test_a_band_that_is_gone_is_named_with_its_fix_or_counted_by_pixel(tmp_path, promise):
    from engine.area import read_area
    from engine.catalog import periods_of
    from engine.cube import build_tile_year
    from engine.plan import make_plan
    from engine.ranges import Access
    from engine.scenes import read_scenes
    from engine.trust import Trust
    from jobs.config import parse_config

    with served(tmp_path) as world:
        trust = Trust().with_roots(tmp_path).with_hosts(world.files.host)
        answer = world.job.call("search", "--allow-host", world.files.host)
        assert answer.code == 0, answer.err
        params = parse_config(dict(world.job.config), source="test")
        scenes = read_scenes(world.job.run / "items.parquet")
        (part,) = make_plan(read_area(params.area, trust), periods_of((2016,)), scenes).tile_years
        world.band.unlink()
        store = tmp_path / "2016.zarr"
        with promise("R3", "gone: stops"):
            with pytest.raises(SceneError, match="--skip-bad") as told:
                build_tile_year(part, store, CubeParams(), Access(trust), block_px=2048, fingerprint="a")
            assert told.value.about == {"scene": world.scene, "asset": "nir08"}
            assert not store.exists()
        with promise("R3", "gone: counted"):
            marker = build_tile_year(
                part, store, CubeParams(), Access(trust), block_px=2048, fingerprint="a", skip_bad=True
            )
            (loss,) = marker["lost"]
            assert (loss["scene"], loss["asset"], loss["attempts"]) == (world.scene, "nir08", 1)
            assert sum(marker["lost_px"].values()) == loss["pixels"] > 0
            ledger = json.loads((tmp_path / "2016-reads.json").read_text())
            assert ledger["lost"] == [loss]
            assert ledger["scenes"][world.scene]["qa_pixel"]["ranges"] > 0


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_each_kind_of_bad_asset_stops_the_run_or_is_counted(tmp_path, promise):
    with served(tmp_path) as world:
        name = world.band.relative_to(world.files.folder).as_posix()
        whole = world.band.read_bytes()
        undisturbed = world.job.call(*arguments(world))
        assert undisturbed.code == 0, undisturbed.err
        assert not (world.job.run / "lost.csv").exists()
        for fault in (*DAMAGES, *STATUSES):
            if fault in DAMAGES:
                DAMAGES[fault](world.band)
            else:
                world.files.statuses[name] = STATUSES[fault]
            with promise("R3", f"{fault}: stops"):
                begun = time.monotonic()
                line = world.job.call(*arguments(world, "--fresh")).error
                assert time.monotonic() - begun < 60
                assert f"scene {world.scene}" in line
                assert "asset nir08" in line
                assert "--skip-bad" in line
            with promise("R3", f"{fault}: listed and counted"):
                answer = world.job.call(*arguments(world, "--fresh", "--skip-bad"))
                assert answer.code == 0, answer.err
                assert "went without 1 scene(s)" in answer.err
                check_cost(world.job, world.scene)
            world.files.statuses.clear()
            world.band.write_bytes(whole)


@pytest.mark.faults
def test_an_item_without_a_band_is_refused_by_name(tmp_path, promise):
    with served(tmp_path) as world, promise("R3", "band missing from the item"):

        def drop(item: dict) -> None:
            if item["id"] == world.scene or world.scene in json.dumps(item["assets"]["nir08"]):
                del item["assets"]["nir08"]

        world.job.edit_items(drop)
        answer = world.job.call(*arguments(world))
        assert answer.code == 0, answer.err
        (refused,) = world.job.record["refused"]
        assert refused["scene"] == world.scene
        assert "nir08" in refused["reason"]
        assert "refused 1" in answer.err
