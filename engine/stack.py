"""The lazy face of the archive: (time, band, y, x) through stackstac, for notebooks and scene cubes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import stackstac
import xarray as xr
from odc.geo.geobox import GeoBox

from engine.errors import PlanError
from engine.kernels.harmonise import harmonise
from engine.kernels.quality import clear_mask, drop_fill
from engine.landsat import BANDS, QA_PIXEL, QA_RADSAT, SENSORS
from engine.params import CubeParams, Lines
from engine.ranges import Access
from engine.reader import StackReader, fill_of
from engine.scenes import Scene, scene_from_item
from engine.sign import Signer
from engine.store import grid_coords
from engine.trust import Trust

MAX_ELEMENTS = 2**40
"""A stack of more elements than this (2 TB of uint16) is a mistake, or a hostile catalog."""

_EPSG: Final = 3857
"""What stackstac is told, of grid and items alike: it knows no system without a code, and never has to transform."""


def stack_items(
    items: Sequence[Any],
    geobox: GeoBox,
    *,
    access: Access | None = None,
    assets: Sequence[str] = (*BANDS, QA_PIXEL, QA_RADSAT),
    chunk_px: int = 1024,
) -> xr.DataArray:
    """Stack scenes on a grid, reading nothing yet.

    Parameters
    ----------
    items : sequence of Scene, pystac.Item or dict
        STAC items of any catalog that ``engine.scenes`` knows, of any number of zones; one of the grid's own
        zone is read without resampling, others by nearest pixel.
    geobox : GeoBox
        North-up grid.
    access : Access, optional
        What may be read, and who signs; default the Planetary Computer and USGS, signed where needed.
    assets : sequence of str
        Bands and quality layers, in the order wanted.
    chunk_px : int
        Side of a dask chunk, pixels.

    Returns
    -------
    DataArray of uint16, dims (time, band, y, x)
        Digital numbers and QA words, one time step a scene in order of time and id; 0 (QA_PIXEL: 1) where a
        scene does not reach. Coordinates at pixel centres; ``spatial_ref`` is the CF grid mapping; ``id``,
        ``platform`` and ``observation`` ride along ``time``.

    Raises
    ------
    SceneError
        If an item cannot be used.
    PlanError
        If there is no scene, the grid is not north-up, or the stack is absurdly large.

    Notes
    -----
    stackstac 0.5.1 ignores ``proj:code``, which pystac >= 1.12 writes in place of ``proj:epsg``, and then
    returns a wrong grid of zeros. So it is handed plain dicts with ``proj:epsg`` and an explicit grid, and
    what it made is held against that grid.
    """
    scenes = [_as_scene(item) for item in items]
    access = access or Access(Trust(), Signer(Trust()))
    if not scenes:
        raise PlanError("no scenes to stack", fix="widen the years, platforms or tiers")
    a = geobox.transform
    if a.b or a.d or a.a <= 0 or a.e >= 0:
        raise PlanError("grid is rotated or flipped", fix="give a north-up GeoBox")
    size = len(scenes) * len(assets) * geobox.shape[0] * geobox.shape[1]
    if size > MAX_ELEMENTS:
        raise PlanError(f"a stack of {size:.2g} elements is refused", fix="stack a tile at a time")
    ordered = sorted(scenes, key=lambda scene: (scene.datetime, scene.id))
    # QA_PIXEL pads with 1 and everything else with 0, so each kind is its own stack.
    parts = [
        _stack(ordered, geobox, names, access, chunk_px)
        for names in ([a for a in assets if a != QA_PIXEL], [a for a in assets if a == QA_PIXEL])
        if names
    ]
    stack = xr.concat(parts, dim="band") if len(parts) > 1 else parts[0]
    return stack.sel(band=list(assets)).assign_attrs(parts[0].attrs)


def _as_scene(item: Any) -> Scene:
    """Return a STAC item, as a document or a pystac object, as a scene."""
    if isinstance(item, Scene):
        return item
    document = item.to_dict(transform_hrefs=False) if hasattr(item, "to_dict") else item
    base = item.get_self_href() if hasattr(item, "get_self_href") else None
    return scene_from_item(document, base=base or "")


def _stack(scenes: list[Scene], geobox: GeoBox, assets: list[str], access: Access, chunk_px: int) -> xr.DataArray:
    left, bottom, right, top = geobox.boundingbox.bbox
    raw = stackstac.stack(
        [_as_item(scene, assets, geobox) for scene in scenes],
        assets=assets,
        epsg=_EPSG,
        resolution=(geobox.transform.a, -geobox.transform.e),
        bounds=(left, bottom, right, top),
        snap_bounds=False,
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(fill_of(assets[0])),
        rescale=False,
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        chunksize=chunk_px,
        reader=partial(StackReader, geobox=geobox, access=access),
    )
    if raw.shape[2:] != geobox.shape or raw.attrs["spec"].transform != geobox.transform:
        raise AssertionError(f"stackstac made {raw.shape[2:]}, the grid is {geobox.shape}")
    coords = grid_coords(geobox)
    return xr.DataArray(
        raw.data,
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.array([scene.datetime.replace(tzinfo=None) for scene in scenes], "datetime64[ns]"),
            "band": list(assets),
            **coords,
            "id": ("time", [scene.id for scene in scenes]),
            "platform": ("time", [scene.platform for scene in scenes]),
            "observation": ("time", [scene.observation for scene in scenes]),
        },
        name="landsat",
        attrs={"grid_mapping": "spatial_ref", "units": "1", "long_name": "Landsat digital numbers and QA words"},
    )


def _as_item(scene: Scene, assets: list[str], geobox: GeoBox) -> dict[str, Any]:
    """Return the least STAC item stackstac needs, with ``proj:epsg`` and no other way to guess a grid.

    It says that the scene covers the whole grid, as stackstac would drop one that does not reach it, and judges that
    of a scene of another zone by its corners alone. Our reader knows better.
    """
    return {
        "type": "Feature",
        "id": scene.id,
        "bbox": list(scene.geometry.bounds),
        "properties": {
            "datetime": scene.datetime.isoformat(),
            "proj:epsg": _EPSG,
            "proj:bbox": list(geobox.boundingbox.bbox),
        },
        "assets": {name: {"href": scene.assets[name]} for name in assets},
        "links": [],
    }


def mask_clouds(stack: xr.DataArray, *, reject_cloud_confidence: bool = False) -> xr.DataArray:
    """Set to 0 what is fill, cloud, shadow, saturated or terrain-occluded, lazily.

    Parameters
    ----------
    stack : DataArray of uint16, dims (time, band, y, x)
        From ``stack_items``, with ``qa_pixel`` and ``qa_radsat`` among its bands.
    reject_cloud_confidence : bool
        See ``kernels.quality.clear_mask``.

    Returns
    -------
    DataArray of uint16, dims (time, band, y, x)
        The reflectance bands; 0 in every band where a pixel is not clear.
    """
    unusable = xr.DataArray(
        np.array([SENSORS[str(p)].unusable_radsat for p in stack["platform"].values], dtype="uint16"),
        dims="time",
    )
    bands = stack.drop_sel(band=[QA_PIXEL, QA_RADSAT])
    masked = xr.apply_ufunc(
        _mask_block,
        bands,
        stack.sel(band=QA_PIXEL, drop=True),
        stack.sel(band=QA_RADSAT, drop=True),
        unusable,
        input_core_dims=[["band"], [], [], []],
        output_core_dims=[["band"]],
        kwargs={"reject_cloud_confidence": reject_cloud_confidence},
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.uint16],
        keep_attrs=True,
    )
    return masked.transpose("time", "band", "y", "x").assign_attrs(_FillValue=0)


def _mask_block(
    bands: np.ndarray,
    qa_pixel: np.ndarray,
    qa_radsat: np.ndarray,
    unusable: np.ndarray,
    *,
    reject_cloud_confidence: bool,
) -> np.ndarray:
    """Mask one chunk; ``bands`` is (time, y, x, band), the words (time, y, x)."""
    clear = np.stack(
        [
            clear_mask(words, radsat, unusable_radsat=int(bits), reject_cloud_confidence=reject_cloud_confidence)
            for words, radsat, bits in zip(qa_pixel, qa_radsat, np.ravel(unusable), strict=True)
        ]
    )
    clear = drop_fill(clear, np.moveaxis(bands, -1, 0))
    return bands * clear[..., None]


def harmonise_looks(masked: xr.DataArray, params: CubeParams) -> xr.DataArray:
    """Bring what TM and ETM+ saw to what OLI would have seen, lazily, where ``params`` ask for it.

    Parameters
    ----------
    masked : DataArray of uint16, dims (time, band, y, x)
        From ``mask_clouds``.
    params : CubeParams

    Returns
    -------
    DataArray of uint16, dims (time, band, y, x)
        See ``kernels.harmonise``.
    """
    lines = [params.lines_to_oli(SENSORS[str(p)].name) for p in masked["platform"].values]
    if not any(lines):
        return masked
    changed = xr.apply_ufunc(
        _harmonise_block,
        masked,
        xr.DataArray(np.arange(len(lines)), dims="time"),
        kwargs={"lines": lines},
        input_core_dims=[["band"], []],
        output_core_dims=[["band"]],
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.uint16],
        keep_attrs=True,
    )
    return changed.transpose("time", "band", "y", "x")


def _harmonise_block(bands: np.ndarray, steps: np.ndarray, *, lines: list[Lines | None]) -> np.ndarray:
    """Harmonise one chunk; ``bands`` is (time, y, x, band)."""
    changed = np.array(np.moveaxis(bands, -1, 1), order="C")
    for look, step in zip(changed, np.ravel(steps), strict=True):
        if of_look := lines[step]:
            harmonise(look, np.ones(look.shape[1:], bool), of_look)
    return np.moveaxis(changed, 1, -1)


def fuse_observations(masked: xr.DataArray) -> xr.DataArray:
    """Fuse the scenes of one pass into one look: per pixel the first clear scene wins, lazily.

    Neighbouring rows of a pass overlap and see the same moment; counted apart they would be two looks.

    Parameters
    ----------
    masked : DataArray of uint16, dims (time, band, y, x)
        From ``mask_clouds``.

    Returns
    -------
    DataArray of uint16, dims (time, band, y, x)
        One step an observation, ``observation`` along ``time``.
    """
    order: dict[str, list[int]] = {}
    for index, key in enumerate(masked["observation"].values):
        order.setdefault(str(key), []).append(index)
    looks = []
    for members in order.values():
        look = masked.isel(time=members[0])
        for index in members[1:]:
            look = look.where(look.isel(band=0, drop=True) > 0, masked.isel(time=index, drop=True))
        looks.append(look)
    fused = (
        xr.concat(looks, dim="time", coords="minimal", compat="override")
        if len(looks) > 1
        else looks[0].expand_dims("time")
    )
    first = [members[0] for members in order.values()]
    fused = fused.drop_vars([n for n in ("id", "platform", "observation") if n in fused.coords])
    return fused.assign_coords(time=masked["time"].values[first], observation=("time", list(order))).assign_attrs(
        masked.attrs
    )


def stack_looks(scenes: Sequence[Scene], geobox: GeoBox, params: CubeParams, access: Access) -> xr.DataArray:
    """Return the masked looks of a tile-year, lazily; reducing them gives the annual cube to the last digit.

    Returns
    -------
    DataArray of uint16, dims (time, band, y, x)
        0 where not clear.
    """
    stack = stack_items(scenes, geobox, access=access)
    masked = mask_clouds(stack, reject_cloud_confidence=params.reject_cloud_confidence)
    return fuse_observations(harmonise_looks(masked, params))
