"""A run shaped like the Planetary Computer's: STAC API, short tokens, blob storage that refuses the unsigned."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.model import load_model
from engine.scenes import read_scenes
from engine.simulate import Archive, WorldParams, write_archive
from engine.store import read_marker
from tests.integration.conftest import simulated_config
from tests.integration.loopback import ACCOUNT, CONTAINER, SECRET, BlobServer, TokenServer, environment, serving
from tests.stac_api import stac_api

pytestmark = pytest.mark.long

MANGROVES = Path(sys.executable).parent / "mangroves"
THREADS = ("--cluster", "threads")
"""Instead of worker processes, where it does not matter that each has its own tokens."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    world = WorldParams(("Nigeria1", "India"), (2016, 2020), size_px=128, scenes_per_year=4, mask_years=(2016, 2020))
    return write_archive(world, tmp_path_factory.mktemp("planetary") / "archive")


def stores_of(folder: Path, *kinds: str) -> dict[str, str]:
    """Return the sha256 of the decoded arrays of every store of a run, of cubes, maps or changes."""
    found = {}
    for kind in kinds:
        for store in sorted((folder / kind).rglob("*.zarr")):
            marker = read_marker(store)
            assert marker is not None
            found[str(store.relative_to(folder))] = marker["sha256"]
    return found


def maps_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of all stores of a run, and of its trees."""
    return {"trees": load_model(folder / "model").tree_sha256(), **stores_of(folder, "cube", "maps", "change")}


@pytest.fixture(scope="module")
def local_maps(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what a run from local files makes."""
    folder = tmp_path_factory.mktemp("local")
    answer = Command(archive, folder, {}, []).run(*THREADS, search={"catalogs": [str(archive.items)]})
    assert answer.returncode == 0, answer.stderr
    return maps_of(folder / "run")


@pytest.fixture(scope="module")
def local_cubes(local_maps: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in local_maps.items() if name.startswith("cube/")}


@dataclass
class Command:
    """``mangroves run``, or one of its steps, in a process of its own."""

    archive: Archive
    folder: Path
    env: dict[str, str]
    hosts: list[str]

    def run(self, *flags: str, step: str = "run", **sections: Any) -> subprocess.CompletedProcess[str]:
        config = simulated_config(self.archive, out=str(self.folder), **sections)
        (self.folder / "run.yaml").write_text(yaml.safe_dump(config))
        command = [str(MANGROVES), step, str(self.folder / "run.yaml"), "--allow-root", str(self.archive.folder)]
        for host in self.hosts:
            command += ["--allow-host", host]
        return subprocess.run(
            [*command, *flags],
            cwd=self.folder,
            env=self.env or None,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )


@dataclass
class Planet:
    """The three servers, and a command that talks to them."""

    tokens: TokenServer
    blobs: BlobServer
    api: str
    command: Command

    def run(self, *flags: str, step: str = "run") -> subprocess.CompletedProcess[str]:
        answer = self.command.run(*flags, step=step, search={"catalogs": [self.api]})
        self.check_no_secret(answer)
        return answer

    @property
    def made(self) -> dict[str, str]:
        """The sha256 of every cube."""
        return stores_of(self.command.folder / "run", "cube")

    def check_no_secret(self, answer: subprocess.CompletedProcess[str]) -> None:
        """No token in what was printed or written, nor in the files of the run, packed or not."""
        assert SECRET not in answer.stdout + answer.stderr
        assert "sig=" not in answer.stdout + answer.stderr
        files = [path for path in self.command.folder.rglob("*") if path.is_file()]
        for path in files:
            assert SECRET.encode() not in path.read_bytes(), path
        frozen = self.command.folder / "run" / "items.parquet"
        if frozen.is_file():
            hrefs = [href for scene in read_scenes(frozen) for href in scene.assets.values()]
            assert all(href.startswith(f"http://{self.blobs.host}/{CONTAINER}/") for href in hrefs)
            assert not any("?" in href for href in hrefs)

    def cubes(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run as far as the cubes; after them nothing is read from afar."""
        return self.run(*flags, step="cube")


@pytest.fixture
def planet(archive: Archive, tmp_path: Path) -> Iterator[Planet]:
    tokens = TokenServer()
    blobs = BlobServer(archive.folder, tokens)
    items = json.loads(archive.items.read_text())["features"]
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = f"http://{blobs.host}/{CONTAINER}/{asset['href'].removeprefix('./')}"
    work = tmp_path / "work"
    work.mkdir()
    with serving(tokens), serving(blobs), stac_api(items, tmp_path / "api") as api:
        env = environment(tmp_path / "site", tokens, blobs)
        hosts = [tokens.address, blobs.host, api.removeprefix("http://")]
        yield Planet(tokens, blobs, api, Command(archive, work, env, hosts))


def test_signed_reads_give_the_maps_of_local_files(planet: Planet, local_maps: dict[str, str]) -> None:
    answer = planet.run()
    assert answer.returncode == 0, answer.stderr
    assert maps_of(planet.command.folder / "run") == local_maps
    assert set(planet.tokens.calls) == {f"/api/sas/v1/token/{ACCOUNT}/{CONTAINER}"}
    assert len(planet.tokens.calls) <= 2, "one call a worker and lifetime"
    assert set(planet.blobs.answers) == {206}, "ranges alone, and never unsigned"


def test_a_token_revoked_in_mid_run_is_replaced_once(planet: Planet, local_cubes: dict[str, str]) -> None:
    """Revoked once before a file is opened, and once between its header and its pixels."""
    revoked: list[str] = []

    def revoke(path: str, number: int) -> None:
        """A file's first request asks for its header, its second for pixels: 112 of each, so both come after 180."""
        for kind, due, least in (("open", number == 1, 60), ("pixels", number > 1, 180)):
            if kind not in revoked and due and planet.blobs.requests.total() >= least:
                revoked.append(kind)
                planet.tokens.revoke()

    planet.blobs.before = revoke
    answer = planet.cubes()
    assert answer.returncode == 0, answer.stderr
    assert revoked == ["open", "pixels"]
    assert planet.made == local_cubes
    assert planet.blobs.answers[403] >= 2
    assert len(planet.tokens.calls) <= 6, "a call a worker and token"


def test_tokens_of_seconds_last_until_all_is_read(planet: Planet, local_cubes: dict[str, str]) -> None:
    planet.tokens.lifetime_s = 2
    answer = planet.cubes()
    assert answer.returncode == 0, answer.stderr
    assert planet.made == local_cubes


def test_passing_faults_of_the_storage_are_survived(planet: Planet, local_cubes: dict[str, str]) -> None:
    def stumble(path: str, number: int) -> int | None:
        """One in five files fails at first: at its opening or its pixels, by an error or a closed connection."""
        kind = sum(map(ord, path)) % 20
        faults = {0: (1, 503), 1: (2, 503), 2: (1, 0), 3: (2, 0), 4: (1, 429), 5: (2, 500)}
        return faults[kind][1] if kind in faults and faults[kind][0] == number else None

    planet.blobs.before = stumble
    answer = planet.cubes(*THREADS)
    assert answer.returncode == 0, answer.stderr
    assert planet.made == local_cubes
    assert all(planet.blobs.answers[status] for status in (503, 429, 500, 0))


def test_a_scene_gone_for_good_stops_the_run_or_is_listed(planet: Planet, local_cubes: dict[str, str]) -> None:
    items = json.loads(planet.command.archive.items.read_text())["features"]
    victim = items[2]
    gone = victim["assets"]["nir08"]["href"].rsplit("/", 1)[-1]
    planet.blobs.before = lambda path, number: 404 if path.endswith(gone) else None
    answer = planet.cubes(*THREADS)
    assert answer.returncode == 1
    last = answer.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: scene {victim['id']}, asset nir08: ")
    assert last.endswith("--skip-bad")
    assert "Traceback" not in answer.stderr
    answer = planet.cubes("--skip-bad", *THREADS)
    assert answer.returncode == 0, answer.stderr
    record = json.loads((planet.command.folder / "run/run.json").read_text())
    assert {loss["scene"] for loss in record["lost"]} == {victim["id"]}
    changed = {name for name, digest in planet.made.items() if local_cubes[name] != digest}
    assert len(changed) == 1, "the year of that scene has a look less"


def test_a_host_that_nobody_allowed_is_not_asked(planet: Planet) -> None:
    planet.command.hosts = [planet.api.removeprefix("http://")]
    answer = planet.cubes(*THREADS)
    assert answer.returncode == 1
    assert f"--allow-host {planet.blobs.host}" in answer.stderr
    assert not planet.blobs.requests
    assert not planet.tokens.calls
