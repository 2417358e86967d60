"""A real STAC API server on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def stac_api(items: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    """Run rustac over some items and their collections, written below ``folder``; give its address.

    Its ``query`` extension finds nothing, so a search must do without.
    """
    command = shutil.which("rustac", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("needs the rustac command (pip install rustac)")
    folder.mkdir(parents=True, exist_ok=True)
    documents = {name: collection_document(name) for name in sorted({item["collection"] for item in items})}
    documents["items"] = {"type": "FeatureCollection", "features": items}
    files = [folder / f"{name}.json" for name in documents]
    for file, document in zip(files, documents.values(), strict=True):
        file.write_text(json.dumps(document))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([command, "serve", "--addr", address, *map(str, files)], **quiet) as process:
        try:
            _await(f"http://{address}/", process)
            yield f"http://{address}"
        finally:
            process.terminate()


def collection_document(name: str) -> dict[str, Any]:
    """Return the least that a catalog asks of a collection."""
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    about = {"type": "Collection", "stac_version": "1.0.0", "id": name, "description": "for a test"}
    return {**about, "license": "proprietary", "extent": extent, "links": []}


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.03)
        else:
            return
