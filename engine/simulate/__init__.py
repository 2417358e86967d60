"""The built-in world: a simulated Landsat archive whose truth is known, so that a run can be scored offline.

It is written as an ordinary archive (COG scenes, STAC items in the Planetary Computer's shape), and no engine
code may branch on it: only jobs, benchmarks and tests import this package.
"""

from engine.simulate.archive import Archive, read_archive, write_archive
from engine.simulate.truth import add_truth
from engine.simulate.world import WorldParams

__all__ = ["Archive", "WorldParams", "add_truth", "read_archive", "write_archive"]
