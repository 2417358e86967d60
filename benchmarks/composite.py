"""The annual median of a tile: the fused task against odc-stac with xarray, as most users write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.harness import Pair, time_pair
from engine.area import read_area
from engine.catalog import periods_of, search_scenes
from engine.cube import composite_block
from engine.kernels.quality import clear_mask
from engine.landsat import BANDS, SENSORS
from engine.params import AreaParams, CubeParams, SearchParams
from engine.plan import TileYear, make_plan
from engine.reader import Access
from engine.scenes import observations
from engine.simulate import WorldParams, write_archive
from engine.trust import Trust


def composite_vs_odc(folder: Path, *, size_px: int = 1024, scenes: int = 24, runs: int = 3) -> Pair:
    """Composite one simulated region and year both ways, from local COGs, and compare the values.

    Scenes of one pass are left out on both sides but for one, as odc-stac has no equal of fusing by first clear.
    """
    world = WorldParams(regions=("Madagascar",), years=(2016,), size_px=size_px, scenes_per_year=scenes)
    archive = write_archive(world, folder / f"composite-{size_px}-{scenes}")
    trust = Trust().with_roots(archive.folder)
    area = read_area(AreaParams(file=str(archive.regions), name_field="name"), trust)
    found = search_scenes(SearchParams(catalogs=(str(archive.items),)), area, periods_of((2016,)), trust=trust)
    chosen = [members[0] for members in observations(found.scenes).values()]
    (part,) = make_plan(area, periods_of((2016,)), chosen).tile_years
    access = Access(trust)

    def ours() -> np.ndarray:
        return composite_block(part.scenes, part.tile.geobox, CubeParams(), access)[0]["composite"]

    return time_pair(
        f"annual median of {part.looks} looks, {size_px} x {size_px} px (simulated)",
        ("the fused task", ours),
        ("odc-stac + xarray", lambda: _odc(part)),
        same=np.array_equal,
        runs=runs,
    )


def _odc(part: TileYear) -> np.ndarray:
    """Load with odc-stac, mask, take the float32 median over time, round halves up."""
    import odc.stac
    import pystac

    items = []
    for scene in part.scenes:
        properties: dict[str, Any] = {
            "proj:code": f"EPSG:{scene.epsg}",
            "proj:shape": scene.shape,
            "proj:transform": scene.transform,
        }
        item = pystac.Item(
            scene.id, scene.geometry.__geo_interface__, list(scene.geometry.bounds), scene.datetime, properties
        )
        item.stac_extensions = ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"]
        for name, href in scene.assets.items():
            item.add_asset(name, pystac.Asset(href, media_type="image/tiff", roles=["data"]))
        items.append(item)
    cube = odc.stac.load(
        items,
        bands=[*BANDS, "qa_pixel", "qa_radsat"],
        geobox=part.tile.geobox,
        groupby="id",
        dtype="uint16",
        chunks={"x": 512, "y": 512},
    )
    unusable = SENSORS[part.scenes[0].platform].unusable_radsat
    clear = xr.apply_ufunc(
        lambda qa, radsat: clear_mask(np.where(qa == 0, np.uint16(1), qa), radsat, unusable_radsat=unusable),
        cube["qa_pixel"],
        cube["qa_radsat"],
        dask="parallelized",
        output_dtypes=[bool],
    )
    bands = cube[list(BANDS)].to_dataarray("band")
    clear = clear & (bands > 0).all("band")
    median = bands.astype("float32").where(clear).chunk(time=-1).median("time", skipna=True)
    return np.floor(median.fillna(-0.5).compute(scheduler="threads").values + 0.5).astype("uint16")
