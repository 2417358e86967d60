"""Hostile inputs, each through the real command, in one process whose memory and time are measured.

``python -m tests.faults.hostile ARCHIVE FOLDER`` prints one JSON object a line: name, what came of it, seconds, bytes.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio

from engine.kernels.features import COMPOSITE_FEATURES
from engine.landsat import BANDS
from engine.params import TrainParams
from engine.record import ITEMS
from engine.simulate import read_archive
from engine.train import fit
from tests.engine.loopback import Call, Loopback, Reply
from tests.engine.samples import make_sample
from tests.jobs.calls import Answer, Job, mangroves
from tests.makers import write_hostile_geopackage

SECRET = "canary-content-7f3a"


@dataclass
class Bait:
    """What nobody may read or call: a file beside the allowed folders, and a server."""

    file: Path
    server: Loopback
    archive: Path

    def job(self, folder: Path) -> Job:
        """Return a run over an archive of its own."""
        shutil.copytree(self.archive, folder / "archive")
        return Job(folder, read_archive(folder / "archive"))


def bait_in(folder: Path, archive: Path) -> Bait:
    """Lay out the canaries; the file's times tell whether it was read."""
    (folder / "canary").mkdir(parents=True)
    file = folder / "canary" / "secret.tif"
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8", "crs": "EPSG:32648"}
    with rasterio.open(file, "w", **profile) as raster:
        raster.write(np.ones((1, 64, 64), "uint8"))
        raster.update_tags(SECRET=SECRET)
    os.utime(file, (1e9, 1.5e9))
    return Bait(file, Loopback(lambda call: Reply(200, {"type": "FeatureCollection", "features": []})), archive)


Case = Callable[[Bait, Path], Answer]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    return lambda function: CASES.setdefault(name, function)


def vrt_of(path: Path) -> str:
    return (
        "<VRTDataset rasterXSize='64' rasterYSize='64'><VRTRasterBand dataType='Byte' band='1'><SimpleSource>"
        f"<SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


def deep(size: int = 200_000) -> str:
    return "[" * size + "]" * size


# Hrefs of items.

HREFS: dict[str, Callable[[Bait], str]] = {
    "file scheme": lambda bait: f"file://{bait.file}",
    "absolute path": lambda bait: str(bait.file),
    "path upwards": lambda bait: f"../../../{bait.file.parent.name}/{bait.file.name}",
    "vsicurl": lambda bait: f"/vsicurl/{bait.server.url}/a.tif",
    "vsizip": lambda bait: f"/vsizip/{bait.file}",
    "directory of a GeoTIFF": lambda bait: f"GTIFF_DIR:1:{bait.file}",
    "HDF5 driver": lambda bait: f'HDF5:"{bait.file}"://x',
    "canary server": lambda bait: f"{bait.server.url}/a.tif",
    "cloud metadata": lambda bait: "http://169.254.169.254/latest/meta-data/a.tif",
    "decimal address": lambda bait: f"http://2130706433:{bait.server.server_port}/a.tif",
    "hexadecimal address": lambda bait: f"http://0x7f000001:{bait.server.server_port}/a.tif",
    "short address": lambda bait: f"http://127.1:{bait.server.server_port}/a.tif",
    "allowed host as user": lambda bait: f"https://landsatlook.usgs.gov@127.0.0.1:{bait.server.server_port}/a.tif",
    "allowed host as prefix": lambda bait: "https://landsatlook.usgs.gov.example.com/a.tif",
    "letters like ours": lambda bait: "https://l\u0430ndsatlook.usgs.gov/a.tif",
    "null byte": lambda bait: f"{bait.file}\0.tif",
    "line end": lambda bait: "https://landsatlook.usgs.gov/a\r\nHost: x",
    "backslashes": lambda bait: f"\\\\127.0.0.1@{bait.server.server_port}\\a.tif",
    "another bucket": lambda bait: "s3://somebody-elses/a.tif",
    "ftp": lambda bait: "ftp://127.0.0.1/a.tif",
    "a megabyte long": lambda bait: "https://landsatlook.usgs.gov/" + "a" * 2**20,
    "no text": lambda bait: {"href": 1},  # type: ignore[dict-item,return-value]
}


def _with_href(make: Callable[[Bait], str]) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        job.edit_items(lambda item: item["assets"]["red"].update(href=make(bait)))
        return job.call("cube")

    return run


CASES |= {f"href: {name}": _with_href(make) for name, make in HREFS.items()}


@case("href: link out of the folder")
def _(bait: Bait, folder: Path) -> Answer:
    job = bait.job(folder)
    link = job.archive.items.parent / "link.tif"
    link.symlink_to(bait.file)
    job.edit_items(lambda item: item["assets"]["red"].update(href=str(link)))
    return job.call("search")


def _bands(job: Job) -> list[Path]:
    return sorted(job.archive.items.parent.rglob("*_SR_B*.TIF"))


@case("scene: a VRT under its name")
def _(bait: Bait, folder: Path) -> Answer:
    job = bait.job(folder)
    for band in _bands(job):
        band.write_text(vrt_of(bait.file))
    return job.call("cube")


@case("scene: giant internal tiles")
def _(bait: Bait, folder: Path) -> Answer:
    job = bait.job(folder)
    for band in _bands(job):
        with rasterio.open(band) as source:
            profile = {**source.profile, "blockxsize": 16384, "blockysize": 16384, "tiled": True, "compress": "deflate"}
        with rasterio.open(band, "w", **profile, SPARSE_OK=True):
            pass
    return job.call("cube")


@case("scene: a file of two terabytes' pixels")
def _(bait: Bait, folder: Path) -> Answer:
    job = bait.job(folder)
    for band in _bands(job):
        with rasterio.open(band) as source:
            profile = {**source.profile, "width": 1_000_000, "height": 1_000_000, "BIGTIFF": "YES", "tiled": True}
            profile |= {"blockxsize": 4096, "blockysize": 4096, "compress": "deflate"}
        with rasterio.open(band, "w", **profile, SPARSE_OK=True):
            pass
    return job.call("cube")


# What items say.

PROPERTIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "giant shape": lambda item: item["properties"].update({"proj:shape": [4_000_000, 4_000_000]}),
    "endless shape": lambda item: item["properties"].update({"proj:shape": [10**400, 1]}),
    "transform of NaN": lambda item: item["properties"].update({"proj:transform": [float("nan")] * 6}),
    "absurd transform": lambda item: item["properties"].update({"proj:transform": [1e300, 0, 1e300, 0, -1e300, 0]}),
    "transform of zeros": lambda item: item["properties"].update({"proj:transform": [0, 0, 0, 0, 0, 0]}),
    "code that is a path": lambda item: item["properties"].update({"proj:epsg": "/etc/passwd", "proj:code": "x"}),
    "id upwards": lambda item: item.update(id="../../../../tmp/x"),
    "id with a null byte": lambda item: item.update(id="LC08\0x"),
    "id that moves the cursor": lambda item: item.update(id="\x1b[2Jx\n\n"),
    "id without end": lambda item: item.update(id="x" * 10**6),
    "bbox of text": lambda item: item.update(bbox=["a"] * 4, geometry="POINT"),
    "no properties": lambda item: item.update(properties=[1, 2]),
    "day of another age": lambda item: item["properties"].update(datetime="9" * 5000),
}


def _with_item(edit: Callable[[dict[str, Any]], Any]) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        job.edit_items(edit)
        return job.call("search")

    return run


CASES |= {f"item: {name}": _with_item(edit) for name, edit in PROPERTIES.items()}


# Catalogs in files.


def _catalog(write: Callable[[Path], str]) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        job.config["search"]["catalogs"] = [str(folder / write(folder))]
        return job.call("search", "--allow-root", folder)

    return run


def _text(name: str, text: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_text(text)
        return name

    return write


def _hollow(folder: Path) -> str:
    with (folder / "c.json").open("wb") as file:
        file.truncate(3 * 2**30)
    return "c.json"


def _parquet_bomb(folder: Path) -> str:
    """A million rows of long text from one entry of a dictionary: 4 GB from a few KB."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, "int8")), pa.array(["x" * 1000]))
    table = pa.table(dict.fromkeys(("id", "geometry", "assets", "datetime"), column))
    with pq.ParquetWriter(folder / "c.parquet", table.schema, use_dictionary=True) as writer:
        for _ in range(10):
            writer.write_table(table)
    return "c.parquet"


CASES |= {
    "catalog: nested without end": _catalog(_text("c.json", deep())),
    "catalog: three gigabytes": _catalog(_hollow),
    "catalog: lines nested without end": _catalog(_text("c.ndjson", deep() + "\n")),
    "catalog: parquet that unpacks to gigabytes": _catalog(_parquet_bomb),
    "catalog: links out of the folder": _catalog(
        _text("c.json", json.dumps({"type": "Catalog", "links": [{"rel": "item", "href": "../../canary/secret.tif"}]}))
    ),
}


# Catalogs over HTTP.


def _served(make: Callable[[Bait], Callable[[Call], Reply]], *more: str) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        with Loopback(make(bait)).running() as server:
            job.config["search"]["catalogs"] = [server.url]
            return job.call("search", "--allow-host", server.host)

    return run


def _landing(call: Call, then: Reply) -> Reply:
    if call.path.rstrip("/"):
        return then
    rules = ["https://api.stacspec.org/v1.0.0/item-search"]
    links = [{"rel": "search", "href": f"http://{call.headers['host']}/search", "method": "POST"}]
    return Reply(200, {"type": "Catalog", "id": "x", "conformsTo": rules, "links": links})


def _page(features: list[Any], href: str, **body: Any) -> dict[str, Any]:
    following = {"rel": "next", "href": href, "method": "POST", "body": body}
    return {"type": "FeatureCollection", "features": features, "links": [following]}


CASES |= {
    "service: redirect to another": _served(lambda bait: lambda call: Reply(302, b"", {"Location": bait.server.url})),
    "service: redirect of its search": _served(
        lambda bait: lambda call: _landing(call, Reply(307, b"", {"Location": bait.server.url}))
    ),
    "service: search elsewhere": _served(
        lambda bait: (
            lambda call: Reply(
                200, {"type": "Catalog", "links": [{"rel": "search", "href": f"{bait.server.url}/search"}]}
            )
        )
    ),
    "service: next page elsewhere": _served(
        lambda bait: lambda call: _landing(call, Reply(200, _page([{}], bait.server.url)))
    ),
    "service: the same page for ever": _served(
        lambda bait: lambda call: _landing(call, Reply(200, _page([{}], f"http://{call.headers['host']}/search")))
    ),
    "service: nested without end": _served(
        lambda bait: lambda call: _landing(call, Reply(200, (f'{{"features": {deep()}}}').encode()))
    ),
    "service: a page that unpacks to gigabytes": _served(
        lambda bait: (
            lambda call: _landing(call, Reply(200, gzip.compress(b" " * 80 * 2**20, 1), {"Content-Encoding": "gzip"}))
        )
    ),
}


# Configurations.


def _config(text: str) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        (folder / "c.yaml").write_text(text.replace("CANARY", str(bait.file)).replace("SERVER", bait.server.host))
        return mangroves("run", folder / "c.yaml", "--cluster", "threads")

    return run


def _with_key(key: str, value: Callable[[Bait], Any]) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        job.config["labels"].pop("stable_between")
        section = job.config
        *path, last = key.split(".")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value(bait)
        return job.call("run")

    return run


CASES |= {
    "config: aliases to billions": _config(
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        )
    ),
    "config: a Python tag": _config("area: !!python/object/apply:os.system ['touch CANARY']\n"),
    "config: allows a host": _config("allow_hosts: [SERVER]\n"),
    "config: nested without end": _config("[" * 50_000),
    "config: two megabytes": _config("# " + "x" * 2 * 2**20),
    "config: name upwards": _with_key("name", lambda bait: "../../x"),
    "config: out upwards": _with_key("out", lambda bait: "../../../.."),
    "config: catalog of the canary": _with_key("search.catalogs", lambda bait: [f"{bait.server.url}/"]),
    "config: mask of the canary": _with_key("labels.masks", lambda bait: [{"path": str(bait.file), "year": 2016}]),
    "config: zones of the canary": _with_key("change", lambda bait: {"zones": str(bait.file), "by": "name"}),
    "config: store of somebody": _with_key("store", lambda bait: "s3://somebody-elses/x"),
    "config: model of somebody": _with_key("train.from", lambda bait: str(bait.file.parent)),
}


# Masks, areas, models, tables, maps.


def _mask(name: str, write: Callable[[Path, Bait], None]) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        write(folder / name, bait)
        job.config["labels"] = {"masks": [{"path": str(folder / name), "year": 2016}]}
        return job.call("run")

    return run


def _giant_raster(path: Path, bait: Bait) -> None:
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "crs": "EPSG:4326",
        "compress": "deflate",
        "tiled": True,
    }
    area = rasterio.transform.from_bounds(-180, -90, 180, 90, 200_000, 100_000)
    size = {"width": 200_000, "height": 100_000, "blockxsize": 65536, "blockysize": 65536}
    with rasterio.open(path, "w", transform=area, SPARSE_OK=True, **profile, **size):
        pass


def _area(name: str, write: Callable[[Path, Bait], None]) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        write(folder / name, bait)
        job.config["area"] = {"file": str(folder / name)}
        return job.call("search")

    return run


def _ogr_vrt(path: Path, bait: Bait) -> None:
    source = f"<OGRVRTLayer name='a'><SrcDataSource>{bait.file}</SrcDataSource></OGRVRTLayer>"
    path.write_text(f"<OGRVRTDataSource>{source}</OGRVRTDataSource>")


CASES |= {
    "mask: a VRT under its name": _mask("m.tif", lambda path, bait: path.write_text(vrt_of(bait.file)) and None),
    "mask: giant internal tiles": _mask("m.tif", _giant_raster),
    "mask: a GeoPackage that is none": _mask("m.gpkg", _ogr_vrt),
    "area: a virtual source as GeoJSON": _area("a.geojson", _ogr_vrt),
    "area: a virtual source as KML": _area("a.kml", _ogr_vrt),
    "area: a pipeline as GeoJSON": _area(
        "a.geojson",
        lambda path, bait: (
            path.write_text(
                json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline read {bait.file}"})
            )
            and None
        ),
    ),
    "area: a GeoPackage whose layer never ends": _area(
        "a.gpkg", lambda path, bait: write_hostile_geopackage(path, "layer that is a view")
    ),
    "mask: a GeoPackage whose layer never ends": _mask(
        "m.gpkg", lambda path, bait: write_hostile_geopackage(path, "layer that is a view")
    ),
    "area: nested without end": _area("a.geojson", lambda path, bait: path.write_text('{"a":' + deep() + "}") and None),
}


@case("model: nested without end")
def _(bait: Bait, folder: Path) -> Answer:
    (folder / "model").mkdir()
    for name in ("meta.json", "trees.json", "model.json"):
        (folder / "model" / name).write_text(deep())
    (folder / "t.csv").write_text("B2,B3,B4,B5,B6,B7\n1,2,3,4,5,6\n")
    return mangroves("predict", folder / "model", folder / "t.csv")


@case("model: gigabytes of nothing")
def _(bait: Bait, folder: Path) -> Answer:
    (folder / "model").mkdir()
    for name in ("meta.json", "trees.json", "model.json"):
        with (folder / "model" / name).open("wb") as file:
            file.truncate(8 * 2**30)
    (folder / "t.csv").write_text("B2,B3,B4,B5,B6,B7\n1,2,3,4,5,6\n")
    return mangroves("predict", folder / "model", folder / "t.csv")


@case("table: null bytes")
def _(bait: Bait, folder: Path) -> Answer:
    (folder / "t.csv").write_bytes(b"\0" * 10**6)
    return mangroves("predict", folder / "model", folder / "t.csv")


@case("table: a VRT as parquet")
def _(bait: Bait, folder: Path) -> Answer:
    _ogr_vrt(folder / "t.parquet", bait)
    return mangroves("predict", folder / "model", folder / "t.parquet")


@case("change: maps that are VRTs")
def _(bait: Bait, folder: Path) -> Answer:
    for name in ("a.tif", "b.tif"):
        (folder / name).write_text(vrt_of(bait.file))
    return mangroves("change", folder / "a.tif", folder / "b.tif")


@case("change: maps of giant tiles")
def _(bait: Bait, folder: Path) -> Answer:
    for name in ("a.tif", "b.tif"):
        _giant_raster(folder / name, bait)
    return mangroves("change", folder / "a.tif", folder / "b.tif")


def _record(edit: Callable[[dict[str, Any], Bait], Any]) -> Case:
    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        assert job.call("search").code == 0
        record = job.record
        edit(record, bait)
        (job.run / "run.json").write_text(json.dumps(record))
        return mangroves("status", job.run)

    return run


CASES |= {
    "record: outputs in somebody's store": _record(lambda record, bait: record["config"].update(store="s3://elses/x")),
    "record: name upwards in a store": _record(
        lambda record, bait: record["config"].update(store="s3://elses", name="../../x")
    ),
}


@case("record: nested without end")
def _(bait: Bait, folder: Path) -> Answer:
    job = bait.job(folder)
    assert job.call("search").code == 0
    (job.run / "run.json").write_text(deep())
    return job.call("search")


def _resumed(edit: Callable[[dict[str, Any], Bait], Any]) -> Case:
    """Go on with a run whose record was edited; what its own archive needs is allowed, nothing more."""

    def run(bait: Bait, folder: Path) -> Answer:
        job = bait.job(folder)
        assert job.call("search").code == 0
        record = job.record
        record["config"]["train"]["hold_out"] = []
        record["items"] = None
        (job.run / ITEMS).unlink()  # what was frozen would not be searched again
        edit(record, bait)
        (job.run / "run.json").write_text(json.dumps(record))
        roots = ("--allow-root", job.archive.items.parent)
        return mangroves("resume", job.run, "--cluster", "threads", *roots)

    return run


CASES |= {
    "resume: catalog of the canary": _resumed(
        lambda record, bait: record["config"]["search"].update(catalogs=[bait.server.url])
    ),
    "resume: mask of the canary": _resumed(
        lambda record, bait: record["config"].update(labels={"masks": [{"path": str(bait.file), "year": 2016}]})
    ),
    "resume: a record that allows a host": _resumed(
        lambda record, bait: record["config"].update(allow_hosts=[bait.server.host], allow_roots=["/"])
    ),
}


@case("table: one text in every row")
def _(bait: Bait, folder: Path) -> Answer:
    """A hundred gigabytes from a few KB."""
    params = TrainParams(rounds=2, max_depth=2)
    fit(make_sample(300), features=COMPOSITE_FEATURES, params=params).save(folder / "model")
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, "int32")), pa.array(["9" * 1_000_000]))
    pq.write_table(pa.table(dict.fromkeys(BANDS, column)), folder / "t.parquet", store_schema=False)
    return mangroves("predict", folder / "model", folder / "t.parquet")


def attempt(name: str, bait: Bait, folder: Path) -> dict[str, Any]:
    """Give one input to its command; return what came of it."""
    folder.mkdir()
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    at_home = Path.cwd()
    os.chdir(folder)
    try:
        answer = CASES[name](bait, folder)
    finally:
        os.chdir(at_home)
    seconds = time.monotonic() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {
        "name": name,
        "code": answer.code,
        "out": answer.out[-400:],
        "err": answer.err[-3000:],
        "seconds": seconds,
        "bytes": grown,
    }


def problem_of(found: dict[str, Any]) -> str:
    """Return why an input was not refused as it should be; nothing where it was."""
    lines = [line for line in found["err"].splitlines() if line.startswith(("error: ", "Error: "))]
    if found["code"] == 0 or len(lines) != 1 or "Traceback" in found["err"]:
        return f"ended with {found['code']}: {found['err'][-300:]}"
    if "; " not in lines[0]:
        return f"no fix: {lines[0]}"
    if found["seconds"] > 5 or found["bytes"] > 500 * 2**20:
        return f"took {found['seconds']:.1f} s and {found['bytes'] >> 20} MB"
    return "it shows the canary" if SECRET in found["out"] + found["err"] else ""


def main(archive: Path, folder: Path) -> None:
    bait = bait_in(folder, archive)
    with bait.server.running():
        # What every command imports is no part of what an input takes.
        warm = folder / "warm"
        warm.mkdir()
        assert bait.job(warm).call("cube").code == 0
        for number, name in enumerate(CASES):
            print(json.dumps(attempt(name, bait, folder / str(number))), flush=True)
            shutil.rmtree(folder / str(number))
        about = bait.file.stat()
        untouched = about.st_atime == 1e9 and about.st_mtime == 1.5e9
        print(json.dumps({"untouched": untouched, "calls": bait.server.connections}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
