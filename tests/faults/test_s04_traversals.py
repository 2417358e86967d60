"""What asks the viewer for anything but its own is refused in a sentence: over real sockets, of a real process."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.jobs.test_view import pytestmark as needs_the_viewer
from tests.jobs.test_view import viewing

SECRET = b"MANGROVES-SECRET"
PATHS = (
    "/../secret.txt",
    "/../../../../../../etc/passwd",
    "/tiles/../../run.json",
    "/tiles/../run.json/0/0/0.png",
    "/%2e%2e/secret.txt",
    "/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/%252e%252e%252fsecret.txt",
    "/%c0%ae%c0%ae/secret.txt",
    "/..%5c..%5csecret.txt",
    "/..\\..\\secret.txt",
    "/tiles/..%2f..%2frun.json/0/0/0.png",
    "/tiles/%2fetc%2fpasswd/0/0/0.png",
    "/tiles/class-2016%00.tif/0/0/0.png",
    "/index.html%00",
    "/run.json",
    "/maps/2016/link.tif",
    "//etc/passwd",
    "/etc/passwd",
    "/file:///etc/passwd",
    "/tiles/file:///etc/passwd/0/0/0.png",
    "/tiles/http://127.0.0.1/0/0/0.png",
    "/tiles/vsicurl/0/0/0.png",
    "/tiles/class-2016/0/0/0.png?url=/etc/passwd",
    "/tiles/class-2016/0/0/0.png?expression=b1",
    "/tiles/class-2016/0/0/0.png?algorithm=hillshade",
    "/tiles/class-2016/99/0/0.png",
    "/tiles/class-2016/2/4/0.png",
    "/tiles/class-2016/-1/0/0.png",
    "/tiles/class-1999/0/0/0.png",
    "/story",
    "/story?lon=nan&lat=0",
    "/story?lon=0&lat=0&url=http://evil.example",
    "/story?lon=0&lat=0&year=1e9",
    f"/story?lon={'9' * 300}&lat=0",
    f"/{'a' * 5000}",
    "http://evil.example/",
    "*",
)
"""Request targets; each is refused."""

OTHERS = (
    ("another Host", {"Host": "evil.example"}),
    ("a name that leads here", {"Host": "mangroves.evil.example:{port}"}),
    ("another port", {"Host": "127.0.0.1:1"}),
    ("no Host", {"Host": None}),
    ("two Hosts", {"Host": "127.0.0.1:{port}\r\nHost: evil.example"}),
    ("another Origin", {"Origin": "http://evil.example"}),
    ("an Origin on another port", {"Origin": "http://127.0.0.1:1"}),
    ("the Origin of a file", {"Origin": "null"}),
    ("a fetch of another site", {"Sec-Fetch-Site": "cross-site"}),
    ("a fetch of another port", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "script"}),
    ("a proxy's word for another host", {"Host": "evil.example", "X-Forwarded-Host": "127.0.0.1:{port}"}),
)
METHODS = ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
MALFORMED = (
    ("no request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    ("a header of 200 kB", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"),
    ("a header without a name", b"GET / HTTP/1.1\r\n: x\r\n\r\n"),
    ("two lengths", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
)


def ask(port: int, request: bytes) -> tuple[int, bytes]:
    """Send bytes, and return status and body of what is answered before the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        answer = b""
        with suppress(BrokenPipeError, ConnectionResetError):  # it has read enough
            connection.sendall(request)
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


def request(port: int, target: str = "/", method: str = "GET", headers: dict[str, str | None] | None = None) -> bytes:
    sent = {"Host": "127.0.0.1:{port}", "Connection": "close"} | (headers or {})
    lines = [f"{name}: {value.format(port=port)}" for name, value in sent.items() if value is not None]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")


@pytest.mark.faults
@needs_the_viewer
def test_the_viewer_answers_its_own_page_alone(promise, small_run, tmp_path):
    (small_run.job.run.parent / "secret.txt").write_bytes(SECRET)
    with viewing(small_run.job.run, small_run.job.archive.items.parent) as (address, going):
        port = urlsplit(address).port
        assert port is not None
        assert ask(port, request(port))[0] == 200
        cases = [(f"GET {target[:60]}", request(port, target)) for target in PATHS]
        cases += [(name, request(port, headers=headers)) for name, headers in OTHERS]
        cases += [(f"{method} /", request(port, method=method)) for method in METHODS]
        for fault, sent in cases:
            with promise("S4", f"the viewer is asked by {fault}"):
                status, body = ask(port, sent)
                assert 400 <= status < 500, status
                assert SECRET not in body
                if sent.count(b"Host:") == 1:  # HTTP itself is broken else, and answered before the viewer
                    assert set(json.loads(body)) == {"error"}
        for fault, sent in MALFORMED:
            with promise("S4", f"the viewer is sent {fault}"):
                assert 400 <= ask(port, sent)[0] < 500
        # After all of this it still stands.
        assert ask(port, request(port, "/index.html"))[0] == 200
        assert going.poll() is None
    (small_run.job.run.parent / "secret.txt").unlink()
