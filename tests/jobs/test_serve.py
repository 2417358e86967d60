"""The service as a process of its own: many at once, signals, a token, TLS, and the lines of its page."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pandas as pd
import pytest
from distributed.security import Security

from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES
from engine.landsat import BANDS
from engine.params import TrainParams
from engine.train import fit
from jobs.server import HEAD_SECONDS
from tests.engine.samples import make_sample
from tests.jobs.calls import mangroves

ROOT = Path(__file__).resolve().parents[2]
PARAMS = TrainParams(rounds=5, max_depth=3)
PLOTS = make_sample(400, seed=3)[list(BANDS)].set_axis([f"B{n}" for n in (2, 3, 4, 5, 6, 7)], axis=1)
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as `mangroves train` writes it."""
    folder, sample = tmp_path_factory.mktemp("run") / "model", make_sample(600)
    fit(sample, features=ALL_FEATURES, params=PARAMS).save(folder)
    fit(sample, features=COMPOSITE_FEATURES, params=PARAMS).save(folder / "bands")
    return folder


@contextmanager
def serving(model: Path, *options: str | Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the service on a free port; yield its process and address."""
    command = [sys.executable, "-m", "jobs", "serve", str(model), "--port", "0", "--json", *map(str, options)]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            while lines[-1] and lines[-1] != "}\n":
                lines.append(process.stdout.readline())
            yield process, json.loads("".join(lines))["address"]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    with serving(model) as (_, address):
        yield address


def test_many_at_once_are_each_answered_as_by_the_command(address, model, tmp_path):
    PLOTS.to_csv(tmp_path / "plots.csv", index=False)
    assert mangroves("predict", model, tmp_path / "plots.csv").code == 0
    expected = pd.read_csv(tmp_path / "plots-predicted.csv")
    parts = [PLOTS[first : first + 10] for first in range(0, 400, 10)]

    def ask(part: pd.DataFrame) -> list[float]:
        with httpx.Client(base_url=address, timeout=60) as client:
            answer = client.post("/predict?scale=dn&sensor=oli", json={"rows": part.to_dict("records")})
        assert answer.status_code == 200, answer.text
        return [one["probability"] for one in answer.json()["predictions"]]

    with ThreadPoolExecutor(16) as crowd:
        found = [share for part in crowd.map(ask, parts) for share in part]
    assert found == expected["probability"].tolist()


def test_a_body_that_is_far_too_large_is_answered_though_it_is_still_coming(address):
    answer = httpx.post(f"{address}/predict", content=b"x" * 2**23, headers={"content-type": "text/csv"}, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"] == "the body is larger than 4 MiB; send the rows in parts"


def raw(address: str, content: bytes) -> bytes:
    """Send bytes, and return all that comes until the service closes."""
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def listens(address: str) -> bool:
    place = urlsplit(address)
    try:
        socket.create_connection((place.hostname, place.port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01 hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 20_000,
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n12345",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_next_is_answered(address, content):
    assert raw(address, content).startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{address}/health", timeout=60).json()["status"] == "ok"


def test_the_lines_of_the_page_work(address, tmp_path):
    PLOTS.to_csv(tmp_path / "plots.csv", index=False)
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    lines = re.findall(r"^curl .*$", text, re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line.replace("127.0.0.1:8300", address.removeprefix("http://")))
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        if "format=csv" in line:
            assert done.stdout.startswith("probability,code,class\n"), done.stdout
        else:
            assert "error" not in json.loads(done.stdout), done.stdout


@pytest.mark.slow
def test_a_head_that_does_not_come_is_not_waited_for(address):
    started = time.monotonic()
    with ThreadPoolExecutor() as crowd:
        assert list(crowd.map(raw, [address] * 2, [b"", b"POST /predict HTTP/1.1\r\nHost: 127"])) == [b"", b""]
    assert time.monotonic() - started < 4 * HEAD_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_what_is_under_way_is_answered(model, sent):
    body = json.dumps({"rows": PLOTS[:3].to_dict("records")}).encode()
    with serving(model) as (process, address):
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 100")
            process.send_signal(sent)
            while listens(address):
                time.sleep(0.05)
            connection.sendall(body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert process.wait(60) == 0
        said = process.stderr.read()
    assert said.splitlines()[-1] == "stopped; every request that was under way was answered"
    assert "Traceback" not in said


@pytest.mark.slow
def test_it_speaks_tls_and_asks_for_the_token(model, tmp_path):
    made = Security.temporary()
    for name, content in (("c.pem", made.tls_scheduler_cert), ("k.pem", made.tls_scheduler_key), ("t", TOKEN)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    trusted = ssl.create_default_context(cadata=made.tls_ca_file)
    trusted.check_hostname = False
    tls = ("--certificate", tmp_path / "c.pem", "--key", tmp_path / "k.pem")
    # On loopback: nothing of a test is to be reached from elsewhere.
    with serving(model, *tls, "--token-file", tmp_path / "t") as (_, address):
        assert address.startswith("https://")
        assert httpx.get(f"{address}/health", verify=trusted, timeout=60).status_code == 401
        right = {"authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{address}/health", verify=trusted, headers=right, timeout=60).json()["status"] == "ok"
        with pytest.raises(httpx.HTTPError):
            httpx.get(address.replace("https", "http"), timeout=60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 would be reached from beyond this machine, by anybody; give --token-file or"),
        (["--host", "::"], ":: would be reached from beyond this machine, by anybody"),
        (["--host", "127.0.0.1.example.org"], "by anybody"),
        (["--host", "0.0.0.0", "--plain"], "by anybody"),
        (["--host", "0.0.0.0", "--token-file", "{token}"], "unencrypted; give --certificate and --key, or say --plain"),
        (["--token-file", "{tmp}/absent"], "absent is not a file"),
        (["--token-file", "{open}"], "open can be read by others; chmod 600"),
        (["--token-file", "{short}"], "holds no token; give 16 to 1024 letters"),
        (["--certificate", "{token}"], "--certificate and --key belong together"),
        (["--certificate", "{tmp}/absent", "--key", "{token}"], "absent is not a file"),
        (["--certificate", "{token}", "--key", "{open}"], "open can be read by others"),
        (["--certificate", "{token}", "--key", "{token}"], "cannot be used"),
        (
            ["--port", "{taken}"],
            "cannot listen on 127.0.0.1, port {taken}: Address already in use; give another --host",
        ),
        (
            ["--host", "203.0.113.7", "--token-file", "{token}", "--plain"],
            "cannot listen on 203.0.113.7, port 0: Cannot",
        ),
    ],
)
def test_what_cannot_be_served_so_ends_in_one_line(model, tmp_path, monkeypatch, options, message):
    monkeypatch.delenv("MANGROVES_TOKEN", raising=False)
    words = {"tmp": str(tmp_path)}
    for name, content, mode in (("token", TOKEN, 0o600), ("open", TOKEN, 0o644), ("short", "secret", 0o600)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
        words[name] = str(tmp_path / name)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words["taken"] = str(taken.getsockname()[1])
        arguments = ["serve", str(model), "--port", "0", *(option.format(**words) for option in options)]
        line = mangroves(*arguments).error
    assert message.format(**words) in line
    assert TOKEN not in line


def test_a_damaged_or_absent_model_is_not_served(model, tmp_path):
    assert "has no readable model.json" in mangroves("serve", tmp_path / "absent", "--port", "0").error
    (tmp_path / "model.json").write_bytes((model / "model.json").read_bytes() + b" ")
    (tmp_path / "meta.json").write_bytes((model / "meta.json").read_bytes())
    assert "does not match the sha256" in mangroves("serve", tmp_path, "--port", "0").error


def test_without_the_extra_the_command_says_which(model, monkeypatch):
    monkeypatch.setattr("jobs.serve.importlib.util.find_spec", lambda name: None)
    assert "serve needs fastapi; pip install 'mangroves[serve]'" in mangroves("serve", model).error
