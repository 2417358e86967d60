"""One signed scene read through every passing fault of its storage, at its header and at its pixels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import planetary_computer.sas
import pytest
from planetary_computer.settings import Settings

from engine import ranges, sign
from engine.errors import SceneError
from engine.grid import grid_geobox
from engine.ranges import Access
from engine.reader import read_asset
from engine.scenes import Scene
from engine.sign import Signer
from engine.stack import stack_items
from engine.trust import Trust
from tests.integration.loopback import CONTAINER, SECRET, BlobServer, TokenServer, serving
from tests.makers import utc, write_scene

GEOBOX = grid_geobox(48, (-32700, 16500, 200, 200))
HEADER, PIXELS = 1, 2
"""Requests of a file: its header, its pixels."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return write_scene(tmp_path_factory.mktemp("blobs"), day=utc(2019, 5, 5), corner=(-32710, 16490))


@pytest.fixture
def blobs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobServer]:
    tokens = TokenServer()
    blobs = BlobServer(Path(scene.assets["red"]).parent, tokens)
    monkeypatch.setenv("PC_SDK_SAS_URL", f"http://{tokens.address}/api/sas/v1/token")
    monkeypatch.setattr(planetary_computer.sas, "BLOB_STORAGE_DOMAIN", blobs.domain)
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.01, 0.01))
    Settings.get.cache_clear()
    sign._tokens.clear()
    with serving(tokens), serving(blobs):
        yield blobs
    Settings.get.cache_clear()
    sign._tokens.clear()


@pytest.fixture
def stored(scene: Scene, blobs: BlobServer) -> Scene:
    hrefs = {name: f"http://{blobs.host}/{CONTAINER}/{Path(href).name}" for name, href in scene.assets.items()}
    return replace(scene, assets=hrefs)


@pytest.fixture
def access(blobs: BlobServer) -> Access:
    trust = Trust().with_hosts(blobs.host, blobs.tokens.address)
    return Access(trust, Signer(trust, budget_s=2))


def local(scene: Scene, asset: str) -> np.ndarray:
    return read_asset(scene, asset, GEOBOX, Access(Trust().with_roots(Path(scene.assets[asset]).parent)))


@pytest.mark.parametrize("request_number", [HEADER, PIXELS])
@pytest.mark.parametrize("status", [0, 403, 503])
def test_a_passing_fault_is_survived(
    scene: Scene, stored: Scene, access: Access, blobs: BlobServer, status: int, request_number: int
) -> None:
    blobs.before = lambda path, number: status if number == request_number else None
    assert np.array_equal(read_asset(stored, "red", GEOBOX, access), local(scene, "red"))
    assert blobs.answers[status] == 1


def test_tokens_revoked_twice_in_one_read_are_replaced_twice(
    scene: Scene, stored: Scene, access: Access, blobs: BlobServer
) -> None:
    def revoke(path: str, number: int) -> None:
        if number in (1, 3):
            blobs.tokens.revoke()

    blobs.before = revoke
    assert np.array_equal(read_asset(stored, "red", GEOBOX, access), local(scene, "red"))
    assert len(blobs.tokens.calls) == 3


@pytest.mark.parametrize("request_number", [HEADER, PIXELS])
def test_a_token_revoked_at_any_request_is_replaced_once(
    scene: Scene, stored: Scene, access: Access, blobs: BlobServer, request_number: int
) -> None:
    def revoke(path: str, number: int) -> None:
        if number == request_number and blobs.requests.total() == request_number:
            blobs.tokens.revoke()

    blobs.before = revoke
    for asset in ("red", "qa_pixel"):
        assert np.array_equal(read_asset(stored, asset, GEOBOX, access), local(scene, asset))
    assert len(blobs.tokens.calls) == 2


def test_the_lazy_stack_reads_signed_and_survives_too(
    scene: Scene, stored: Scene, access: Access, blobs: BlobServer
) -> None:
    stack = stack_items([stored], GEOBOX, access=access)
    blobs.before = lambda path, number: 403 if number == PIXELS else None
    values = stack.compute(scheduler="synchronous")
    for asset in stored.assets:
        assert np.array_equal(values.sel(band=asset)[0], local(scene, asset))
    assert SECRET not in str(stack.attrs) + str(stack.coords)


def test_a_missing_file_is_told_at_once_and_without_its_signature(
    stored: Scene, access: Access, blobs: BlobServer
) -> None:
    blobs.before = lambda path, number: 404
    begin = time.monotonic()
    with pytest.raises(SceneError, match=rf"asset red: {stored.id}_red.tif cannot be read") as caught:
        read_asset(stored, "red", GEOBOX, access)
    assert time.monotonic() - begin < 2
    assert blobs.requests.total() == 1
    assert caught.value.__cause__ is None
    assert "sig=" not in str(caught.value)


def test_pixels_refused_for_good_are_told_without_their_signature(
    stored: Scene, access: Access, blobs: BlobServer
) -> None:
    blobs.before = lambda path, number: 403 if number > 1 else None
    with pytest.raises(SceneError, match=r"asset red: .*--skip-bad") as caught:
        read_asset(stored, "red", GEOBOX, access)
    assert "?" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(blobs.tokens.calls) == 2, "signed again once"
