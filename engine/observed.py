"""When and by what a year was seen: the spread of its dates, weighed by the pixels each saw clear."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from engine.landsat import ETM, SENSORS, SLC_FAILURE

QUARTER_SHARE: Final = 0.05
"""Of the clear pixels of a year that a quarter must hold to count as seen."""


def dates_seen(clear_px: Mapping[str, int]) -> dict[str, Any]:
    """Return how the clear pixels of a year spread over dates and sensors.

    Parameters
    ----------
    clear_px : mapping of str to int
        Observation (``scenes.Scene.observation``) -> clear pixels.

    Returns
    -------
    dict
        ``sensors`` with clear pixels, as samples name them; ``first`` and ``last`` day with any; ``quartile_days``,
        days of the year by which a quarter, half and three quarters of the clear pixels of all looks had been seen, in
        order of time also where a season crosses the new year; ``quarters`` of the calendar with at least
        ``QUARTER_SHARE`` of them; ``slc_off_share``, by ETM+ after its scan line corrector failed. Without clear pixels
        empty, None, 0 and 0.

    Examples
    --------
    >>> dates_seen({"landsat-5_126_20030105": 60, "landsat-7_126_20030728": 40})
    ... # doctest: +NORMALIZE_WHITESPACE
    {'sensors': 'L5+L7', 'first': '2003-01-05', 'last': '2003-07-28', 'quartile_days': [5, 5, 209],
     'quarters': 2, 'slc_off_share': 0.4}
    """
    seen = sorted((*_day_and_platform(look), pixels) for look, pixels in clear_px.items() if pixels)
    total = sum(pixels for *_, pixels in seen)
    if not total:
        return {"sensors": "", "first": None, "last": None, "quartile_days": None, "quarters": 0, "slc_off_share": 0.0}
    quartiles: list[int] = []
    quarters, so_far = [0] * 4, 0
    for day, _, pixels in seen:
        so_far += pixels
        quarters[(day.month - 1) // 3] += pixels
        while len(quartiles) < 3 and 4 * so_far >= (len(quartiles) + 1) * total:
            quartiles.append(day.timetuple().tm_yday)
    return {
        "sensors": "+".join(sorted({f"L{platform[-1]}" for _, platform, _ in seen})),
        "first": seen[0][0].isoformat(),
        "last": seen[-1][0].isoformat(),
        "quartile_days": quartiles,
        "quarters": sum(pixels >= QUARTER_SHARE * total for pixels in quarters),
        "slc_off_share": round(
            sum(pixels for day, platform, pixels in seen if SENSORS[platform] is ETM and day >= SLC_FAILURE) / total, 4
        ),
    }


def _day_and_platform(look: str) -> tuple[dt.date, str]:
    platform, _, day = look.split("_")
    return dt.date(int(day[:4]), int(day[4:6]), int(day[6:])), platform
