"""Training by every worker: which clusters lie within this machine, and an end to losses. Kills are in tests/faults."""

from __future__ import annotations

import os
import sys
import threading
import time

import dask.dataframe as dd
import pytest
import xgboost
from distributed import Client, LocalCluster
from xgboost.tracker import RabitTracker

from engine import collective
from engine.collective import loopback_host
from engine.errors import ClusterError, StoreError
from engine.kernels.features import ALL_FEATURES
from engine.params import TrainParams
from engine.train import fit
from tests.engine.samples import make_sample

SPREAD = TrainParams(rounds=3, max_depth=3, distributed="yes")


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def spread(client, **options):
    sample = dd.from_pandas(make_sample(600), npartitions=2)
    return fit(sample, features=ALL_FEATURES, params=SPREAD, client=client, plain_collective=True, **options)


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("tcp://127.0.0.1:8786", "127.0.0.1"),
        ("tls://127.0.1.7:8786", "127.0.1.7"),
        ("tcp://[::1]:8786", "::1"),
        ("tcp://localhost:8786", "127.0.0.1"),
        ("tls://10.0.0.5:8786", None),
        ("tcp://0.0.0.0:8786", None),
        ("gateway://gateway.example:443/x", None),
    ],
)
def test_only_loopback_is_this_machine(address, host):
    assert loopback_host(address) == host


def lost(error):
    async def attempt(*args):
        raise error

    return attempt


def test_losses_come_to_an_end_in_one_line(client, monkeypatch):
    monkeypatch.setattr(collective, "_attempt", lost(xgboost.core.XGBoostError("Ring Allreduce failed")))
    monkeypatch.setattr(collective, "_is_any_lost", lambda *_: True)
    with pytest.raises(ClusterError, match=r"training lost workers 4 times .*the same command goes on") as caught:
        spread(client)
    assert "\n" not in str(caught.value)


def test_what_xgboost_says_with_all_workers_there_is_told_as_it_is(client, monkeypatch):
    monkeypatch.setattr(collective, "_attempt", lost(xgboost.core.XGBoostError("[00:00] a.cc:1: Check failed\nStack")))
    monkeypatch.setattr(collective, "_TELL_SECONDS", 0.2)
    with pytest.raises(ClusterError, match=r"with all workers there: .*Check failed Stack; see their logs") as caught:
        spread(client)
    assert "lost" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [StoreError("disk full"), ZeroDivisionError("a defect")])
def test_what_is_no_loss_is_not_tried_again(client, monkeypatch, error):
    monkeypatch.setattr(collective, "_attempt", lost(error))
    monkeypatch.setattr(collective, "_TELL_SECONDS", 0.2)
    with pytest.raises(type(error), match=str(error)):
        spread(client)


def test_a_finished_checkpoint_needs_no_worker(client, monkeypatch, tmp_path):
    expected = spread(client, checkpoints=tmp_path).tree_sha256()
    monkeypatch.setattr(collective, "_attempt", lost(AssertionError("trained again")))
    assert spread(client, checkpoints=tmp_path).tree_sha256() == expected


def test_a_tracker_that_was_given_up_says_nothing_and_others_what_they_will(monkeypatch):
    said = []

    def meant(args):
        said.append(str(args.exc_value))

    monkeypatch.setattr(threading, "excepthook", meant)
    monkeypatch.setattr(sys, "unraisablehook", meant)

    def other():
        raise xgboost.core.XGBoostError("a defect")

    earlier, later = collective._Hush(), collective._Hush()
    tracker = RabitTracker(n_workers=2, host_ip="127.0.0.1", timeout=1)  # one that nobody calls
    tracker.start()
    threads = [threading.Thread(target=tracker.wait_for), threading.Thread(target=other)]
    del tracker
    while threads:
        thread = threads.pop(0)
        thread.start()
        thread.join()
    assert said == ["a defect"]
    earlier.restore()
    assert threading.excepthook == later.uncaught
    later.restore()
    assert threading.excepthook is sys.unraisablehook is meant


def test_a_fit_leaves_the_hook_of_uncaught_errors_as_it_was(client):
    before = threading.excepthook
    spread(client)
    until = time.monotonic() + 20
    while threading.excepthook is not before and time.monotonic() < until:
        time.sleep(0.02)
    assert threading.excepthook is before


def wait_for_nobody():
    threading.Event().wait(120)


@pytest.mark.slow
def test_a_worker_that_waits_in_a_training_given_up_is_started_again(monkeypatch):
    monkeypatch.setattr(collective, "_LEAVE_SECONDS", 0.5)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        pid = client.submit(os.getpid, pure=False).result()
        training = client.submit(wait_for_nobody, key="fn-of-xgboost")
        until = time.monotonic() + 30
        while not client.run(collective._trainings)[client_worker(client)] and time.monotonic() < until:
            time.sleep(0.05)
        collective._free(client)  # as long as it is wanted it is left alone
        assert not training.done()
        training.cancel()
        del training
        collective._free(client)
        assert client.submit(os.getpid, pure=False).result(timeout=60) != pid


def client_worker(client):
    [worker] = client.scheduler_info(n_workers=-1)["workers"]
    return worker


def test_a_worker_that_nobody_watches_over_is_named(client, monkeypatch):
    monkeypatch.setattr(collective, "_LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(collective, "_deserted", lambda client: [client_worker(client)])
    with pytest.raises(ClusterError, match="1 workers wait in training for one that is gone"):
        collective._free(client)
