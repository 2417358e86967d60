"""Facts about Landsat Collection 2 Level 2: bands, scaling, QA and RADSAT bits. One table per sensor.

References
----------
USGS LSDS-1619, Landsat 8-9 Collection 2 Level 2 Science Product Guide (QA_PIXEL, QA_RADSAT, scale factors).
USGS LSDS-1618, Landsat 4-7 Collection 2 Level 2 Science Product Guide.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

SCALE: Final = 2.75e-5
"""Surface reflectance = SCALE * DN + OFFSET (LSDS-1619, table 6-1)."""

OFFSET: Final = -0.2
"""See SCALE."""

FILL_DN: Final = 0
"""Nodata of the reflectance bands; may differ between bands of one scene."""

QA_FILL: Final = 1
"""Nodata of QA_PIXEL is the word 1 (bit 0), not 0: padding with 0 would read as clear."""

BANDS: Final = ("blue", "green", "red", "nir08", "swir16", "swir22")
"""The six reflectance bands every sensor has, in the order of every cube. TM and ETM+ have no coastal band."""

QA_PIXEL: Final = "qa_pixel"
QA_RADSAT: Final = "qa_radsat"

QA_BITS: Final = {
    "fill": 0,
    "dilated_cloud": 1,
    "cirrus": 2,  # unused on TM and ETM+
    "cloud": 3,
    "cloud_shadow": 4,
    "snow": 5,
    "clear": 6,  # stays 1 under shadow and cirrus on OLI: never use it alone
    "water": 7,
}
"""Single-bit flags of QA_PIXEL. Bits 8-15 hold two-bit confidences: cloud, shadow, snow, cirrus."""

UNUSABLE_QA: Final = 0b11111
"""Fill, dilated cloud, cirrus, cloud, cloud shadow. Snow and water stay: bright mud and sea are data in the tropics."""

CLOUD_CONFIDENCE_SHIFT: Final = 8
"""Cloud confidence is ``(qa >> 8) & 3``: 1 low, 2 medium, 3 high."""


@dataclass(frozen=True)
class Sensor:
    """One instrument family."""

    name: str
    """'TM', 'ETM+' or 'OLI'."""

    band_numbers: dict[str, int]
    """Common band name -> the number in the product's file name (SR_B<n>)."""

    unusable_radsat: int
    """QA_RADSAT bits that rule a pixel out: saturation of the six bands;
    on OLI also terrain occlusion, on TM and ETM+ dropped pixels."""


# Bit n-1 of QA_RADSAT is saturation of band n; bit 5 is SWIR1 on OLI but thermal on TM and ETM+.
_TM_NUMBERS = {"blue": 1, "green": 2, "red": 3, "nir08": 4, "swir16": 5, "swir22": 7}
_OLI_NUMBERS = {"blue": 2, "green": 3, "red": 4, "nir08": 5, "swir16": 6, "swir22": 7}
TM: Final = Sensor("TM", _TM_NUMBERS, 95 | 512)
ETM: Final = Sensor("ETM+", _TM_NUMBERS, 95 | 512)
OLI: Final = Sensor("OLI", _OLI_NUMBERS, 126 | 2048)

SENSORS: Final = {
    "landsat-4": TM,
    "landsat-5": TM,
    "landsat-7": ETM,
    "landsat-8": OLI,
    "landsat-9": OLI,
}
"""Platform, as STAC items of the Planetary Computer name it, to its sensor."""

PLATFORMS: Final = tuple(SENSORS)

ROY_RMA: Final = {
    "blue": (0.9785, -0.0095),
    "green": (0.9542, -0.0016),
    "red": (0.9825, -0.0022),
    "nir08": (1.0073, -0.0021),
    "swir16": (1.0171, -0.0030),
    "swir22": (0.9949, 0.0029),
}
"""Slope and intercept of OLI = slope * ETM+ + intercept, surface reflectance, by reduced major axis regression (Roy et
al. 2016, doi 10.1016/j.rse.2015.12.024, table 2). Fitted to ETM+ over the conterminous US before Collection 2."""

SLC_FAILURE: Final = dt.date(2003, 5, 31)
"""From this day ETM+ scenes have wedge-shaped gaps (about 22 % of a scene)."""

ETM_ORBIT_DRIFT: Final = dt.date(2022, 4, 6)
"""Landsat 7 left its orbit on this day: later looks see another illumination and are off by default."""
