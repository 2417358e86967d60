"""Byte ranges from files and over HTTP: whole and right, or a fault that says nothing of the address."""

from __future__ import annotations

import datetime as dt
import gzip
import ipaddress
import pickle
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from engine import ranges
from engine.errors import Fault
from engine.ranges import MAX_GAP_BYTES, MAX_RANGE_BYTES, Access, RangeError, Spent, merge_ranges, read_range
from engine.trust import Trust
from tests.engine.loopback import Call, Loopback, Reply

CONTENT = np.random.default_rng(0).bytes(700_000)
ACCESS = Access(Trust())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short waits, no proxy of the machine's, and connections of this test only."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.01, 0.02))
    monkeypatch.setattr(ranges, "SILENCE_S", 1.0)
    ranges._pool.cache_clear()
    yield
    ranges._pool.cache_clear()


def given_range(call: Call) -> Reply:
    """Answer as storage does."""
    first, _, last = call.headers["range"].removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last) + 1, len(CONTENT))
    if begin >= len(CONTENT):
        return Reply(416)
    return Reply(206, CONTENT[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(CONTENT)}"})


def read(server: Loopback, start: int, stop: int, access: Access = ACCESS) -> bytes:
    return read_range(f"{server.url}/a.tif", start, stop, access, Spent())


# Merging.

SPANS = st.lists(st.tuples(st.integers(0, 2**24), st.integers(1, 2**22)), max_size=40)


@given(SPANS)
def test_every_range_is_in_one_group_and_groups_are_bounded_in_gap_and_size(spans):
    groups = merge_ranges(spans)
    assert sorted(place for group in groups for place in group) == list(range(len(spans)))
    edges = []
    for group in groups:
        begin, end = spans[group[0]][0], 0
        for place in group:
            start, size = spans[place]
            assert begin <= start <= max(end, begin) + MAX_GAP_BYTES
            end = max(end, start + size)
        assert len(group) == 1 or end - begin <= MAX_RANGE_BYTES
        edges.append((begin, end))
    for (begin, end), (start, _), group in zip(edges, edges[1:], groups[1:], strict=False):
        joined = max(end, start + spans[group[0]][1]) - begin
        assert start >= begin
        assert start - end > MAX_GAP_BYTES or joined > MAX_RANGE_BYTES, "no request is sent for nothing"


# Files.


def test_a_file_gives_its_bytes_and_fewer_where_it_ends(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(CONTENT)
    spent = Spent()
    for start, stop in ((0, 10), (5, 6), (699_990, 800_000), (800_000, 800_001)):
        assert read_range(str(path), start, stop, ACCESS, spent) == CONTENT[start:stop]
    assert spent.record()["fetch"]["seconds"] >= 0


def test_a_file_that_is_not_there_is_told_without_its_folder(tmp_path):
    for path, reason in ((tmp_path / "a.tif", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(RangeError, match=reason) as caught:
            read_range(str(path), 0, 10, ACCESS, Spent())
        assert str(tmp_path) not in str(caught.value)


# HTTP.


def test_storage_gives_its_bytes_and_fewer_where_the_file_ends():
    with Loopback(given_range).running() as server:
        for start, stop in ((0, 10), (5, 6), (0, 700_000), (699_990, 800_000)):
            assert read(server, start, stop) == CONTENT[start:stop]
        assert server.calls[0].headers["range"] == "bytes=0-9"
        assert server.calls[0].headers["accept-encoding"] == "identity"


def test_one_connection_serves_one_thread_and_few_serve_many():
    with Loopback(given_range, keep_alive=True).running() as server:
        for start in range(50):
            assert read(server, start, start + 1000) == CONTENT[start : start + 1000]
        assert server.connections == 1
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda start: read(server, start, start + 30_000), range(50)))
        assert found == [CONTENT[start : start + 30_000] for start in range(50)]
        assert server.connections <= 7
        assert len(server.calls) == 100


PASSING: dict[str, Callable[[Reply], Reply]] = {
    **{f"status {status}": lambda _, status=status: Reply(status) for status in (403, 408, 429, 500, 502, 503, 504)},
    "a web page": lambda _: Reply(200, b"<html>busy</html>"),
    "the whole file": lambda _: Reply(200, CONTENT),
    "a reset": lambda _: Reply(0),
    "half of the body": lambda right: Reply(206, right.body[:500], {**right.headers, "Content-Length": "1000"}),
    "no body": lambda right: Reply(206, b"", {**right.headers, "Content-Length": "1000"}),
    "no range": lambda right: Reply(206, right.body),
    "a range that begins elsewhere": lambda right: Reply(206, right.body, {"Content-Range": "bytes 0-999/700000"}),
    "a longer range": lambda right: Reply(206, CONTENT[7:1107], {"Content-Range": "bytes 7-1106/700000"}),
    "a shorter range": lambda right: Reply(206, right.body[:9], {"Content-Range": "bytes 7-15/700000"}),
    "a shorter range of who knows what": lambda right: Reply(206, right.body[:9], {"Content-Range": "bytes 7-15/*"}),
    "a range that ends before it begins": lambda right: Reply(206, b"", {"Content-Range": "bytes 7-5/6"}),
    "a range in other units": lambda right: Reply(206, right.body, {"Content-Range": "pixels 7-1006/700000"}),
    "numbers without end": lambda right: Reply(206, right.body, {"Content-Range": f"bytes 7-{'9' * 5000}/7"}),
    "compressed bytes": lambda right: Reply(
        206, gzip.compress(right.body), {**right.headers, "Content-Encoding": "gzip"}
    ),
}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_passing_fault_is_asked_past(name, keep_alive):
    def answer(call: Call) -> Reply:
        return PASSING[name](given_range(call)) if call.number == 2 else given_range(call)

    with Loopback(answer, keep_alive=keep_alive).running() as server:
        for _ in range(3):  # the third would meet what the second left unread on a connection
            assert read(server, 7, 1007) == CONTENT[7:1007]
        assert len(server.calls) == 4


@pytest.mark.parametrize("name", ["status 503", "the whole file", "a reset", "half of the body", "no range"])
def test_a_fault_that_stays_is_told_after_the_last_attempt_without_the_address(name):
    with Loopback(lambda call: PASSING[name](given_range(call))).running() as server:
        with pytest.raises(RangeError) as caught:
            read(server, 7, 1007)
        assert len(server.calls) == 3
    assert server.host not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404, 405, 410, 416, 451])
def test_what_another_attempt_will_not_bring_is_told_at_once(status):
    with Loopback(lambda call: Reply(status)).running() as server:
        with pytest.raises(RangeError, match=str(status)):
            read(server, 0, 10)
        assert len(server.calls) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_fault_and_not_followed(status):
    with (
        Loopback(given_range).running() as canary,
        Loopback(lambda call: Reply(status, b"", {"Location": f"{canary.url}/a.tif"})).running() as server,
    ):
        with pytest.raises(RangeError, match=f"HTTP response code: {status}"):
            read(server, 0, 10)
        assert len(server.calls) == 1
        assert canary.connections == 0


def drip(pieces: list[bytes], pause: float, ended: threading.Event) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        ended.wait(pause)


@pytest.mark.parametrize(("pieces", "pause"), [(1, 60.0), (100, 0.1)], ids=["silent", "slow"])
def test_storage_that_falls_silent_or_drips_is_asked_again(monkeypatch, pieces, pause):
    monkeypatch.setattr(ranges, "SILENCE_S", 0.3)
    monkeypatch.setattr(ranges, "REQUEST_S", 0.5)
    ended = threading.Event()

    def answer(call: Call) -> Reply:
        right = given_range(call)
        if call.number > 1:
            return right
        size = len(right.body) // (pieces + 1)
        parts = [right.body[size * number : size * (number + 1)] for number in range(pieces)]
        return Reply(206, drip(parts, pause, ended), {**right.headers, "Content-Length": str(len(right.body))})

    begin = time.monotonic()
    with Loopback(answer).running() as server:
        assert read(server, 7, 1007) == CONTENT[7:1007]
        assert len(server.calls) == 2
        ended.set()
    assert time.monotonic() - begin < 2


def test_no_attempt_begins_after_the_budget(monkeypatch):
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.2,) * 50)
    monkeypatch.setattr(ranges, "READ_BUDGET_S", 0.5)
    with Loopback(lambda call: Reply(503)).running() as server:
        with pytest.raises(RangeError, match="503"):
            read(server, 0, 10)
        assert 2 <= len(server.calls) <= 4


@pytest.mark.parametrize("status", [206, 403, 503])
def test_the_budget_is_that_of_all_attempts_together(monkeypatch, status):
    """Storage drips, refuses each signature late, or is ill late: none is waited for when the budget is spent."""
    monkeypatch.setattr(ranges, "READ_WAITS_S", (0.01,) * 50)
    monkeypatch.setattr(ranges, "READ_BUDGET_S", 0.8)
    monkeypatch.setattr(ranges, "REQUEST_S", 0.5)
    monkeypatch.setattr(ranges, "SILENCE_S", 5.0)
    ended = threading.Event()

    def answer(call: Call) -> Reply:
        right = given_range(call)
        if status == 206:
            return Reply(206, drip([b"x"] * 100, 0.1, ended), {**right.headers, "Content-Length": "1000"})
        ended.wait(0.45)
        return Reply(status)

    spent, begin = Spent(), time.monotonic()
    with Loopback(answer).running() as server:
        with pytest.raises(RangeError):
            read_range(f"{server.url}/a.tif", 0, 1000, Access(server.trust, Numbered()), spent)
        assert time.monotonic() - begin < 1.3
        ended.set()
    assert spent.attempts == 2


class Numbered:
    """Signs with a number, another after each refusal."""

    def __init__(self) -> None:
        self.forgotten = 0

    def sign(self, href: str, budget_s: float) -> str:
        return f"{href}?sig=S3CRET{self.forgotten}"

    def forget(self, href: str) -> None:
        self.forgotten += 1


def test_a_refused_signature_is_made_anew_once_and_never_told():
    spent = Spent()
    with Loopback(lambda call: Reply(403)).running() as server:
        with pytest.raises(RangeError, match="403, also when signed again") as caught:
            read_range(f"{server.url}/a.tif", 0, 10, Access(server.trust, Numbered()), spent)
        assert [call.path for call in server.calls] == [f"/a.tif?sig=S3CRET{number}" for number in range(2)]
    assert "S3CRET" not in repr(caught.value)
    assert caught.value.kind is Fault.PERMANENT
    assert spent.faults == {Fault.EXPIRED: 2}


def test_signing_again_uses_up_no_wait_and_other_faults_no_signature():
    answers = [503, 403, 503, 403]

    def answer(call: Call) -> Reply:
        return Reply(answers[call.number - 1]) if call.number <= 4 else given_range(call)

    signer, spent = Numbered(), Spent()
    with Loopback(answer).running() as server:
        assert read_range(f"{server.url}/a.tif", 0, 10, Access(server.trust, signer), spent) == CONTENT[:10]
    assert signer.forgotten == 2
    assert (spent.attempts, spent.faults) == (5, {Fault.EXPIRED: 2, Fault.TRANSIENT: 2})


@pytest.mark.parametrize(
    ("status", "kind"), [(404, Fault.PERMANENT), (302, Fault.HOSTILE), (503, Fault.TRANSIENT), (0, Fault.TRANSIENT)]
)
def test_a_fault_is_told_with_its_kind(status, kind):
    with Loopback(lambda call: Reply(status)).running() as server, pytest.raises(RangeError) as caught:
        read(server, 0, 10)
    assert caught.value.kind is kind
    assert pickle.loads(pickle.dumps(caught.value)).kind is kind


def test_the_wait_that_a_server_asks_for_is_kept_and_given_up_on_beyond_the_budget(monkeypatch):
    def answer(call: Call) -> Reply:
        return Reply(429, b"", {"Retry-After": "1"}) if call.number == 1 else given_range(call)

    begin = time.monotonic()
    with Loopback(answer).running() as server:
        assert read(server, 0, 10) == CONTENT[:10]
    assert 1 <= time.monotonic() - begin < 3
    with Loopback(lambda call: Reply(429, b"", {"Retry-After": "3600"})).running() as server:
        with pytest.raises(RangeError, match="429"):
            read(server, 0, 10)
        assert len(server.calls) == 1
    assert time.monotonic() - begin < 4


def test_a_name_below_localhost_is_this_machine_and_told_to_the_server():
    with Loopback(given_range).running() as server:
        address = f"http://landsat.blob.localhost:{server.server_port}/a.tif"
        assert read_range(address, 0, 10, ACCESS, Spent()) == CONTENT[:10]
        assert server.calls[0].headers["host"] == f"landsat.blob.localhost:{server.server_port}"


def test_the_proxy_of_the_environment_is_asked_and_logged_in_to(monkeypatch):
    with Loopback(given_range).running() as proxy:
        monkeypatch.setenv("http_proxy", f"user:p%40ss@{proxy.host}")
        assert read_range("http://127.0.0.1:9/a.tif", 0, 10, ACCESS, Spent()) == CONTENT[:10]
        (call,) = proxy.calls
        assert call.path == "http://127.0.0.1:9/a.tif"
        assert call.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"


def test_no_proxy_is_asked_for_hosts_that_the_environment_excepts(monkeypatch):
    with Loopback(given_range).running() as proxy, Loopback(given_range).running() as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "example.com,127.0.0.1")
        assert read(server, 0, 10) == CONTENT[:10]
        assert proxy.connections == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key for 127.0.0.1, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_https_is_read_only_from_whom_the_certificates_vouch_for(certificate, monkeypatch):
    server = Loopback(given_range, keep_alive=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    address = f"https://{server.host}/a.tif"
    with server.running():
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(RangeError, match="certificate refused"):
            read_range(address, 0, 10, ACCESS, Spent())
        assert server.calls == []
        ranges._pool.cache_clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for start in range(5):
            assert read_range(address, start, start + 10, ACCESS, Spent()) == CONTENT[start : start + 10]


def test_spent_counts_seconds_and_bytes_of_all_threads():
    spent = Spent()

    def work(number: int) -> None:
        with spent.on("decode", number):
            time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(20)))
    record = spent.record()
    assert record["decode"]["bytes"] == sum(range(20))
    assert record["decode"]["seconds"] >= 0.2
