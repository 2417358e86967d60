"""Tokens through the Planetary Computer SDK's settings, from a token service on loopback."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import planetary_computer
import planetary_computer.sas
import pytest
from planetary_computer.settings import Settings

from engine import sign, web
from engine.errors import CatalogError, SceneError, TrustError
from engine.ranges import Access
from engine.reader import read_asset
from engine.scenes import Scene
from engine.sign import Signer
from engine.trust import Trust
from tests.engine.conftest import TILE

RED = "https://landsateuwest.blob.core.windows.net/landsat-c2/level-2/a_SR_B4.TIF"
WORLDCOVER = "https://ai4edataeuwest.blob.core.windows.net/esa-worldcover/a.tif"

Answer = tuple[int, bytes]


class TokenServer(ThreadingHTTPServer):
    """Gives numbered tokens of a chosen lifetime, after any faults it was told to have."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lifetime_s = 3600.0
        self.delay_s = 0.0
        self.faults: list[Answer] = []
        self.calls: list[str] = []
        self.keys: list[str | None] = []
        self.issued: dict[str, float] = {}
        self.lock = threading.Lock()

    def alive(self, token: str) -> bool:
        """Tell whether a token was given out and has not expired."""
        return time.time() < self.issued.get(token, 0)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        time.sleep(self.server.delay_s)
        with self.server.lock:
            self.server.calls.append(self.path)
            self.server.keys.append(self.headers.get("Ocp-Apim-Subscription-Key"))
            status, body = self.server.faults.pop(0) if self.server.faults else (200, self.token())
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def token(self) -> bytes:
        expiry = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.server.lifetime_s)
        name = f"S3CRET{len(self.server.calls)}"
        self.server.issued[name] = expiry.timestamp()
        return json.dumps({"msft:expiry": expiry.isoformat(), "token": f"st=1&se=2&sig={name}"}).encode()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    with TokenServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("PC_SDK_SAS_URL", f"http://{server.host}/api/sas/v1/token")
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "my-key")
        monkeypatch.setattr(web, "_FIRST_WAIT_S", 0.01)
        monkeypatch.setattr(sign, "_EXPIRED_WAIT_S", 0.05)
        Settings.get.cache_clear()
        sign._tokens.clear()
        yield server
        server.shutdown()
        Settings.get.cache_clear()
        sign._tokens.clear()


@pytest.fixture
def signer(server: TokenServer) -> Signer:
    return Signer(Trust().with_hosts(server.host), budget_s=1)


def test_a_href_is_signed_as_the_sdk_would(signer: Signer, server: TokenServer) -> None:
    assert signer.sign(RED) == f"{RED}?st=1&se=2&sig=S3CRET1"
    assert server.calls == ["/api/sas/v1/token/landsateuwest/landsat-c2"]
    assert server.keys == ["my-key"]
    planetary_computer.sas.TOKEN_CACHE.clear()
    assert planetary_computer.sign(RED) == f"{RED}?st=1&se=2&sig=S3CRET2"
    assert server.calls[1] == server.calls[0]


def test_one_call_serves_a_container_for_a_lifetime(signer: Signer, server: TokenServer) -> None:
    for number in range(50):
        signer.sign(f"{RED[:-4]}{number}.TIF")
    signer.sign(WORLDCOVER)
    assert len(server.calls) == 2


@pytest.mark.slow
def test_short_tokens_are_fetched_once_a_lifetime(signer: Signer, server: TokenServer) -> None:
    # The SDK's own cache would call for every href here: less than 60 s are always left.
    server.lifetime_s = 0.6
    begin = time.monotonic()
    signed = set()
    while time.monotonic() - begin < 1.8:
        signed.add(signer.sign(RED))
        time.sleep(0.01)
    # A quarter of the lifetime is margin: one call every .45 s.
    assert 3 <= len(server.calls) <= 5
    assert len(signed) == len(server.calls)


def test_threads_share_one_call(signer: Signer, server: TokenServer) -> None:
    server.delay_s = 0.2
    with ThreadPoolExecutor(16) as pool:
        signed = set(pool.map(signer.sign, [RED] * 64))
    assert len(server.calls) == len(signed) == 1


def test_a_pickled_signer_holds_no_token_but_shares_the_processs(signer: Signer, server: TokenServer) -> None:
    signer.sign(RED)
    packed = pickle.dumps(signer)
    assert b"S3CRET" not in packed
    assert b"my-key" not in packed
    assert "S3CRET" not in repr(signer)
    again = pickle.loads(packed)
    assert again == signer
    again.sign(RED)
    assert len(server.calls) == 1


def test_an_expired_signature_is_replaced_not_kept(signer: Signer) -> None:
    assert signer.sign(f"{RED}?se=1999&sig=old") == f"{RED}?st=1&se=2&sig=S3CRET1"


def test_a_refused_token_is_replaced_once_for_all_who_met_it(signer: Signer, server: TokenServer) -> None:
    refused = signer.sign(RED)
    for _ in range(5):  # five readers met the same 403
        signer.forget(refused)
        assert signer.sign(RED).endswith("S3CRET2")
    assert len(server.calls) == 2
    signer.forget(RED)
    assert signer.sign(RED).endswith("S3CRET3")


@pytest.mark.parametrize(
    "href",
    [
        "/data/a.tif",
        "https://landsatlook.usgs.gov/data/a.tif",
        "https://ai4edatasetspublicassets.blob.core.windows.net/assets/thumb.png",
        "https://blob.core.windows.net/landsat-c2/a.tif",
        "https://landsateuwest.blob.core.windows.net.example.com/landsat-c2/a.tif",
        "https://landsateuwest.blob.core.windows.net/",
        "https://landsateuwest.blob.core.windows.net/../../keys/a.tif",
        "https://a/b.blob.core.windows.net/landsat-c2/a.tif",
        "https://landsateuwest.blob.core.windows.net/landsat-c2%2f../a.tif",
    ],
)
def test_other_places_are_left_alone(signer: Signer, server: TokenServer, href: str) -> None:
    assert signer.sign(href) == href
    assert not server.calls


@pytest.mark.parametrize(
    "faults",
    [
        [(429, b""), (429, b"")],
        [(500, b""), (503, b"")],
        [(200, b"<html>come back later</html>")],
        [(200, b'{"msft:expiry": "2020-01-01T00:00:00Z", "token": "sig=expired"}')],
    ],
)
def test_passing_faults_are_waited_out(signer: Signer, server: TokenServer, faults: list[Answer]) -> None:
    server.faults = list(faults)
    assert signer.sign(RED).endswith(f"S3CRET{len(faults) + 1}")


def always(answer: Answer) -> Callable[[TokenServer], None]:
    return lambda server: server.faults.extend([answer] * 100)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (always((429, b"")), "HTTP 429, tried 6 times"),
        (always((404, b"")), "HTTP 404"),
        (always((401, b"")), "HTTP 401"),
        (always((302, b"")), "redirects"),
        (always((200, b"[]")), "holds no token; check PC_SDK_SAS_URL"),
        (always((200, b'{"msft:expiry": "2999-01-01T00:00:00Z", "token": "sig=a b"}')), "holds no token"),
        (lambda server: setattr(server, "lifetime_s", -9), "only expired tokens arrive; check this machine's clock"),
    ],
)
def test_lasting_faults_end_in_one_line(
    signer: Signer, server: TokenServer, fault: Callable[[TokenServer], None], message: str
) -> None:
    fault(server)
    begin = time.monotonic()
    with pytest.raises(CatalogError, match=message) as caught:
        signer.sign(RED)
    assert time.monotonic() - begin < 5
    assert "token of landsateuwest/landsat-c2" in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_a_token_service_that_is_not_trusted_is_not_asked(server: TokenServer) -> None:
    with pytest.raises(TrustError, match="is not allowed"):
        Signer(Trust()).sign(RED)
    assert not server.calls


class BlobServer(ThreadingHTTPServer):
    """Blob storage that gives ranges of files to readers with a living token, else 403."""

    def __init__(self, folder: Path, tokens: TokenServer) -> None:
        super().__init__(("127.0.0.1", 0), _BlobHandler)
        self.folder, self.tokens = folder, tokens
        self.answers: list[int] = []


class _BlobHandler(BaseHTTPRequestHandler):
    server: BlobServer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        token = query.rpartition("sig=")[2]
        file = self.server.folder / path.rpartition("/")[2]
        if not self.server.tokens.alive(token):
            return self.answer(403, b"")
        if not file.is_file():
            return self.answer(404, b"")
        data, asked = file.read_bytes(), self.headers.get("Range")
        if not asked:
            return self.answer(200, data)
        first, last = asked.removeprefix("bytes=").split("-")
        begin, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
        return self.answer(206, data[begin : end + 1], {"Content-Range": f"bytes {begin}-{end}/{len(data)}"})

    do_HEAD = do_GET

    def answer(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.server.answers.append(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def blobs(server: TokenServer, scene_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobServer]:
    with BlobServer(scene_folder, server) as blobs:
        threading.Thread(target=blobs.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(planetary_computer.sas, "BLOB_STORAGE_DOMAIN", f".blob.localhost:{blobs.server_port}")
        yield blobs
        blobs.shutdown()


@pytest.fixture
def stored(blobs: BlobServer, server: TokenServer, scenes: list[Scene]) -> tuple[list[Scene], Access]:
    """Return the scenes as they would be found in blob storage, and how to read them."""
    host = f"landsateuwest.blob.localhost:{blobs.server_port}"
    moved = [
        replace(
            scene, assets={name: f"http://{host}/landsat-c2/{Path(href).name}" for name, href in scene.assets.items()}
        )
        for scene in scenes
    ]
    trust = Trust().with_hosts(server.host, host)
    return moved, Access(trust, Signer(trust, budget_s=2))


@pytest.mark.slow
def test_signed_reads_over_many_lifetimes_equal_local_ones(
    stored: tuple[list[Scene], Access], scenes: list[Scene], access: Access, server: TokenServer, blobs: BlobServer
) -> None:
    server.lifetime_s = 1.0  # a quarter of it is left when a token is renewed
    moved, signed = stored
    begin = time.monotonic()
    for there, here in zip(moved, scenes, strict=True):
        for asset in ("red", "qa_pixel"):
            expected = read_asset(here, asset, TILE.geobox, access)
            assert (read_asset(there, asset, TILE.geobox, signed) == expected).all()
        time.sleep(0.25)
    lifetimes = (time.monotonic() - begin) / (0.75 * server.lifetime_s)
    assert lifetimes > 3
    assert len(server.calls) <= lifetimes + 1
    assert 403 not in blobs.answers


def test_a_revoked_token_is_replaced_while_reading(
    stored: tuple[list[Scene], Access], server: TokenServer, blobs: BlobServer
) -> None:
    (scene, *_), signed = stored
    read_asset(scene, "red", TILE.geobox, signed)
    server.issued.clear()
    read_asset(scene, "green", TILE.geobox, signed)
    assert 403 in blobs.answers
    assert len(server.calls) == 2


def test_a_missing_blob_is_told_without_the_signature(stored: tuple[list[Scene], Access]) -> None:
    (scene, *_), signed = stored
    absent = replace(scene, assets={**scene.assets, "red": scene.assets["red"] + "x"})
    with pytest.raises(SceneError, match=r"asset red: .* cannot be read") as caught:
        read_asset(absent, "red", TILE.geobox, signed)
    assert "S3CRET" not in repr(caught.value) + str(caught.value.__cause__)
