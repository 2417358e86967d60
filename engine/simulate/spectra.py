"""Reflectance of surface classes: within-class spread, differences between regions, sensors, label noise.

One model serves the rendered scenes and the feature-space test that holds the world's difficulty:
``rho = exp(log mean_c + r gain[region, c] + s dev) + haze[region]``, with 70 % of the variance of ``dev`` fixed to
the pixel, so that compositing many scenes does not make the task trivially easy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np

_TABLE: Final[dict[str, Any]] = json.loads(
    files("engine.simulate").joinpath("spectra.json").read_text(encoding="utf-8")
)

BANDS: Final = tuple(_TABLE["bands"])
"""Coastal and the six bands of every cube, in the order of every array here."""

PERSISTENT_SHARE: Final = float(_TABLE["recommended_defaults"]["rho_persistent"])
"""Share of the within-class variance that stays with a pixel from scene to scene."""

MIXED_SHARE: Final = float(_TABLE["recommended_defaults"]["mixed_pixel_fraction"])
"""Share of pixels that hold more than one class."""

ATTENUATION: Final = np.array([_TABLE["water_two_way_attenuation_per_m"][b] for b in BANDS], dtype="float32")
"""Attenuation of light in tidal water, per metre of depth."""

_CONFUSERS: Final = {
    "silvofishery": (14, {"mangrove_tall": 0.55, "pond": 0.45}),
    "spartina": (35, {"saltmarsh_flat": 0.55, "rice_green": 0.45}),
    "abandoned_pond": (43, {"pond": 0.4, "mangrove_sparse": 0.35, "grass_pasture": 0.25}),
}
"""Confusers beyond the table, expert estimates: code and mixture, in log space, of classes of the table."""


@dataclass(frozen=True)
class _Classes:
    names: tuple[str, ...]
    codes: np.ndarray
    log_mean: np.ndarray
    cholesky: np.ndarray
    commission: np.ndarray
    priors: np.ndarray
    sources: tuple[str, ...]


def _read_classes() -> _Classes:
    table = {name: entry for name, entry in _TABLE["classes"].items() if not name.startswith("cloud")}
    log_mean = {name: np.log(entry["mean"]) for name, entry in table.items()}
    covariance = {name: np.array(entry["logcov"]) for name, entry in table.items()}
    codes = {name: entry["code"] for name, entry in table.items()}
    sources = {name: entry["source"] for name, entry in table.items()}
    for name, (code, mixture) in _CONFUSERS.items():
        codes[name], sources[name] = code, "prior"
        log_mean[name] = np.sum([share * log_mean[part] for part, share in mixture.items()], axis=0)
        covariance[name] = np.sum([share * covariance[part] for part, share in mixture.items()], axis=0)
    names = tuple(codes)
    noise = _TABLE["label_noise"]
    return _Classes(
        names,
        np.array([codes[name] for name in names], dtype="uint8"),
        np.array([log_mean[name] for name in names], dtype="float32"),
        # The table is rounded to five digits: a hair on the diagonal keeps it positive definite.
        np.array([np.linalg.cholesky(covariance[name] + 2e-5 * np.eye(7)) for name in names], dtype="float32"),
        np.array([noise["commission_by_class"].get(name, noise["commission_base"]) for name in names]),
        np.array([_TABLE["class_priors_coastal_tile"].get(name, 0.0) for name in names]),
        tuple(sources[name] for name in names),
    )


_CLASSES: Final = _read_classes()
NAMES: Final = _CLASSES.names
"""Surface classes, in the order of every class index."""
CODES: Final = _CLASSES.codes
"""Code of each class in the truth rasters, uint8."""
SOURCES: Final = _CLASSES.sources
"""``measured`` (clustered from published Landsat-8 pixels) or ``prior`` (expert estimate) of each class."""
PRIORS: Final = _CLASSES.priors
"""Share of each class in a coastal tile."""
INDEX: Final = {name: index for index, name in enumerate(NAMES)}


def indices_of(*names: str) -> np.ndarray:
    """Return the class indices of names or of their beginnings (``"water"``, ``"mangrove_tall"``)."""
    return np.array([i for i, name in enumerate(NAMES) if name.startswith(names)], dtype="uint8")


MANGROVE: Final = np.array(
    [i for n, i in INDEX.items() if n in ("mangrove_tall", "mangrove_short", "mangrove_sparse", "silvofishery")]
)
"""Indices of the classes that are mangrove: woody tidal canopy of at least 20 %."""
WATER: Final = indices_of("water")
_VEGETATION = indices_of(
    "mangrove",
    "forest",
    "swamp",
    "oil_palm",
    "shrub",
    "rice_green",
    "grass",
    "saltmarsh",
    "silvo",
    "spartina",
)


@dataclass(frozen=True)
class RegionSpectra:
    """The classes as one region shows them."""

    log_mean: np.ndarray
    """float32 (class, band): log reflectance, shifted by the region's gains."""

    haze: np.ndarray
    """float32 (band,): reflectance added everywhere."""

    overlap: float
    """s."""

    def deviation(self, index: int, noise: Sequence[np.ndarray] | np.ndarray, share: float) -> np.ndarray:
        """Turn white noise into the log deviation of a class.

        Parameters
        ----------
        index : int
            Class.
        noise : 7 ndarrays of float32, shape (n,)
            Standard normal.
        share : float
            Share of the within-class variance this noise stands for.

        Returns
        -------
        ndarray of float32, shape (band, n)
        """
        lower = np.float32(self.overlap * np.sqrt(share)) * _CLASSES.cholesky[index]
        # Written out instead of a matrix product, whose rounding depends on the number of BLAS threads.
        out = np.empty((7, len(noise[0])), dtype="float32")
        for band in range(7):
            np.multiply(noise[0], lower[band, 0], out=out[band])
            for other in range(1, band + 1):
                out[band] += noise[other] * lower[band, other]
        return out

    def reflectance(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the reflectance of pixels of given classes, outside any landscape.

        Parameters
        ----------
        indices : ndarray of int, shape (n,)
            Class of each pixel.

        Returns
        -------
        ndarray of float32, shape (7, n)
            All within-class variance at once; 15 % of the pixels hold up to half of another one.
        """
        count = len(indices)
        noise = rng.standard_normal((7, count), dtype="float32")
        log = np.empty_like(noise)
        for index in np.unique(indices):
            pixels = np.flatnonzero(indices == index)
            log[:, pixels] = self.log_mean[index][:, None] + self.deviation(index, noise[:, pixels], 1.0)
        pure = np.clip(np.exp(log) + self.haze[:, None], 0.0005, 1.0)
        share = np.where(rng.random(count) < MIXED_SHARE, rng.uniform(0.5, 1.0, count), 1.0).astype("float32")
        return share * pure + (1 - share) * pure[:, rng.permutation(count)]


def region_spectra(rng: np.random.Generator, *, overlap: float, region_shift: float) -> RegionSpectra:
    """Draw how one region differs from the table: class gains, vegetation moisture and haze."""
    model = _TABLE["region_model"]["recommended"]
    gain = rng.standard_normal((len(NAMES), 7)) * np.array(model["class_gain_sd_log"])
    moisture = rng.normal(0, model["veg_moisture_sd_log"]["swir16"])
    gain[_VEGETATION, 5] += moisture
    gain[_VEGETATION, 6] += 1.3 * moisture
    amplitude = max(model["haze_amp_min"], rng.normal(0, model["haze_amp_sd"]))
    return RegionSpectra(
        (_CLASSES.log_mean + region_shift * gain).astype("float32"),
        (region_shift * amplitude * np.array(model["haze_shape"])).astype("float32"),
        overlap,
    )


HAZE_SHAPE: Final = np.array(_TABLE["region_model"]["recommended"]["haze_shape"], dtype="float32")
"""Haze by band, relative to coastal."""

CLOUD: Final = np.array(_TABLE["classes"]["cloud_thick"]["mean"], dtype="float32")
"""Reflectance of thick cloud."""


def sensor_transform(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw slope and intercept of OLI = slope * (TM or ETM+) + intercept, float32 (7,), round Roy et al. (2016).

    They differ from the published table, so that no table inverts them exactly. Coastal, which TM and ETM+ lack,
    is left alone.
    """
    table = _TABLE["sensor_transform_ETM_TM_from_OLI"]
    slope = np.array([1.0, *table["slope"]]) * rng.normal(1, 0.02, 7)
    intercept = np.array([0.0, *table["intercept"]]) + rng.normal(0, 0.004, 7)
    return slope.astype("float32"), intercept.astype("float32")


def noisy_mask(indices: np.ndarray, mangrove: np.ndarray, omitted: np.ndarray, committed: np.ndarray) -> np.ndarray:
    """Make the errors a published mangrove mask makes.

    Parameters
    ----------
    indices : ndarray of int
        Class of each pixel.
    mangrove : ndarray of bool, same shape
        Truth.
    omitted, committed : ndarray of float, same shape
        Uniform in [0, 1); clumped in space where the errors shall be.

    Returns
    -------
    ndarray of bool, same shape
        The mask: 7 % of the mangrove missing, other classes taken for mangrove at the rates of the table.
    """
    rate = _TABLE["label_noise"]["mangrove_omission"]
    return np.where(mangrove, omitted >= rate, committed < _CLASSES.commission[indices])
