"""Which software this is: a hash of the engine's source, and the versions that decide a result."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import engine

_DECISIVE: Final = ("dask", "distributed", "numba", "numpy", "xgboost", "zarr")


@cache
def code_sha256() -> str:
    """Return the sha256 over names and content of every ``.py`` file of the engine, in order of their names."""
    root, digest = Path(__file__).resolve().parent, hashlib.sha256()
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@cache
def software() -> dict[str, str]:
    """Return what must be the same in all processes of a run: name -> version, of our source its hash."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "mangroves": engine.__version__}
    found["engine"] = code_sha256()[:12]
    for name in _DECISIVE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def difference(there: dict[str, str], here: dict[str, str]) -> str:
    """Say how the software of another process differs; empty where it does not.

    >>> difference({"python": "3.12", "numpy": "2.1.0"}, {"python": "3.12", "numpy": "2.4.2"})
    'numpy 2.1.0, here 2.4.2'
    """
    names = [name for name in here if there.get(name, "none") != here[name]]
    return "; ".join(f"{name} {there.get(name, 'none')}, here {here[name]}" for name in names)
