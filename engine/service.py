"""A model as a service: rows of bands in over HTTP, probability and class out, the very ones of ``mangroves predict``.

The rows of one request are one table: names and scale of its bands are told from them, as of a file. Requests are
untrusted: who asks is checked first, then kind, size and time of the body, and only then is it parsed, in one of a
few threads. Every refusal is one sentence, every answer bears the hash of the model that gave it: what no model gave,
those of all that may answer.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import hmac
import html
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from engine import __version__
from engine.card import card_text
from engine.errors import ConfigError, ModelError
from engine.landsat import BANDS
from engine.legend import CLASSES, PROBABILITY_SCALE, names
from engine.model import BANDS_MODEL, Model, load_model
from engine.naming import ACCEPTED, Scale
from engine.origin import foreign
from engine.places import Place
from engine.predict import (
    MAX_COLUMNS,
    Table,
    TooManyRows,
    csv_in_memory,
    further_features,
    load_bands_model,
    notice_of,
    predict_part,
    survey_table,
    why_not,
)
from engine.profiles import is_loopback
from engine.threads import cores

HASH_HEADER: Final = "x-model-sha256"
ROWS: Final = "the request"
"""What errors call the rows of a request."""

_KINDS: Final = {"application/json": "json", "text/csv": "csv"}
_DISCARDED: Final = 8  # times the bytes allowed are read of a body that is too large, for the client to hear why
_OPTION: Final = re.compile(r"--(scale|sensor)( (?=oli|tm))?")

_Asgi = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a service takes at once."""

    rows: int = 10_000
    """Of one request."""

    body_bytes: int = 4 * 2**20
    """Of one request; 10 000 rows of seven bands are 0.4 to 1.7 MB."""

    body_seconds: float = 10.0
    """Until a body has arrived."""

    threads: int = cores()
    """Requests parsed and predicted at once."""

    queue: int = 64
    """Further requests whose body is held; beyond these they are told to come again."""


class Refusal(Exception):
    """A request that gets no prediction: its status, and why in one sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers or {}


# --- the model -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """The models of a folder, as ``mangroves predict`` chooses between them."""

    full: Model
    bands: Model | None
    """Of bands alone; None where the folder has none or the full one needs no more."""

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Name of a model -> its sha256."""
        return {name: model.sha256() for name, model in self.models.items()}

    @cached_property
    def models(self) -> dict[str, Model]:
        """Name -> model: ``full`` first."""
        return {"full": self.full} | ({BANDS_MODEL: self.bands} if self.bands else {})

    def choose(self, table: Table, foreign: dict[str, str]) -> tuple[str, str]:
        """Return the name of the richest model whose features a table has, and why the full one is not it.

        Raises
        ------
        ModelError
            If none can do with the table.
        """
        why = why_not(self.full, table, foreign)
        if why and self.bands is None:
            raise ModelError(f"{why}, and there is no model of bands alone", fix="give these features too")
        return (BANDS_MODEL if why else "full"), why

    def predict(self, table: Table, scale: Scale | None, sensor: str | None) -> dict[str, Any]:
        """Return the answer to the rows of a request.

        Raises
        ------
        ConfigError, ModelError, Refusal
            If the rows cannot be used.
        """
        survey = survey_table(table, scale=scale, sensor=sensor, further=further_features(self.full))
        name, why = self.choose(table, survey.foreign)
        model = self.models[name]
        assert table.rows is not None
        for column in {*survey.bands.columns, *further_features(model)} - {survey.bands.platform}:
            if pa.types.is_string(table.rows[column].type):  # of JSON, which has numbers; a CSV has bytes
                raise Refusal(422, f"{column[:40]!r} holds text; give numbers, null where unknown")
        probability, classes = predict_part(table.rows, model, survey)
        titles = names(CLASSES)
        predictions = [
            {"probability": share if code else None, "code": code, "class": titles[code]}
            for share, code in zip((probability / PROBABILITY_SCALE).tolist(), classes.tolist(), strict=True)
        ]
        return {
            "predictions": predictions,
            "model": name,
            "model_reason": why or "the rows have its features",
            "model_sha256": self.hashes[name],
            "version": __version__,
            "threshold": model.threshold,
            "prevalence": model.training_prevalence,
            "bands_reason": _OPTION.sub(_as_query, survey.bands.reason),
            "scale": survey.scale,
            "scale_reason": _OPTION.sub(_as_query, survey.reason),
            "notice": notice_of(model),
        }

    def about(self, limits: Limits) -> dict[str, Any]:
        """Return what ``/model`` says: each model's facts and card, and the limits of a request."""
        return {
            "models_sha256": self.hashes,
            "version": __version__,
            "limits": _limits(limits),
            "models": {
                name: {
                    "trees_sha256": model.tree_sha256(),
                    "features": list(model.features),
                    "regions": list(model.regions),
                    "hold_out": list(model.hold_out),
                    "threshold": model.threshold,
                    "prevalence": model.training_prevalence,
                    "calibrated": model.calibration is not None,
                    "notice": notice_of(model),
                    "card": card_text(model),
                }
                for name, model in self.models.items()
            },
        }


def load_served(folder: Place) -> Served:
    """Load the models of a folder and use them once, so that the first request waits no longer than others.

    Raises
    ------
    ModelError
        If one is damaged or foreign: hashes are checked before anything is parsed.
    """
    full = load_model(folder)
    served = Served(full, load_bands_model(folder) if further_features(full) else None)
    dark = {name: pa.array([8000.0]) for name in (*BANDS, *further_features(full))}
    for columns in (BANDS, tuple(dark)):
        with suppress(ModelError):  # there may be no model of bands alone
            served.predict(Table(Path(ROWS), columns, {name: dark[name] for name in columns}), "dn", None)
    return served


# --- rows of a request -----------------------------------------------------------------------------------------


def read_rows(body: bytes, kind: str, limits: Limits) -> Table:
    """Turn a body into a table.

    Parameters
    ----------
    body : bytes
    kind : str
        ``json``: ``{"rows": [{"B2": 8100, ...}, ...]}``, or ``csv``: a line of names, then one a row.
    limits : Limits

    Raises
    ------
    Refusal
        400 if it is not of that kind; 413 if there are too many rows; 422 if they are no rows of numbers.
    ConfigError
        If a CSV is damaged.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "the body is not UTF-8; encode it so") from None
    if not text.strip():
        raise Refusal(400, "the body is empty; give rows")
    try:
        return _json_table(text, limits.rows) if kind == "json" else csv_in_memory(body, ROWS, most_rows=limits.rows)
    except TooManyRows:
        raise Refusal(413, f"there are more than {limits.rows:,} rows; send them in parts") from None


def _json_table(text: str, most_rows: int) -> Table:
    objects = 0

    def one_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Take an object as soon as it is parsed: of a body of very many, the rest is not."""
        nonlocal objects
        objects += 1
        if objects > most_rows + 1:  # that of rows is one too, and the last to end
            raise TooManyRows
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("an object has a name twice")
        return found

    try:
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=one_object)
    except RecursionError:
        raise Refusal(400, "the JSON is nested too deeply; give rows of numbers") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON ({str(error)[:100]}); see /openapi.json") from None
    if not isinstance(document, dict) or document.keys() != {"rows"} or not isinstance(document["rows"], list):
        raise Refusal(422, 'the JSON must be {"rows": [...]} and nothing else; see /openapi.json')
    rows = document["rows"]
    if len(rows) > most_rows:
        raise TooManyRows
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise Refusal(422, "rows must be one object or more, each of names and numbers; see /openapi.json")
    columns = tuple(rows[0])
    if not 1 <= len(columns) <= MAX_COLUMNS:
        raise Refusal(422, f"row 1 has {len(columns)} names; give 1 to {MAX_COLUMNS}")
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            raise Refusal(422, f"row {number} has other names than row 1; give all rows the same, null where unknown")
    return Table(Path(ROWS), columns, {name: _column(name, [row[name] for row in rows]) for name in columns})


def _column(name: str, values: list[Any]) -> pa.Array:
    """Return a column of a JSON table: of numbers, or of texts, such as platforms."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {int, float}:
        with suppress(OverflowError):
            numbers = np.array([np.nan if value is None else value for value in values], np.float64)
            if not np.isinf(numbers).any():
                return pa.array(numbers)
        raise Refusal(422, f"{name[:40]!r} holds a number beyond all bounds; give null where unknown")
    if kinds == {str}:
        with suppress(UnicodeEncodeError):  # half of a surrogate pair
            return pa.array(values, pa.string())
    raise Refusal(422, f"{name[:40]!r} holds other than numbers, or than texts; give numbers, null where unknown")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _as_query(match: re.Match[str]) -> str:
    """Turn an option of the command line into that of an address."""
    return f"?{match[1]}" + ("=" if match[2] else "")


# --- over HTTP -------------------------------------------------------------------------------------------------


class Prediction(BaseModel):
    """What the model says of a row."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    probability: Annotated[float, Field(ge=0, le=1)] | None
    """Of mangrove, to 1e-4; null where a band is missing."""

    code: Literal[0, 1, 2]
    """As in the maps: 0 not observed, 1 other, 2 mangrove."""

    class_: Annotated[Literal["not observed", "other", "mangrove"], Field(alias="class")]


_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""Of all that decides what a model answers: trees, edges, calibration, threshold."""


class _Told(BaseModel):
    """What every answer says that no model gave."""

    model_config = ConfigDict(protected_namespaces=(), use_attribute_docstrings=True)

    models_sha256: dict[Literal["full", "bands"], _Hash]
    """Hash of each model that may answer."""

    version: str


class Predictions(BaseModel):
    """The answer to rows, in their order."""

    model_config = ConfigDict(protected_namespaces=(), use_attribute_docstrings=True)

    predictions: list[Prediction]
    model_sha256: _Hash
    """Hash of the model that gave them."""

    version: str
    model: Literal["full", "bands"]
    """Which of the folder's models: ``full`` if the rows have all its features, else that of bands alone."""

    model_reason: str
    threshold: float
    """Probability from which the class is mangrove."""

    prevalence: float
    """Share of mangrove in the land the probabilities hold for."""

    bands_reason: str
    scale: Scale
    scale_reason: str
    notice: str
    """What must not be lost of what the model learnt from: that it was simulated."""


class Health(_Told):
    status: Literal["ok"]


class Version(_Told):
    pass


class ServedModels(_Told):
    limits: dict[str, float]
    models: dict[str, dict[str, Any]]


class Problem(_Told):
    """A refusal."""

    error: str
    """What was wrong and what to do, in one sentence."""


class _Options(BaseModel):
    """What may stand behind the question mark."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    scale: Scale | None = None
    """Of the bands; default by the values of all rows."""

    sensor: Literal["oli", "tm", "etm"] | None = None
    """How numbered bands are numbered; default by platform, or by which there are."""

    format: Literal["json", "csv"] | None = None
    """Of the answer; default what Accept prefers, else JSON."""


def create_app(served: Served, *, limits: Limits | None = None, token: str = "", loopback: bool = True) -> _Guard:
    """Return the service as an ASGI application.

    Parameters
    ----------
    served : Served
    limits : Limits, optional
    token : str
        That every request must bear, if not empty.
    loopback : bool
        Whether only requests to a name of this machine are answered: no page of another host, whose name was made to
        lead here, can then ask.
    """
    limits = limits or Limits()
    pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="predict")
    told = {"models_sha256": served.hashes, "version": __version__}
    about = _json(served.about(limits))
    held = 0

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown()

    app = FastAPI(
        title="mangroves",
        version=__version__,
        description=f"{_ABOUT}\n\nLimits of a request: {_limits_text(limits)}.",
        docs_url=None,  # both fetch scripts of a CDN
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={
            code: {"description": _STRANGER[code], "model": Problem} for code in _STRANGER if token or code != 401
        },
    )

    def predict_body(body: bytes, kind: str, options: _Options) -> Response:
        try:
            found = served.predict(read_rows(body, kind, limits), options.scale, options.sensor)
        except (ConfigError, ModelError) as error:
            raise Refusal(422, _OPTION.sub(_as_query, str(error))) from None
        headers = {HASH_HEADER: found["model_sha256"], "Vary": "Accept"}
        if options.format == "csv":
            told = {name: str(found[name]) for name in ("model", "scale", "threshold")}
            return Response(
                _csv_answer(found), headers=headers | {f"X-{k}": v for k, v in told.items()}, media_type="text/csv"
            )
        return Response(_json(found), headers=headers, media_type="application/json")

    @app.post(
        "/predict",
        summary="Probability and class of mangrove for rows of Landsat bands",
        response_class=Response,
        responses={
            200: {
                "description": "One prediction a row, in order.",
                "model": Predictions,
                "content": {"text/csv": {"schema": {"type": "string", "description": _CSV_TOLD}}},
            },
            **{code: {"description": text, "model": Problem} for code, text in _REFUSALS.items()},
        },
        openapi_extra={"requestBody": _request_body(served, limits)},
    )
    async def predict(request: Request, options: Annotated[_Options, Query()]) -> Response:
        nonlocal held
        kind = _kind_of(request)
        if options.format is None:
            accept = ",".join(request.headers.getlist("accept"))
            options.format = "csv" if _wish(accept, "text/csv") > _wish(accept, "application/json") else "json"
        if held >= limits.threads + limits.queue:
            raise Refusal(503, "the service is busy; come again in a second", {"Retry-After": "1"})
        held += 1
        try:
            body = await _read_body(request, limits)
            return await asyncio.get_running_loop().run_in_executor(pool, predict_body, body, kind, options)
        finally:
            held -= 1

    @app.get("/health", summary="Whether it answers", response_model=Health)
    async def health() -> Response:
        return _answer({"status": "ok"} | told)

    @app.get("/version", summary="Version of mangroves, hash of each model that may answer", response_model=Version)
    async def version() -> Response:
        return _answer(told)

    @app.get("/model", summary="The model's facts and card, and the limits of a request", response_model=ServedModels)
    async def model() -> Response:
        return Response(about, media_type="application/json")

    @app.get("/", summary="This service on a page", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return HTMLResponse(
            _PAGE.format(
                version=__version__,
                hashes="".join(f"<li>{name} <code>{sha256}</code></li>" for name, sha256 in served.hashes.items()),
                limits=_limits_text(limits),
                notice=html.escape(notice_of(served.full)),
            ),
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    def refuse(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        return _answer({"error": sentence} | told, status, headers)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return refuse(error.status, error.sentence, error.headers)

    async def not_served(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = f"{HTTPStatus(error.status_code).phrase.lower()}; see /openapi.json"
        return refuse(error.status_code, sentence, dict(error.headers or {}))

    async def not_valid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return refuse(422, f"?{str(first['loc'][-1])[:40]}: {str(first['msg'])[:120]}; see /openapi.json")

    async def failed(_: Request, __: Exception) -> Response:
        return refuse(500, "the service failed; its log says why")

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, not_served)
    app.add_exception_handler(RequestValidationError, not_valid)
    app.add_exception_handler(Exception, failed)
    # Around all of it: what Starlette puts around an application answers to defects, beyond its middleware.
    return _Guard(app, refuse=refuse, token=token, loopback=loopback, hashes=", ".join(served.hashes.values()))


class _Guard:
    """Checks who asks before anything else is looked at; signs what no model gave with the hashes of all."""

    def __init__(self, app: _Asgi, *, refuse: Callable[..., Response], token: str, loopback: bool, hashes: str) -> None:
        self.app, self.refuse, self.loopback, self.hashes = app, refuse, loopback, hashes
        self.digest = hashlib.sha256(token.encode()).digest() if token else b""

    async def __call__(self, scope: MutableMapping[str, Any], receive: _Asgi, send: _Asgi) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def signed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                if not any(name == HASH_HEADER.encode() for name, _ in headers):
                    headers.append((HASH_HEADER.encode(), self.hashes.encode()))
                headers += [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
            await send(message)

        refusal = self.check(scope)
        await (refusal or self.app)(scope, receive, signed)

    def check(self, scope: MutableMapping[str, Any]) -> Response | None:
        """Return the refusal of a request by its headers, if any."""
        if why := foreign(scope, self.is_own):
            return self.refuse(403, f"the service {why}")
        if self.digest:
            kind, _, token = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            # Of equal length whatever was sent, so that the time taken tells nothing.
            right = hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self.digest)
            if not right or kind.lower() != b"bearer":
                how = {"WWW-Authenticate": "Bearer"}
                return self.refuse(401, "a token is needed; send Authorization: Bearer TOKEN", how)
        return None

    def is_own(self, host: str) -> bool:
        """Tell whether a Host may be this service: whatever its port, which a tunnel may have changed."""
        return not self.loopback or is_loopback(re.sub(r":\d+$", "", host))


def _kind_of(request: Request) -> str:
    """Return the kind of a body, ``json`` or ``csv``."""
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "the body is compressed; send it as it is", {"Accept-Encoding": "identity"})
    media, *parameters = (part.strip().lower() for part in request.headers.get("content-type", "").split(";"))
    charsets = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
    if media not in _KINDS or any(one not in ("utf-8", "utf8", "us-ascii") for one in charsets):
        raise Refusal(415, f"the body is of another kind; send {' or '.join(_KINDS)} in UTF-8")
    return _KINDS[media]


def _wish(accept: str, media: str) -> float:
    """Return how much an Accept header wishes for a kind of answer, 0 to 1.

    >>> _wish("text/csv", "application/json"), _wish("text/*;q=0.5, */*;q=0.1", "text/csv"), _wish("*/*", "text/csv")
    (0.0, 0.5, 1.0)
    """
    wishes = {}
    for part in accept.lower().split(","):
        name, *parameters = (one.strip() for one in part.split(";"))
        weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        wishes[name] = float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 0.0
    kinds = (media, f"{media.partition('/')[0]}/*", "*/*")
    return next((wishes[kind] for kind in kinds if kind in wishes), 0.0)


async def _read_body(request: Request, limits: Limits) -> bytes:
    """Read a body as far as is allowed."""
    close = {"Connection": "close"}
    body, most, seen = bytearray(), limits.body_bytes, 0
    too_large = Refusal(413, f"the body is larger than {most / 2**20:g} MiB; send the rows in parts", close)
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > _DISCARDED * most:
        raise too_large
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                seen += len(chunk)
                if seen <= most:
                    body += chunk
                elif seen > _DISCARDED * most:
                    break
    except TimeoutError:
        sentence = f"the body took longer than {limits.body_seconds:g} seconds; send the rows in parts"
        raise Refusal(408, sentence, close) from None
    except ClientDisconnect:
        raise Refusal(400, "the body ended before its end", close) from None
    if seen > most:
        raise too_large
    return bytes(body)


def _answer(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_json(content), status, headers, media_type="application/json")


def _csv_answer(found: dict[str, Any]) -> str:
    """Return predictions as ``mangroves predict`` writes them, without the columns that were sent."""
    text = io.StringIO()
    notice = [found["notice"]] if found["notice"] else []
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["probability", "code", "class", *(["notice"] if notice else [])])
    for one in found["predictions"]:
        known = one["probability"] is not None
        shown = [f"{one['probability']:.4f}" if known else "", one["code"], one["class"] if known else ""]
        lines.writerow([*shown, *notice])
    return text.getvalue()


def _json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


# --- what the service says of itself ---------------------------------------------------------------------------

_ABOUT: Final = (
    "Tells mangrove from other in rows of Landsat surface reflectance. Bands are named "
    f"{ACCEPTED}. The rows of one request are one table: the scale of its bands, and which satellite numbered them, "
    "are told from all of them, unless ?scale= and ?sensor= say so."
)

_CSV_TOLD: Final = (
    "Of ?format=csv or Accept: text/csv: columns probability, code, class, and notice if there is one; no probability "
    "and class where a band is missing. X-Model, X-Scale and X-Threshold say what JSON says besides."
)

_STRANGER: Final = {401: "The token is not the service's.", 403: "Asked under another name, or by a page of elsewhere."}

_REFUSALS: Final = {
    400: "The body is not what its kind says.",
    408: "The body took too long.",
    413: "Too many bytes or rows.",
    415: "The body is neither JSON nor CSV, or is compressed.",
    422: "Its rows cannot be used, or an option is unknown.",
    503: "Too many requests at once; come again.",
}

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>mangroves service</title><style>body{{font:16px sans-serif;max-width:40em;margin:2em auto;padding:0 1em}}
code{{overflow-wrap:anywhere}}</style>
<h1>mangroves {version}</h1><p>{notice}</p>
<p>Send rows of Landsat bands to <code>POST /predict</code>, as JSON or CSV; get probability and class of mangrove.</p>
<p>Limits of a request: {limits}.</p>
<ul><li><a href="openapi.json">openapi.json</a>: the schema</li>
<li><a href="model">model</a>: the model and its card</li>
<li><a href="health">health</a></li><li><a href="version">version</a></li></ul>
<p>Models, sha256:</p><ul>{hashes}</ul></html>
"""


def _limits(limits: Limits) -> dict[str, float]:
    at_once = limits.threads + limits.queue
    return {"rows": limits.rows, "bytes": limits.body_bytes, "seconds": limits.body_seconds, "requests": at_once}


def _limits_text(limits: Limits) -> str:
    told = _limits(limits)
    return (
        f"{told['rows']:,} rows, {told['bytes'] / 2**20:g} MiB, {told['seconds']:g} seconds to arrive, "
        f"{told['requests']} at once"
    )


def _request_body(served: Served, limits: Limits) -> dict[str, Any]:
    """Return what OpenAPI says of the body."""
    number = {"type": ["number", "null"]}
    known = [f"B{number}" for number in range(1, 8)] + list(BANDS) + further_features(served.full)
    row = {
        "type": "object",
        "description": "Six bands, under one naming; the further features of the full model; whatever else.",
        "properties": dict.fromkeys(known, number),
        "additionalProperties": {"type": ["number", "string", "null"]},
        "minProperties": len(BANDS),
        "maxProperties": MAX_COLUMNS,
        "example": _EXAMPLE,
    }
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": limits.rows}
    document = {"type": "object", "properties": {"rows": rows}, "required": ["rows"], "additionalProperties": False}
    table = {"type": "string", "maxLength": limits.body_bytes, "example": _csv(_EXAMPLE)}
    return {
        "required": True,
        "description": f"At most {_limits_text(limits)}. All rows have the same names, null or empty where unknown.",
        "content": {"application/json": {"schema": document}, "text/csv": {"schema": table}},
    }


_EXAMPLE: Final = {"B2": 7820, "B3": 8460, "B4": 7990, "B5": 16730, "B6": 10620, "B7": 8610}


def _csv(row: dict[str, int]) -> str:
    return ",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n"
