"""R2: a run over many lifetimes of its tokens reads nothing with an expired one, and asks for few."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.simulate import WorldParams, write_archive
from tests.faults.promises import Promises
from tests.integration.loopback import ACCOUNT, CONTAINER, BlobServer, TokenServer, environment, serving, write_items
from tests.jobs.calls import Job, markers

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
LIFETIME_S = 20.0
LIFETIMES = 5
WORKERS = 2
LATENCY_S = 1.1
"""Of every read; a worker makes 112 of them, one after the other."""

WORLD = WorldParams(("Vietnam2", "India"), (2016, 2017), size_px=128, scenes_per_year=4, mask_years=(2015, 2018))


class DistantBlobs(BlobServer):
    """Answers as tokens are when a request comes, and takes its time."""

    def __init__(self, folder: Path, tokens: TokenServer) -> None:
        super().__init__(folder, tokens)
        self.reads: list[float] = []

    def give(self, path: str, query: str, asked: str | None, command: str) -> tuple[int, bytes, dict[str, str]]:
        answer = super().give(path, query, asked, command)
        self.reads.append(time.monotonic())
        time.sleep(LATENCY_S)
        return answer


def test_many_lifetimes_of_tokens(promise: Promises, tmp_path: Path) -> None:
    archive = write_archive(WORLD, tmp_path / "archive")
    undisturbed = Job(tmp_path / "undisturbed", archive)
    undisturbed.folder.mkdir()
    assert undisturbed.call("cube").code == 0

    tokens = TokenServer(LIFETIME_S)
    blobs = DistantBlobs(archive.items.parent, tokens)
    job = Job(tmp_path, archive)
    job.config["search"] = {"catalogs": [str(write_items(archive.items, blobs.host, tmp_path / "items.json"))]}
    job.config["cube"] = {"requests": 1}
    (tmp_path / "cluster.yaml").write_text(f"profiles: {{two: {{kind: local, workers: {WORKERS}}}}}")
    hosts = ("--allow-host", tokens.address, "--allow-host", blobs.host)
    more = ("--cluster-file", tmp_path / "cluster.yaml", "--allow-root", tmp_path, *hosts)
    env = environment(tmp_path / "site", tokens, blobs)
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(ROOT)])
    with serving(tokens), serving(blobs):
        command = [sys.executable, "-m", "jobs", *job.arguments("cube", *more, cluster="two")]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stderr
    lasted = blobs.reads[-1] - blobs.reads[0]
    assert lasted >= LIFETIMES * LIFETIME_S, f"the run took {lasted:.0f} s"
    assert len(tokens.callers) == WORKERS, "workers alone ask for tokens"

    early = tokens.early_calls()
    for pid, times in tokens.callers.items():
        for number in range(1, len(times)):
            with promise("R2", f"token {number} of process {pid} runs out"):
                assert blobs.answers[403] == 0, f"{blobs.answers[403]} reads with an expired token"
                assert not early, f"calls while the last token was fresh: {early}"
                assert markers(job.run) == markers(undisturbed.run)
    assert set(tokens.calls) == {f"/api/sas/v1/token/{ACCOUNT}/{CONTAINER}"}
    assert set(blobs.answers) == {206}
