"""Profiles are read or refused by name; work is bounded; errors come back as they were raised."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rasterio

from engine import cluster, launch
from engine.cluster import check_visible, open_cluster, run_bounded, worker_bytes, worker_count
from engine.errors import ClusterError, ConfigError, SceneError
from engine.places import ObjectPath, entries


def write(folder: Path, text: str) -> Path:
    path = folder / "profiles.yaml"
    path.write_text(text)
    return path


def test_an_unknown_profile_names_the_known(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"no cluster profile 'b' .*known are a"),
        open_cluster("b", write(tmp_path, "profiles: {a: {kind: threads}}")),
    ):
        pass


def test_a_scheduler_nobody_answers_for_is_one_line(tmp_path, monkeypatch):
    for module in (cluster, launch):
        monkeypatch.setattr(module, "REACH_SECONDS", 1)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{busy.getsockname()[1]}"
        body = write(tmp_path, f"profiles: {{a: {{kind: address, address: '{address}'}}}}")
        with pytest.raises(ClusterError, match=f"scheduler {address} cannot be reached"), open_cluster("a", body):
            pass


def test_threads_state_their_number_and_memory(tmp_path):
    path = write(tmp_path, "profiles: {a: {kind: threads, workers: 3, memory_limit: 3GB}}")
    with open_cluster("a", path) as client:
        assert worker_count(client) == 3
        assert worker_bytes(client) == 10**9


def listening(pid: str = "self") -> set[str]:
    """Return the local addresses (hexadecimal, as the kernel lists them) this process listens on."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.add(fields[1].split(":")[0])
    return addresses


@pytest.mark.skipif(not Path("/proc/self/net/tcp").is_file(), reason="needs /proc to list sockets")
@pytest.mark.parametrize("name", ["threads", pytest.param("local", marks=pytest.mark.slow)])
def test_nothing_listens_beyond_loopback(name):
    loopback = {"0100007F", "00000000000000000000000001000000"}
    with open_cluster(name) as client:
        pids = set(client.run(_pid).values()) | {"self"}
        assert {address for pid in pids for address in listening(pid)} <= loopback


def _pid() -> str:
    return str(os.getpid())


def _square(number: int) -> int:
    return number * number


def _fail(number: int) -> int:
    if number == 3:
        try:
            rasterio.open("/nowhere.tif?sig=secret")
        except rasterio.RasterioIOError as error:
            raise SceneError("cannot be read", scene="A", asset="red") from error
    return number


def test_a_cluster_opens_outside_the_main_thread_too():
    def work() -> int:
        with open_cluster("threads") as client:
            return client.submit(_square, 7).result()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == 49


def test_every_call_is_answered_and_few_are_in_flight(tmp_path):
    drawn = []

    def calls():
        for number in range(40):
            drawn.append(number)
            yield (number,)

    with open_cluster("threads") as client:
        answers = run_bounded(client, _square, calls(), in_flight=4)
        first = next(answers)
        assert len(drawn) <= 6
        assert dict([first, *answers]) == {(n,): n * n for n in range(40)}


@pytest.mark.slow
def test_workers_come_with_the_work_up_to_the_bound_of_the_profile(tmp_path):
    path = write(tmp_path, "profiles: {a: {kind: local, adapt: {minimum: 1, maximum: 2}, memory_limit: 1GB}}")
    with open_cluster("a", path) as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1
        assert worker_count(client) == 2, "for which work is handed out"
        for _ in run_bounded(client, time.sleep, [(3.0,)] * 20):
            if len(client.scheduler_info(n_workers=-1)["workers"]) == 2:
                break
        else:
            pytest.fail("no second worker came")


@pytest.mark.slow
def test_what_calls_share_travels_once():
    class Coast:
        pickled = 0

        def __reduce__(self):
            Coast.pickled += 1
            return bytes, (3,)

    coast = Coast()
    with open_cluster("local", cluster_file=None) as client:
        answers = dict(run_bounded(client, _length, [(coast, n) for n in range(6)], shared=(coast, None)))
    assert [answers[coast, n] for n in range(6)] == [3 + n for n in range(6)]
    assert Coast.pickled <= 2, "and not once a call"


def _length(thing: bytes, more: int) -> int:
    return len(thing) + more


@pytest.mark.parametrize("name", ["threads", pytest.param("local", marks=pytest.mark.slow)])
def test_an_error_comes_back_as_it_was_raised_and_is_not_logged(name, capfd):
    with open_cluster(name) as client:
        with pytest.raises(SceneError, match="scene A, asset red: cannot be read") as caught:
            list(run_bounded(client, _fail, [(n,) for n in range(8)]))
        assert caught.value.about == {"scene": "A", "asset": "red"}
        assert caught.value.__context__ is None or "secret" not in str(caught.value.__context__)
    assert "Traceback" not in capfd.readouterr().err


def test_workers_see_what_the_client_writes(place):
    with open_cluster("threads") as client:
        check_visible(client, place / "new" / "folder")
    assert entries(place / "new" / "folder") == ([], [])


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with (
        open_cluster("threads") as client,
        pytest.raises(ClusterError, match=r"written from here \(there is no such b"),
    ):
        check_visible(client, ObjectPath("s3://no-such-bucket-anywhere/run"))


@pytest.mark.long
def test_a_worker_that_lacks_the_clients_credentials_or_endpoint_is_named(bucket, s3_server, tmp_path):
    with open_cluster("local", write(tmp_path, "profiles: {local: {kind: local, workers: 1}}")) as client:
        client.run(os.environ.update, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
        with pytest.raises(ClusterError, match=r"run is not visible from worker tcp://127\.0\.0\.1:\d+ \(its server d"):
            check_visible(client, bucket / "run")
    assert entries(bucket / "run") == ([], [])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with open_cluster("threads") as client, pytest.raises(ClusterError, match="cannot be written"):
        check_visible(client, tmp_path / "file" / "run")
