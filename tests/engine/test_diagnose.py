"""What a process has, whose clock is right, and whether a scene can be read from where it runs."""

from __future__ import annotations

import os
import socket
import time
from email.utils import formatdate

import pytest

from engine.cluster import open_cluster
from engine.diagnose import clock_error, examine
from engine.errors import TrustError
from engine.trust import Trust
from tests.engine.loopback import Loopback, Reply


def test_a_client_says_what_it_has():
    machine = examine()
    assert machine.host == socket.gethostname()
    assert machine.cores >= 1
    assert (machine.threads, machine.limit_bytes) == (0, 0)
    assert machine.scratch_free_bytes > 0
    assert machine.openmp_threads == os.environ.get("OMP_NUM_THREADS", "")
    assert abs(machine.time - time.time()) < 5


def test_a_worker_says_its_threads_limit_and_scratch():
    with open_cluster("threads") as client:
        [machine] = client.run(examine).values()
    assert machine.threads >= 1
    assert 0 < machine.limit_bytes <= machine.memory_bytes
    assert "dask" in machine.scratch


@pytest.mark.parametrize("ahead", [-90, 0, 90])
def test_a_clock_is_compared_with_a_server_s(ahead, monkeypatch):
    monkeypatch.setattr("tests.engine.loopback._Handler.do_HEAD", _say_date(time.time() - ahead), raising=False)
    with Loopback(lambda call: Reply()).running() as server:
        error = clock_error(server.url, server.trust)
    assert error == pytest.approx(ahead, abs=3)


def _say_date(seconds: float):
    def do_HEAD(handler) -> None:
        handler.send_response_only(200)
        handler.send_header("Date", formatdate(seconds, usegmt=True))
        handler.end_headers()

    return do_HEAD


def test_a_server_that_does_not_answer_says_no_time_and_one_not_allowed_is_not_asked():
    assert clock_error("http://127.0.0.1:9", Trust().with_hosts("127.0.0.1:9")) is None
    with pytest.raises(TrustError, match="not allowed"):
        clock_error("https://example.org", Trust())
