"""What a simulated world truly was at the rows of a table: only there is it known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from engine.errors import ConfigError
from engine.raster import read_raster
from engine.simulate.archive import Archive
from engine.simulate.spectra import CODES, NAMES
from engine.simulate.world import Site, site_of


def add_truth(frame: pd.DataFrame, archive: Archive) -> pd.DataFrame:
    """Return a table with the truth of each row, of 1 July of its year.

    Parameters
    ----------
    frame : DataFrame
        Columns zone, grid_row, grid_col and year.
    archive : Archive

    Returns
    -------
    DataFrame
        The rows as they are, with columns truth (bool, is mangrove) and truth_class (str, as in ``world.json``).

    Raises
    ------
    ConfigError
        If a row lies outside the world: of another place, or a year it was not made for.
    """
    truth, kind = np.zeros(len(frame), bool), np.zeros(len(frame), np.uint8)
    known = np.zeros(len(frame), bool)
    year = frame["year"].to_numpy()
    for site, inside in rows_by_site(frame, archive):
        for one in sorted(set(archive.params.years) & set(year[inside].tolist())):
            rows = inside[year[inside] == one]
            kind[rows], mangrove, _ = raster_at(archive.truth(site.name, one), site, frame.iloc[rows])
            truth[rows], known[rows] = mangrove > 0, True
    if not known.all():
        first = frame.iloc[int(np.argmin(known))]
        raise ConfigError(
            f"the simulated world {archive.folder} has no truth of {(~known).sum()} of {len(frame)} rows, the first of "
            f"{first['year']} at zone {first['zone']}, row {first['grid_row']}, column {first['grid_col']}",
            fix="give the world that the run's scenes and masks come from",
        )
    names = np.full(256, "", object)
    names[CODES] = NAMES
    return frame.assign(truth=truth, truth_class=names[kind])


def rows_by_site(frame: pd.DataFrame, archive: Archive) -> Iterator[tuple[Site, np.ndarray]]:
    """Yield each site of a world and which rows of a table lie in its square: their positions, ascending."""
    zone, row, col = (frame[name].to_numpy(np.int64) for name in ("zone", "grid_row", "grid_col"))
    for region in archive.params.regions:
        site = site_of(region, archive.params.size_px)
        down, right = row - site.row, col - site.col
        inside = (zone == site.zone) & (down >= 0) & (down < site.size_px) & (right >= 0) & (right < site.size_px)
        yield site, np.flatnonzero(inside)


def raster_at(path: Path, site: Site, frame: pd.DataFrame) -> np.ndarray:
    """Return a raster of a site (truth, surface model) at rows that lie in its square, (band, row)."""
    values, _ = read_raster(path)
    return values[:, frame["grid_row"].to_numpy() - site.row, frame["grid_col"].to_numpy() - site.col]
