"""Signed runs, also those that fail, leave no secret in any file, line, log or graph."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from engine.simulate import WorldParams, read_archive, write_archive
from jobs import context
from tests.engine.loopback import Reply
from tests.faults.fault_server import SECRET, FaultServer, move_items, storage
from tests.faults.promises import Promises
from tests.jobs.calls import Answer, Job

WORLD = WorldParams(regions=("Vietnam2",), years=(2016,), size_px=64, scenes_per_year=2, mask_years=(2015, 2018))
SECRETS = (SECRET, "subscription-5f1d", "aws-9c42secret")

FAILURES: dict[str, Callable[[FaultServer], None]] = {
    **{
        f"storage says {status}": lambda server, status=status: setattr(server, "lasting", status)
        for status in (302, 401, 403, 404, 429, 500, 503)
    },
    "pages in place of pixels": lambda server: setattr(server, "lasting", 200),
    "the scenes are gone": lambda server: setattr(server, "folder", server.folder / "nowhere"),
    "the signer is gone": lambda server: setattr(server, "_token", lambda path: Reply(404, f"sig={SECRET}".encode())),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_archive(WORLD, tmp_path_factory.mktemp("world") / "archive").items.parent


@contextmanager
def overheard(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[io.StringIO, list[bytes]]]:
    """Yield what is logged by this process, workers included, and every task as it is sent."""
    log, sent = io.StringIO(), []
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    levels = {name: logging.getLogger(name).level for name in (None, "urllib3", "distributed")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    real = context.run_bounded

    def run_bounded(client: Any, function: Any, calls: Any, **more: Any) -> Any:
        kept = list(calls)
        sent.append(cloudpickle.dumps((function, kept, more)))
        return real(client, function, kept, **more)

    monkeypatch.setattr(context, "run_bounded", run_bounded)
    try:
        yield log, sent
    finally:
        logging.getLogger().removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def leaks(fault: str, archive: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Answer, list[str]]:
    """Run to the cube with secrets at hand; return what the command said, and where a secret is."""
    shutil.copytree(archive, folder / "archive")
    job = Job(folder, read_archive(folder / "archive"))
    server = FaultServer(archive)
    move_items(job.archive.items, server)
    if fault:
        FAILURES[fault](server)
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", SECRETS[1])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[2])
    with storage(server, monkeypatch), overheard(monkeypatch) as (log, sent):
        answer = job.call("cube", "--allow-host", server.blobs, "--allow-host", server.host)
        assert server.calls, "nothing was read"
        assert sent, "no task was overheard"
    texts = {"output": answer.out + answer.err, "log": log.getvalue(), "tasks": b"".join(sent).decode("latin-1")}
    texts |= {str(path): path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()}
    return answer, [f"{secret} in {name}" for name, text in texts.items() for secret in SECRETS if secret in text]


@pytest.mark.parametrize("fault", ["", "storage says 404"])
def test_a_run_leaves_no_secret(fault: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, found = leaks(fault, archive, tmp_path, monkeypatch)
    assert (answer.code == 0) == (not fault), answer.err
    assert not found


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["", *FAILURES])
def test_runs_leave_no_secret(
    fault: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Promises
) -> None:
    with promise("S2", fault or "a run that goes well"):
        answer, found = leaks(fault, archive, tmp_path, monkeypatch)
        assert (answer.code == 0) == (not fault), answer.err
        assert not found
