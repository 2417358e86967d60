"""The service answers as ``mangroves predict`` writes, and refuses in one sentence."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import threading
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Config, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from engine import __version__, service
from engine.errors import ModelError
from engine.kernels.features import ALL_FEATURES, COMPOSITE_FEATURES, MISSING
from engine.landsat import BANDS
from engine.model import load_model
from engine.params import TrainParams
from engine.service import HASH_HEADER, Limits, create_app, load_served
from engine.train import fit
from tests.engine.samples import make_sample
from tests.jobs.calls import mangroves

PARAMS = TrainParams(rounds=6, max_depth=3)
SMALL = Limits(rows=50, body_bytes=20_000, body_seconds=0.3, threads=2, queue=2)
NUMBERED = [f"B{number}" for number in (2, 3, 4, 5, 6, 7)]
ROW = {"B2": 7820, "B3": 8460, "B4": 7990, "B5": 16730, "B6": 10620, "B7": 8610}
LINE = "B2,B3,B4,B5,B6,B7\n7820,8460,7990,16730,10620,8610\n"
JSON = {"content-type": "application/json"}
CSV = {"content-type": "text/csv"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as training writes it."""
    folder, sample = tmp_path_factory.mktemp("model"), make_sample(900)
    replace(fit(sample, features=ALL_FEATURES, params=PARAMS), threshold=0.34).save(folder)
    alone = replace(fit(sample, features=COMPOSITE_FEATURES, params=PARAMS), threshold=0.34)
    replace(alone, metrics={"notice": "SIMULATED <rows>"}).save(folder / "bands")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> service.Served:
    return load_served(folder)


class Client:
    """Requests to an application in this process, one after another."""

    def __init__(self, app: Any, **headers: str) -> None:
        self.app, self.headers = app, headers

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", headers=self.headers
            ) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def client(served: service.Served) -> Client:
    return Client(create_app(served))


@pytest.fixture(scope="module")
def small(served: service.Served) -> Client:
    return Client(create_app(served, limits=SMALL))


def predicted(frame: pd.DataFrame, folder: Path, path: Path, *options: str) -> pd.DataFrame:
    """Return what ``mangroves predict`` writes for a table."""
    frame.to_csv(path, index=False)
    answer = mangroves("predict", folder, path, "-o", path.with_name("out.csv"), *options)
    assert answer.code == 0, answer.err
    return pd.read_csv(path.with_name("out.csv"), dtype={"probability": str, "class": str}, keep_default_na=False)


def bands(rows: int, scale: str, seed: int = 4) -> pd.DataFrame:
    """Return rows of numbered bands, a few of them with a gap."""
    dn = make_sample(rows, seed=seed)[list(BANDS)].set_axis(NUMBERED, axis=1).astype(float)
    rho = dn * 2.75e-5 - 0.2
    frame = {"dn": dn, "collection1": (rho * 1e4).round(), "reflectance": rho}[scale]
    rng = np.random.default_rng(seed)
    return frame.mask(rng.random(frame.shape) < 0.003)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: None if value != value else value for name, value in row.items()} for row in frame.to_dict("records")
    ]


@pytest.mark.parametrize("scale", ["dn", "collection1", "reflectance"])
def test_ten_thousand_rows_are_predicted_bit_for_bit_as_by_the_command(client, folder, tmp_path, scale):
    frame = bands(10_000, scale)
    expected = predicted(frame, folder, tmp_path / "table.csv")
    as_json = client("POST", "/predict", json={"rows": records(frame)})
    as_csv = client("POST", "/predict", content=(tmp_path / "table.csv").read_bytes(), headers=CSV)
    assert as_json.status_code == as_csv.status_code == 200, as_json.text
    found = as_json.json()
    assert as_csv.json() == found
    assert (found["scale"], found["model"], found["notice"]) == (scale, "bands", "SIMULATED <rows>")
    told = found["predictions"]
    # What the command wrote, read as numbers; so no bit of them differs.
    assert [one["probability"] for one in told] == [float(p) if p else None for p in expected["probability"]]
    assert [one["class"] for one in told] == [name or "not observed" for name in expected["class"]]
    codes = {"": 0, "other": 1, "mangrove": 2}
    assert [one["code"] for one in told] == [codes[name] for name in expected["class"]]
    assert set(codes) == set(expected["class"])


def test_rows_with_all_features_are_predicted_by_the_full_model(client, folder, tmp_path):
    frame = make_sample(300, seed=8)[list(ALL_FEATURES)].astype(int)
    expected = predicted(frame, folder, tmp_path / "table.csv")
    found = client("POST", "/predict", json={"rows": records(frame)}).json()
    assert found["model"] == "full"
    assert [one["probability"] for one in found["predictions"]] == expected["probability"].astype(float).tolist()
    assert found["model_sha256"] == load_model(folder).sha256()
    gaps = frame.replace(MISSING, np.nan)
    again = client("POST", "/predict", json={"rows": records(gaps)}).json()
    assert again["predictions"] == found["predictions"]


def test_what_is_told_rules_over_what_is_seen_and_platforms_over_both(client, folder, tmp_path):
    frame = bands(200, "dn").assign(B1=8000, platform=["LANDSAT_5", "LANDSAT_8"] * 100)
    expected = predicted(frame, folder, tmp_path / "a.csv")
    found = client("POST", "/predict", json={"rows": records(frame)}).json()
    assert [one["class"] for one in found["predictions"]] == [one or "not observed" for one in expected["class"]]
    expected = predicted(frame, folder, tmp_path / "b.csv", "--sensor", "tm", "--scale", "dn")
    found = client("POST", "/predict?sensor=tm&scale=dn", json={"rows": records(frame)}).json()
    assert [one["class"] for one in found["predictions"]] == [one or "not observed" for one in expected["class"]]
    assert (found["scale_reason"], found["bands_reason"]) == ("by ?scale", "B + number, numbered as TM by ?sensor")


def test_every_answer_bears_the_hash_of_the_model_that_gave_it_or_of_all_that_may(client, folder):
    full, alone = (load_model(place).sha256() for place in (folder, folder / "bands"))
    assert full != alone
    for path in ("/health", "/version", "/model", "/openapi.json", "/", "/nothing"):
        answer = client("GET", path)
        assert answer.headers[HASH_HEADER] == f"{full}, {alone}", path
        if path not in ("/", "/openapi.json"):
            assert answer.json()["models_sha256"] == {"full": full, "bands": alone}
    answer = client("POST", "/predict", json={"rows": [ROW]})
    assert answer.headers[HASH_HEADER] == answer.json()["model_sha256"] == alone
    assert answer.json()["version"] == __version__
    assert "models_sha256" not in answer.json()
    answer = client("POST", "/predict", json={"rows": [{}]})
    assert answer.headers[HASH_HEADER] == f"{full}, {alone}"


def test_model_and_schema_and_page_say_what_is_served_and_its_limits(small):
    model = small("GET", "/model").json()
    assert model["limits"] == {"rows": 50, "bytes": 20_000, "seconds": 0.3, "requests": 4}
    assert model["models"]["bands"]["card"].startswith("# Model card")
    assert model["models"]["full"]["features"] == list(ALL_FEATURES)
    schema = small("GET", "/openapi.json").json()
    body = schema["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert body["application/json"]["schema"]["properties"]["rows"]["maxItems"] == 50
    assert body["text/csv"]["schema"]["maxLength"] == 20_000
    assert set(schema["paths"]["/predict"]["post"]["responses"]) == {
        *("200", "400", "403", "408", "413", "415", "422", "503")
    }
    page = small("GET", "/")
    assert "50 rows" in page.text
    assert "<script" not in page.text
    assert "http" not in page.text
    for example in (body["application/json"]["schema"]["properties"]["rows"]["items"]["example"],):
        assert small("POST", "/predict", json={"rows": [example]}).status_code == 200
    assert small("POST", "/predict", content=body["text/csv"]["schema"]["example"], headers=CSV).status_code == 200


def rows(*changes: dict[str, Any]) -> bytes:
    return json.dumps({"rows": [{**ROW, **change} for change in changes]}).encode()


HUGE = "x" * 3000
REFUSED: list[tuple[str, dict[str, str], bytes, int, str]] = [
    ("no body", JSON, b"", 400, "the body is empty"),
    ("blank", CSV, b" \n", 400, "the body is empty"),
    ("no JSON", JSON, b"{", 400, "the body is not JSON"),
    ("two documents", JSON, b"{}{}", 400, "the body is not JSON"),
    ("no UTF-8", JSON, b"\xff\xfe", 400, "not UTF-8"),
    ("UTF-16", JSON, rows({}).decode().encode("utf-16"), 400, "not UTF-8"),
    ("NaN", JSON, rows({"B2": float("nan")}), 400, "NaN is no number of JSON"),
    ("infinity", JSON, rows({"B2": float("-inf")}), 400, "-Infinity is no number of JSON"),
    ("a key twice", JSON, b'{"rows": [{"B2": 1, "B2": 2}]}', 400, "a name twice"),
    ("rows twice", JSON, b'{"rows": [], "rows": []}', 400, "a name twice"),
    ("deep", JSON, b'{"rows":' + b"[" * 9000 + b"]" * 9000 + b"}", 400, "nested too deeply"),
    ("digits", JSON, b'{"rows": [{"B2": ' + b"9" * 5000 + b"}]}", 400, "the body is not JSON"),
    ("a list", JSON, b"[1]", 422, 'must be {"rows": [...]}'),
    ("null", JSON, b"null", 422, 'must be {"rows": [...]}'),
    ("more than rows", JSON, b'{"rows": [{"B2": 1}], "model": "/etc/passwd"}', 422, "and nothing else"),
    ("rows no list", JSON, b'{"rows": {"B2": 1}}', 422, 'must be {"rows": [...]}'),
    ("no rows", JSON, b'{"rows": []}', 422, "rows must be one object or more"),
    ("rows of lists", JSON, b'{"rows": [[1, 2]]}', 422, "rows must be one object or more"),
    ("rows of null", JSON, b'{"rows": [null]}', 422, "rows must be one object or more"),
    ("no names", JSON, b'{"rows": [{}]}', 422, "row 1 has 0 names"),
    ("names differ", JSON, b'{"rows": [{"B2": 1}, {"B3": 1}]}', 422, "row 2 has other names than row 1"),
    ("true", JSON, rows({"B4": True}), 422, "'B4' holds other than numbers"),
    ("nested", JSON, rows({"B4": [9000]}), 422, "'B4' holds other than numbers"),
    ("mixed", JSON, rows({}, {"B4": "9000"}), 422, "'B4' holds other than numbers"),
    ("digits as text", JSON, rows({"B4": "9000"}), 422, "'B4' holds text; give numbers"),
    ("text", JSON, rows({"B4": "cloud"}), 422, "column 'B4' holds text: 'cloud' in row 1"),
    ("half a pair", JSON, rows({"B4": "\ud800"}), 422, "'B4' holds other than numbers"),
    ("beyond floats", JSON, rows({}).replace(b"7820", b"1e999"), 422, "a number beyond all bounds"),
    ("beyond integers", JSON, rows({"B2": 10**400}), 422, "a number beyond all bounds"),
    ("a band missing", JSON, json.dumps({"rows": [{"B2": 9000}]}).encode(), 422, "B5, B6, B7 are missing"),
    ("two namings", JSON, rows(dict.fromkeys(BANDS, 9000)), 422, "under more than one naming"),
    ("one band twice", JSON, rows({"b2": 9000}), 422, "more than one column could be the same band"),
    ("all unknown", JSON, rows(dict.fromkeys(NUMBERED)), 422, "no row has a value in all six bands"),
    ("no scale", JSON, rows(dict.fromkeys(NUMBERED, 50)), 422, "give ?scale"),
    ("Sentinel", JSON, rows({"B8A": 9000}), 422, "Sentinel-2's"),
    ("no platform", JSON, rows({"platform": "MODIS"}), 422, "?sensor=oli or ?sensor=tm"),
    ("temperature", JSON, rows(*[dict.fromkeys(NUMBERED, 0.1) | {"B6": 295.0}] * 3), 422, "?sensor=tm, or ?sensor=oli"),
    ("a long name", JSON, json.dumps({"rows": [{HUGE: 1}]}).encode(), 422, "no column is a Landsat band"),
    ("a long text", JSON, rows({"B4": HUGE}), 422, "holds text"),
    ("many rows", JSON, rows(*[{}] * 51), 413, "more than 50 rows"),
    ("many rows that are none", JSON, b'{"rows": [' + b"1," * 60 + b"1]}", 413, "more than 50 rows"),
    ("many bytes", JSON, rows({}) + b" " * 20_000, 413, "larger than 0.0190735 MiB"),
    ("very many bytes", CSV, b"B2\n" * 200_000, 413, "larger than"),
    ("a header alone", CSV, b"B2,B3,B4,B5,B6,B7\n", 422, "has no rows"),
    ("ragged", CSV, (LINE + "1,2\n").encode(), 422, "cannot be read"),
    ("semicolons", CSV, LINE.replace(",", ";").encode(), 422, "does not part its columns by commas"),
    ("a column twice", CSV, b"B2,B2\n1,2\n", 422, "names column 'B2' twice"),
    ("an open quote", CSV, b'"B2\n1\n', 422, "cannot be read"),
    ("text in a CSV", CSV, (LINE + "7820,8460,cloud,1,1,1\n").encode(), 422, "holds text: 'cloud' in row 2"),
    ("no bytes of text", CSV, b"B2,B3\n\x00\x01,\x02\n", 422, "missing"),
    ("not UTF-8 in a CSV", CSV, LINE.encode() + b"\xff,1,1,1,1,1\n", 400, "not UTF-8"),
    (
        "many rows of a CSV",
        CSV,
        (LINE + LINE.splitlines()[1] * 0 + "1,1,1,1,1,1\n" * 60).encode(),
        413,
        "more than 50 rows",
    ),
    ("no type", {}, rows({}), 415, "send application/json or text/csv"),
    ("another type", {"content-type": "application/x-pickle"}, b"\x80\x04N.", 415, "send application/json or text/csv"),
    ("a form", {"content-type": "multipart/form-data; boundary=x"}, b"--x--", 415, "send application/json"),
    ("another charset", {"content-type": "text/csv; charset=utf-16"}, LINE.encode("utf-16"), 415, "in UTF-8"),
    ("a bomb", JSON | {"content-encoding": "gzip"}, gzip.compress(b" " * 10**6), 415, "the body is compressed"),
    ("another host", JSON | {"host": "evil.example"}, rows({}), 403, "under its own address only"),
    ("nearly this host", JSON | {"host": "127.0.0.1.evil.example:80"}, rows({}), 403, "under its own address only"),
    ("another origin", JSON | {"origin": "http://evil.example"}, rows({}), 403, "by pages of other origins"),
    ("another port", JSON | {"origin": "http://127.0.0.1:81"}, rows({}), 403, "by pages of other origins"),
    ("another scheme", JSON | {"origin": "https://127.0.0.1"}, rows({}), 403, "by pages of other origins"),
    ("a page of a file", JSON | {"origin": "null"}, rows({}), 403, "by pages of other origins"),
    ("another site", JSON | {"sec-fetch-site": "cross-site"}, rows({}), 403, "by pages of other origins"),
    ("nearly this site", JSON | {"sec-fetch-site": "same-site"}, rows({}), 403, "by pages of other origins"),
]


def check_refusal(answer: httpx.Response, status: int, message: str) -> None:
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told.keys() == {"error", "models_sha256", "version"}
    sentence = told["error"]
    assert message in sentence
    assert len(sentence) < 700
    assert "\n" not in sentence
    assert not any(word in sentence for word in ("Traceback", ".py", "--", HUGE[:200], "/tmp"))
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"), [one[1:] for one in REFUSED], ids=[o[0] for o in REFUSED]
)
def test_a_request_that_cannot_be_used_is_refused_in_one_sentence(small, headers, body, status, message):
    check_refusal(small("POST", "/predict", content=body, headers=headers), status, message)
    assert small("POST", "/predict", json={"rows": [ROW]}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/predict", 405, "method not allowed"),
        ("OPTIONS", "/predict", 405, "method not allowed"),
        ("POST", "/predict/", 404, "not found"),
        ("GET", "/../../etc/passwd", 404, "not found"),
        ("GET", "/docs", 404, "not found"),
        ("POST", "/predict?scale=percent", 422, "?scale: Input should be 'dn', 'collection1' or 'reflectance'"),
        ("POST", "/predict?scales=dn", 422, "?scales: Extra inputs are not permitted"),
        ("POST", f"/predict?{HUGE}=1", 422, "Extra inputs"),
        ("POST", "/predict?sensor=msi", 422, "?sensor: Input should be 'oli', 'tm' or 'etm'"),
    ],
)
def test_what_is_not_served_is_told_in_one_sentence(small, method, path, status, message):
    check_refusal(small(method, path, **({"json": {"rows": [ROW]}} if method == "POST" else {})), status, message)


def test_of_very_many_small_rows_no_more_are_built_than_are_taken():
    body = b'{"rows":[' + b'{"B2":1},' * 400_000 + b'{"B2":1}]}'
    tracemalloc.start()
    with pytest.raises(service.Refusal, match="more than 1,000 rows"):
        service.read_rows(body, "json", Limits(rows=1000))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 * len(body)  # its text, and little else; as objects it takes 40 times as much
    with pytest.raises(service.Refusal, match="more than 1,000 rows"):
        service.read_rows(b"B2\n" + b"1\n" * 2_000_000, "csv", Limits(rows=1000))


ACCEPTED = [
    ("?format=csv", {}, "csv"),
    ("?format=csv", {"accept": "application/json"}, "csv"),
    ("?format=json", {"accept": "text/csv"}, "json"),
    ("", {"accept": "text/csv"}, "csv"),
    ("", {"accept": "text/csv, application/json;q=0.5"}, "csv"),
    ("", {"accept": "text/csv;q=0.4, */*;q=0.5"}, "json"),
    ("", {"accept": "*/*"}, "json"),
    ("", {"accept": "text/html"}, "json"),
    ("", {"accept": "text/csv;q=nan"}, "json"),
]


@pytest.mark.parametrize(("query", "accept", "kind"), ACCEPTED)
def test_the_answer_is_of_the_kind_that_was_asked_for(client, query, accept, kind):
    answer = client("POST", f"/predict{query}", content=LINE, headers=CSV | accept)
    assert answer.headers["content-type"].split(";")[0] == {"csv": "text/csv", "json": "application/json"}[kind]


def test_an_answer_of_csv_is_what_the_command_writes(client, folder, tmp_path):
    frame = bands(500, "dn")
    expected = predicted(frame, folder, tmp_path / "table.csv")
    answer = client("POST", "/predict?format=csv", json={"rows": records(frame)})
    found = pd.read_csv(io.StringIO(answer.text), dtype=str, keep_default_na=False)
    assert list(found) == ["probability", "code", "class", "notice"]
    for name in ("probability", "class", "notice"):
        assert found[name].tolist() == expected[name].tolist()
    assert set(found["code"]) == {"0", "1", "2"}
    assert answer.headers[HASH_HEADER] == load_model(folder / "bands").sha256()
    assert (answer.headers["x-model"], answer.headers["x-scale"]) == ("bands", "dn")
    assert client("POST", "/predict?format=xml", json={"rows": [ROW]}).status_code == 422


def test_values_that_a_file_may_hold_are_unknown_here_too(client):
    lines = LINE + "".join(f"{odd},8460,7990,16730,10620,8610\n" for odd in ("", "NaN", "inf", "0", "-9999", "null"))
    found = client("POST", "/predict", content=lines, headers=CSV).json()["predictions"]
    assert found[1:] == [{"probability": None, "code": 0, "class": "not observed"}] * 6
    assert found[0]["code"] in (1, 2)


def test_a_token_is_asked_for_before_anything_is_read(served):
    app = create_app(served, token="a-long-enough-token", loopback=False)
    for sent in ("", "Bearer a-long-enough-tokem", "Basic a-long-enough-token"):
        for method, path in (("POST", "/predict"), ("GET", "/health"), ("GET", "/openapi.json"), ("GET", "/nothing")):
            answer = Client(app, **({"authorization": sent} if sent else {}))(method, path)
            check_refusal(answer, 401, "a token is needed")
            assert answer.headers["www-authenticate"] == "Bearer"
    right = Client(app, authorization="bearer a-long-enough-token", host="any.example")
    assert right("GET", "/health").json()["status"] == "ok"
    assert "401" in right("GET", "/openapi.json").json()["paths"]["/predict"]["post"]["responses"]


def test_pages_of_elsewhere_get_nothing_though_they_know_the_token(served):
    app = create_app(served, token="a-long-enough-token", loopback=False)
    right = Client(app, authorization="Bearer a-long-enough-token", host="maps.example")
    for sent in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        for method, path in (("POST", "/predict"), ("GET", "/health"), ("GET", "/model"), ("GET", "/openapi.json")):
            check_refusal(right(method, path, headers=sent), 403, "by pages of other origins")
    own = {"origin": "http://maps.example", "sec-fetch-site": "same-origin"}
    assert right("POST", "/predict", json={"rows": [ROW]}, headers=own).status_code == 200


def test_a_link_to_the_page_may_stand_anywhere(client):
    opened = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    assert client("GET", "/", headers=opened).status_code == 200
    check_refusal(client("GET", "/model", headers=opened), 403, "by pages of other origins")


def test_a_slow_body_is_not_waited_for(small):
    async def slowly() -> Any:
        yield b'{"rows":'
        await asyncio.sleep(30)

    check_refusal(small("POST", "/predict", content=slowly(), headers=JSON), 408, "took longer than 0.3 seconds")


def test_a_full_queue_is_told_to_come_again_and_the_others_are_answered(served, monkeypatch):
    gate, most, running = threading.Event(), [0], [0]
    plain = service.read_rows

    def held(*arguments: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        assert gate.wait(30)
        running[0] -= 1
        return plain(*arguments)

    monkeypatch.setattr(service, "read_rows", held)
    app = create_app(served, limits=SMALL)

    async def crowd() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            asked = [asyncio.create_task(client.post("/predict", json={"rows": [ROW]})) for _ in range(7)]
            while sum(one.done() for one in asked) < 3:
                await asyncio.sleep(0.01)
            assert (await client.get("/health")).status_code == 200
            gate.set()
            return await asyncio.gather(*asked)

    answers = asyncio.run(crowd())
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 3
    assert most[0] == SMALL.threads
    for answer in answers:
        if answer.status_code == 503:
            check_refusal(answer, 503, "come again in a second")
            assert answer.headers["retry-after"] == "1"
    assert asyncio.run(crowd())


def test_a_defect_of_ours_is_one_sentence_too(served, monkeypatch):
    monkeypatch.setattr(service, "read_rows", lambda *_: 1 / 0)
    answer = Client(create_app(served))("POST", "/predict", json={"rows": [ROW]})
    check_refusal(answer, 500, "the service failed")
    assert HASH_HEADER in answer.headers


def test_a_model_that_is_not_what_it_says_is_not_served(folder, tmp_path):
    for name in ("model.json", "meta.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    load_served(tmp_path)
    check = Client(create_app(load_served(tmp_path)))("POST", "/predict", json={"rows": [ROW]})
    check_refusal(check, 422, "and there is no model of bands alone; give these features too")
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes().replace(b"0.", b"9.", 1))
    with pytest.raises(ModelError, match=r"model.json does not match the sha256 in meta.json"):
        load_served(tmp_path)


# --- fuzzing ---------------------------------------------------------------------------------------------------


SEEDED = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def fuzz(app: Any, examples: int) -> Counter[int]:
    """Send what fits the schema and what does not, the same every time; count the statuses of the answers."""
    rejected = {"negative_data_rejection": {"expected-statuses": [400, 413, 415, 422]}}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=Config.from_dict({"checks": rejected}))
    counts = Counter[int]()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode if operation.body else (GenerationMode.POSITIVE,):

            @settings(SEEDED, max_examples=examples)
            @given(operation.as_strategy(mode))
            def run(case: schemathesis.Case) -> None:
                # Rows that fit the schema may yet be none of Landsat.
                answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
                counts[answer.status_code] += 1
                assert answer.status_code == 200 or set(answer.json()) == {"error", "models_sha256", "version"}

            run()
    return counts


def test_what_a_fuzzer_sends_is_answered_as_the_schema_says(served):
    assert fuzz(create_app(served, limits=replace(SMALL, body_seconds=5), loopback=False), 12)[422] > 5


@pytest.mark.long
def test_much_that_a_fuzzer_sends_is_answered_as_the_schema_says(served):
    counts = fuzz(create_app(served, limits=replace(SMALL, body_seconds=5), loopback=False), 150)
    assert counts[422] > 100
    assert set(counts) <= {200, 400, 413, 415, 422}
