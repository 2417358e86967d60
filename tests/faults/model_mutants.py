"""Load and use mutated model files; run as a process of its own, as a crash would end it.

``python -m tests.faults.model_mutants FOLDER FIRST LAST`` prints how many were refused, equal and changed.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.errors import ModelError
from engine.model import META_FILE, TREES_FILE, canonical_json, model_from_files

Files = dict[str, bytes]


def flip_bits(text: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(text)
    for _ in range(rng.choice((1, 1, 3, 20))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(text: bytes, rng: random.Random) -> bytes:
    return text[: rng.randrange(len(text))]


def swap_numbers(text: bytes, rng: random.Random) -> bytes:
    """Put an odd number in the place of one that is anywhere in a JSON text."""
    document = json.loads(text)
    places = [(at, key) for at, key, value in _walk(document) if type(value) in (int, float)]
    at, key = rng.choice(places)
    at[key] = rng.choice((-1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), 0.5, "7", None, [], {}))
    return canonical_json(document)


def delete_key(text: bytes, rng: random.Random) -> bytes:
    document = json.loads(text)
    at, key = rng.choice([(at, key) for at, key, _ in _walk(document)])
    del at[key]
    return canonical_json(document)


def _walk(value: Any) -> list[tuple[Any, Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, each in list(pairs) for found in [(value, key, each), *_walk(each)]]


MUTATIONS: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (flip_bits, truncate, swap_numbers, delete_key)


def mutant(files: Files, number: int) -> Files:
    """Return the files with one mutation; of every second one the hashes fit, as an attacker would make them."""
    rng = random.Random(number)
    name = rng.choice((TREES_FILE, TREES_FILE, META_FILE))
    changed = files | {name: MUTATIONS[number % len(MUTATIONS)](files[name], rng)}
    if number // len(MUTATIONS) % 2:
        return changed
    try:
        meta = json.loads(changed[META_FILE])
        meta["trees_file_sha256"] = hashlib.sha256(changed[TREES_FILE]).hexdigest()
        meta.pop("meta_sha256", None)
        meta["meta_sha256"] = hashlib.sha256(canonical_json(meta)).hexdigest()
    except (ValueError, TypeError):  # no longer JSON: there is no hash to fit
        return changed
    return changed | {META_FILE: json.dumps(meta).encode()}


def use(files: Files) -> np.ndarray | None:
    """Return what a model says of some pixels; None where it is refused."""
    try:
        model = model_from_files(files)
    except ModelError:
        return None
    codes = np.random.default_rng(0).integers(0, 256, (len(model.features), 200), dtype=np.uint8)
    return model.predict_codes(codes)


def main(folder: Path, first: int, last: int) -> Counter[str]:
    files = {name: (folder / name).read_bytes() for name in (TREES_FILE, META_FILE)}
    expected = use(files)
    counts: Counter[str] = Counter()
    for number in range(first, last):
        print(number, file=sys.stderr, flush=True)  # the last one told is the one that crashed
        found = use(mutant(files, number))
        counts["refused" if found is None else "equal" if np.array_equal(found, expected) else "changed"] += 1
    return counts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
