"""Which code this is: one hash of the engine's source, the same wherever it is installed."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path


@cache
def code_sha256() -> str:
    """Return the sha256 over names and content of every ``.py`` file of the engine, in order of their names."""
    root, digest = Path(__file__).resolve().parent, hashlib.sha256()
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
