"""The steps of a tile-year joined in memory, for notebooks: nothing is written, and the values are those of a run.

A tile-year comes from ``engine.plan.make_plan``; what is made of it here is what ``engine.tasks`` would write.
"""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import xarray as xr

from engine.area import Area, region_codes
from engine.classify import classify_block
from engine.cube import as_dataset, composite_block
from engine.kernels.features import FEATURE_SETS, feature_stack
from engine.masks import open_masks
from engine.model import Model
from engine.params import CubeParams, LabelParams, SampleParams
from engine.plan import TileYear
from engine.ranges import Access
from engine.store import grid_coords
from engine.tasks import Draw, draw_rows


def composite_year(part: TileYear, *, access: Access, params: CubeParams | None = None) -> xr.Dataset:
    """Read the scenes of a tile-year and reduce them to one layer: its annual cube, in memory.

    Parameters
    ----------
    part : TileYear
    access : Access
        What may be read, and who signs.
    params : CubeParams, optional
        How; default the median of clear looks.

    Returns
    -------
    Dataset
        ``composite`` (band, y, x) and the other layers of ``kernels.composite.annual_layers``, on the tile's grid.

    Raises
    ------
    SceneError, TrustError
        Naming scene and asset, if one cannot be read.
    """
    layers, _ = composite_block(part.scenes, part.tile.geobox, params or CubeParams(), access)
    return as_dataset(layers, part.tile.geobox, part.year, {})


def sample_year(
    part: TileYear,
    cube: xr.Dataset,
    area: Area,
    labels: LabelParams,
    *,
    access: Access,
    params: SampleParams | None = None,
    features: Sequence[str] = FEATURE_SETS["all"],
    seed: int = 1,
) -> gpd.GeoDataFrame:
    """Draw labelled pixels of a tile-year, each with its features, label, weight and place.

    Parameters
    ----------
    part : TileYear
    cube : Dataset
        Its cube, from ``composite_year``.
    area : Area
        Whose regions the rows are named after.
    labels : LabelParams
        The masks, and which years they may label.
    access : Access
        Must allow the folder of the masks.
    params : SampleParams, optional
        How many. Rows are not thinned here: that reads scenes once more, which a run does.
    features : sequence of str
        Columns, of ``kernels.features``; none of surroundings, for which a run reads neighbouring tiles.
    seed : int

    Returns
    -------
    GeoDataFrame
        See ``sample.draw_tile``; tables of several tile-years together are what ``train.train_model`` takes.

    Raises
    ------
    MaskError
        If a mask cannot be read, or none may label the year.
    """
    draw = Draw(
        area=area,
        masks=open_masks(labels, trust=access.trust, area=area),
        labels=labels,
        sample=params or SampleParams(),
        habitat=None,
        access=access,
        seed=seed,
        features=tuple(features),
        cube=CubeParams(),
        block_px=part.tile.shape[0],
        skip_bad=False,
    )
    frame, _ = draw_rows(_layers(cube), part, part.scenes, draw)
    return frame


def classify_year(part: TileYear, cube: xr.Dataset, area: Area, model: Model) -> xr.Dataset:
    """Map a tile-year wall to wall.

    Parameters
    ----------
    part : TileYear
    cube : Dataset
        Its cube, from ``composite_year``.
    area : Area
    model : Model

    Returns
    -------
    Dataset
        ``probability`` uint16 (y, x) x 10 000 and ``class`` uint8 (y, x), see ``classify.classify_block``.
    """
    layers = _layers(cube)
    probability, classes = classify_block(
        feature_stack(layers, model.features),
        observed=layers["clear_count"] > 0,
        area=region_codes(area, part.tile) > 0,
        model=model,
    )
    maps = {"probability": (("y", "x"), probability), "class": (("y", "x"), classes)}
    return xr.Dataset(maps, coords={**grid_coords(part.tile.geobox), "year": part.year})


def _layers(cube: xr.Dataset) -> dict[str, np.ndarray]:
    return {str(name): variable.values for name, variable in cube.data_vars.items()}
