"""The service: rows one by one over one connection and many, and in batches, beside the simplest service of XGBoost.

Both are processes of their own on this machine, and so is the client, which takes its share of the cores. ``python -m
benchmarks.service MODEL`` is the peer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks.archive import Setup
from benchmarks.harness import Comparison, Ratio, ratio, seconds, time_in_turn
from benchmarks.models import fit, pixels_of
from engine.kernels.features import ALL_FEATURES
from engine.landsat import BANDS
from engine.legend import PROBABILITY_SCALE
from engine.model import load_model

PUBLISHED_ROWS_PER_SECOND: Final = 65.0
"""Of the published study's endpoint, as published: 5566 rows in 85 s, one by one, on other hardware; not measured by
us."""

CONNECTIONS: Final = {"one": 1, "eight": 8, "many": 32}
"""Over which rows are sent one by one, by the name of the load."""

BATCH_ROWS: Final = 10_000
OURS: Final = "mangroves serve"
PEER: Final = "FastAPI + inplace_predict"


def compare_service(setup: Setup) -> Comparison:
    """Time requests of one row over one connection and over many, and of 10 000 rows, ours and the peer's in turn."""
    values, mangrove = pixels_of(setup.archive)
    folder = setup.folder / "service"
    fit(values, mangrove, BANDS, min(200, setup.scale.most_trees)).save(folder)
    rng = np.random.default_rng(1)
    drawn = values[[ALL_FEATURES.index(band) for band in BANDS]][:, rng.integers(0, values.shape[1], BATCH_ROWS)]
    rows = [dict(zip(BANDS, row, strict=True)) for row in drawn.T.tolist()]
    count = 16 * min(60, setup.scale.size_px // 16)
    singles, batch = [_document([row]) for row in rows[:count]], [_document(rows)]
    loads = {name: (singles, at_once) for name, at_once in CONNECTIONS.items()} | {"batch": (batch * 4, 1)}
    taken: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with ExitStack() as stack:
        serve = [sys.executable, "-m", "jobs", "serve", str(folder), "--port", "0", "--json"]
        services = {
            OURS: stack.enter_context(_serving(serve)),
            PEER: stack.enter_context(_serving([sys.executable, "-m", "benchmarks.service", str(folder)])),
        }
        sides: dict[str, Callable[[], list[float]]] = {
            f"{side}, {name}": partial(
                _load, service, *load, taken.setdefault(f"{side}, {name}", []), cpu.setdefault(f"{side}, {name}", [])
            )
            for name, load in loads.items()
            for side, service in services.items()
        }
        timings, probabilities = time_in_turn(sides, setup.runs)
    wall = {side: timing.wall for side, timing in timings.items()}
    each = dict.fromkeys(CONNECTIONS, count) | {"batch": 4 * BATCH_ROWS}
    cpu = {side: spent[-setup.runs :] for side, spent in cpu.items()}  # the first is of the round to warm up
    ratios = {
        f"service_{name}_vs_peer{kind}": ratio(spent[f"{PEER}, {name}"], spent[f"{OURS}, {name}"])
        for name in loads
        for kind, spent in (("", wall), ("_cpu", cpu))
    }
    rates = {side: [each[side.split(", ")[1]] / one for one in spent] for side, spent in wall.items()}
    ratios["service_one_vs_published"] = Ratio([rate / PUBLISHED_ROWS_PER_SECOND for rate in rates[f"{OURS}, one"]])
    return Comparison(
        f"{count} requests of a row over {', '.join(map(str, CONNECTIONS.values()))} connections, "
        f"{BATCH_ROWS:,} rows at once (simulated); "
        f"published elsewhere: {PUBLISHED_ROWS_PER_SECOND:g} rows/s one by one",
        ratios,
        {
            "requests_per_second": {
                side: [round(len(loads[side.split(", ")[1]][0]) / one, 1) for one in spent]
                for side, spent in wall.items()
            },
            "rows_per_second": {side: [round(rate, 1) for rate in found] for side, found in rates.items()},
            "server_cpu_milliseconds_a_row": {
                side: [round(one / each[side.split(", ")[1]] * 1000, 4) for one in spent] for side, spent in cpu.items()
            },
            "milliseconds": {side: _percentiles(found) for side, found in taken.items()},
            "published_rows_per_second": PUBLISHED_ROWS_PER_SECOND,
            "seconds": seconds(timings),
        },
        [side for side, found in probabilities.items() if found != probabilities[f"{OURS}, {side.split(', ')[1]}"]],
    )


def _document(rows: list[dict[str, int]]) -> bytes:
    return json.dumps({"rows": rows}).encode()


def _percentiles(taken: list[float]) -> dict[str, float]:
    """Return the time a request took, in all rounds together."""
    middle, high = np.percentile(taken, (50, 99)) * 1000
    return {"requests": len(taken), "p50": round(middle, 2), "p99": round(high, 2), "most": round(max(taken) * 1000, 2)}


# --- the client ------------------------------------------------------------------------------------------------


def _load(
    service: tuple[str, psutil.Process], documents: list[bytes], connections: int, taken: list[float], cpu: list[float]
) -> list[float]:
    """Send requests over some connections and return the probabilities.

    The seconds each took are added to ``taken``, the CPU seconds of the service to ``cpu``.
    """
    address, process = service
    before = sum(process.cpu_times()[:2])
    found = asyncio.run(_load_all(address, documents, connections, taken))
    cpu.append(sum(process.cpu_times()[:2]) - before)
    return found


async def _load_all(address: str, documents: list[bytes], connections: int, taken: list[float]) -> list[float]:
    answers: list[bytes] = [b""] * len(documents)
    turns = iter(enumerate(documents))

    async def connection() -> None:
        place = urlsplit(address)
        reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**24)
        head = f"POST /predict?scale=dn HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        for number, document in turns:
            started = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(document)}\r\n\r\n".encode() + document)
            told = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert told.startswith(b"http/1.1 200"), told
            answers[number] = await reader.readexactly(int(told.split(b"content-length:")[1].split(b"\r\n")[0]))
            taken.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return [one["probability"] for answer in answers for one in json.loads(answer)["predictions"]]


@contextmanager
def _serving(command: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """Start a service that prints its address as JSON; yield address and process."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            text = ""
            while not text.endswith("}\n") or text.count("{") > text.count("}"):
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(f"{command[1:4]} did not start: {process.communicate()[1][-400:]}")
                text += line
            yield json.loads(text)["address"], psutil.Process(process.pid)
        finally:
            process.terminate()


# --- the peer --------------------------------------------------------------------------------------------------


def serve_peer(folder: Path) -> None:
    """Serve a model of bands as one writes it in twenty lines: a pydantic body, one call of XGBoost a request."""
    import uvicorn
    import xgboost
    from fastapi import FastAPI
    from pydantic import BaseModel

    model = load_model(folder)
    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(model.trees))

    class Rows(BaseModel):
        rows: list[dict[str, float]]

    app = FastAPI()

    def predict(body: Rows) -> dict[str, Any]:
        values = np.array([[row[name] for name in model.features] for row in body.rows])
        codes = [np.searchsorted(edges, values[:, at], "right") for at, edges in enumerate(model.edges)]
        found = booster.inplace_predict(np.column_stack(codes).astype(np.uint8), missing=255)
        shares = np.rint(found * PROBABILITY_SCALE).astype(np.float64) / PROBABILITY_SCALE
        return {"predictions": [{"probability": share} for share in shares.tolist()]}

    predict.__annotations__ = {"body": Rows}  # which are texts in this module, of names it does not have
    app.post("/predict")(predict)
    # With its protocol named, as uvicorn's own is, or asyncio would not send what is small at once.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        print(json.dumps({"address": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", http="h11", loop="asyncio")).run(sockets=[listener])


if __name__ == "__main__":
    serve_peer(Path(sys.argv[1]))
