"""HTTP from allowed hosts: what is refused, what is asked again, what ends in time, what goes on after a break."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine import web
from engine.errors import CatalogError, TrustError
from engine.web import Web
from tests.engine.loopback import Call, Loopback, Reply

Serve = Callable[[Callable[[Call], Reply]], Loopback]

FILE = bytes(range(256)) * 2048
"""Half a megabyte, eight times what is read at once."""

MD5 = hashlib.md5(FILE).hexdigest()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr(web, "_FIRST_WAIT_S", 0.003)
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(Loopback(answer).running())


def get(server: Loopback, *, budget_s: float = 5.0, **given: object) -> object:
    return Web(server.trust, budget_s=budget_s).json(f"{server.url}/a?sig=S3CRET", what="list", **given)  # type: ignore[arg-type]


# Documents


def test_a_document_is_got_and_asked_for_by_post_with_a_body(serve: Serve) -> None:
    server = serve(lambda call: Reply(body=[call.method, call.body]))
    assert get(server) == ["GET", None]
    assert get(server, body={"a": 1}) == ["POST", {"a": 1}]
    assert Web(server.trust).content(server.url, what="list") == b'["GET", null]'


def test_compressed_and_piecemeal_answers_are_read_whole(serve: Serve) -> None:
    packed = gzip.compress(b'{"a": 1}')
    chunks = iter([b"3\r\n" + packed[:3] + b"\r\n", b"%x\r\n" % len(packed[3:]) + packed[3:] + b"\r\n0\r\n\r\n"])
    headers = {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}
    replies = iter([Reply(body=packed, headers={"Content-Encoding": "gzip"}), Reply(body=chunks, headers=headers)])
    server = serve(lambda call: next(replies))
    assert get(server) == {"a": 1}
    assert get(server) == {"a": 1}


def test_a_redirect_is_followed_within_the_allowed_hosts_only(serve: Serve) -> None:
    targets = iter(["/b", "https://evil.example/a", "http://127.0.0.1:9/a", "file:///etc/passwd"])

    def answer(call: Call) -> Reply:
        return Reply(body=1) if call.path == "/b" else Reply(302, headers={"Location": next(targets)})

    server = serve(answer)
    assert get(server) == 1
    for refused in ("host evil.example", "host 127.0.0.1:9", "scheme 'file'"):
        with pytest.raises(TrustError, match=f"list: {refused} is not allowed"):
            get(server)


def test_headers_that_may_hold_a_key_do_not_follow_a_redirect(serve: Serve) -> None:
    server = serve(lambda call: Reply(302, headers={"Location": "/b"}))
    with pytest.raises(CatalogError, match="too many redirects"):
        get(server, headers={"Key": "k"})
    assert [(call.path, call.headers.get("key")) for call in server.calls] == [("/a?sig=S3CRET", "k")]


@pytest.mark.parametrize(
    "fault",
    [
        Reply(503),
        Reply(429, headers={"Retry-After": "0"}),
        Reply(body=b"<html>maintenance</html>"),
        Reply(body=b"{}", headers={"Content-Length": "9"}),
    ],
)
def test_a_fault_that_may_pass_is_asked_again(serve: Serve, fault: Reply) -> None:
    server = serve(lambda call: fault if call.number < 3 else Reply(body={"a": 1}))
    assert get(server) == {"a": 1}
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("reply", "fault", "calls"),
    [
        (Reply(404), r"list: no answer from 127\.0\.0\.1:\d+ \(HTTP 404\); check the address, or try later", 1),
        (Reply(503), r"\(HTTP 503, tried 6 times\)", 6),
        (Reply(503, headers={"Retry-After": "9999"}), r"\(HTTP 503, tried 1 times\)", 1),
        (Reply(body=b"<html>"), r"\(answer is not JSON, tried 6 times\)", 6),
        (Reply(body=b" " * 2**21), "list: answer is larger than 1 MB; ask for a smaller part", 1),
        (Reply(body=gzip.compress(b" " * 2**21), headers={"Content-Encoding": "gzip"}), "larger than 1 MB", 1),
        (Reply(302, headers={"Location": "/a"}), "too many redirects", 6),
    ],
)
def test_a_fault_that_lasts_ends_in_one_line_without_secrets(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, reply: Reply, fault: str, calls: int
) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 2**20)
    server = serve(lambda call: reply)
    with pytest.raises(CatalogError, match=fault) as caught:
        get(server)
    assert "S3CRET" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.calls) == calls


def test_a_host_that_does_not_listen_is_told_by_name(serve: Serve) -> None:
    with Loopback(lambda call: Reply()).running() as server:
        pass
    with pytest.raises(CatalogError, match=rf"no answer from {server.host} \(ConnectionError, tried 6 times\)"):
        get(server)


def silent(call: Call) -> Reply:
    time.sleep(1)
    return Reply(body=1)


def failing(call: Call) -> Reply:
    time.sleep(0.1)
    return Reply(500)


def trickling(call: Call) -> Reply:
    def pieces() -> Iterator[bytes]:
        for _ in range(60):
            yield b" "
            time.sleep(0.02)

    return Reply(body=pieces(), headers={"Content-Length": "60"})


@pytest.mark.parametrize("answer", [silent, failing, trickling])
def test_a_slow_server_ends_at_the_budget(serve: Serve, answer: Callable[[Call], Reply]) -> None:
    server = serve(answer)
    begin = time.monotonic()
    with pytest.raises(CatalogError, match=r"list: no answer from .*tried \d times"):
        get(server, budget_s=0.25)
    assert time.monotonic() - begin < 0.8


# Downloads


def ranges(call: Call) -> Reply:
    """Serve FILE as a server that knows ranges does."""
    start = int(call.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    return Reply(206 if start else 200, FILE[start:])


def broken(reply: Reply, after: int) -> Reply:
    return reply._replace(body=reply.body[:after], headers={"Content-Length": str(len(reply.body))})


def download(server: Loopback, path: Path, *, size: int = len(FILE), md5: str = MD5, budget_s: float = 5.0) -> None:
    Web(server.trust, budget_s=budget_s).download(f"{server.url}/a", path, size=size, md5=md5, what="a.zip")


def test_a_file_that_is_there_whole_is_not_downloaded_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(ranges)
    path = tmp_path / "a.zip"
    path.write_bytes(FILE[:-1] + b"x")
    download(server, path)
    download(server, path)
    assert path.read_bytes() == FILE
    assert [call.headers.get("range") for call in server.calls] == [None]
    assert server.calls[0].headers["accept-encoding"] == "identity"
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_goes_on_after_breaks_and_where_another_process_stopped(serve: Serve, tmp_path: Path) -> None:
    def answer(call: Call) -> Reply:
        return {1: broken(ranges(call), 99_000), 2: Reply(503), 3: broken(ranges(call), 1000)}.get(
            call.number, ranges(call)
        )

    server = serve(answer)
    (tmp_path / "a.zip.part").write_bytes(FILE[:1000])
    download(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == FILE
    assert [call.headers["range"] for call in server.calls] == [
        f"bytes={n}-" for n in (1000, 100_000, 100_000, 101_000)
    ]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_server_that_ignores_ranges_starts_over(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: Reply(body=FILE) if call.number > 2 else broken(Reply(body=FILE), 5000))
    (tmp_path / "a.zip.part").write_bytes(FILE[:9000])
    download(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == FILE
    assert [call.headers["range"] for call in server.calls] == [f"bytes={n}-" for n in (9000, 5000, 5000)]


def test_a_download_that_comes_no_further_keeps_what_came(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: broken(Reply(body=FILE), 300_000))
    with pytest.raises(CatalogError, match=r"a\.zip broke off at 0\.3 of 0\.5 MB; run it again to go on"):
        download(server, tmp_path / "a.zip")
    assert len(server.calls) == 7  # two that brought something, five more of patience
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip.part"]
    assert (tmp_path / "a.zip.part").read_bytes() == FILE[:300_000]


def test_a_download_that_trickles_ends_in_time(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SLOWEST", 2**24)
    server = serve(trickling)
    begin = time.monotonic()
    with pytest.raises(CatalogError, match=r"broke off at 0\.0 of 0\.5 MB"):
        download(server, tmp_path / "a.zip", budget_s=0.2)
    assert time.monotonic() - begin < 0.8


def test_a_file_that_is_not_there_is_asked_for_once(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: Reply(404))
    with pytest.raises(CatalogError, match=r"a\.zip: no answer from .* \(HTTP 404\)"):
        download(server, tmp_path / "a.zip")
    assert len(server.calls) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "md5"), [(FILE, "0" * 32), (FILE[:-1] + b"x", MD5), (FILE * 8, MD5)], ids=["md5", "content", "longer"]
)
def test_a_file_that_is_not_as_announced_is_removed(serve: Serve, tmp_path: Path, body: bytes, md5: str) -> None:
    server = serve(lambda call: Reply(body=body))
    with pytest.raises(CatalogError, match=r"a\.zip does not have the size and md5 announced; run it again"):
        download(server, tmp_path / "a.zip", md5=md5)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_leads_to_another_host_is_refused(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda call: Reply(302, headers={"Location": "https://evil.example/a.zip"}))
    with pytest.raises(TrustError, match=r"a\.zip: host evil\.example is not allowed"):
        download(server, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
