"""Validation of STAC documents without a network: core by the schemas that pystac brings, extensions by yours.

No package carries the extensions' schemas. ``MANGROVES_STAC_SCHEMAS`` names a folder that holds them as they are
served, ``raster/v2.0.0/schema.json``: the ``gh-pages`` branches of github.com/stac-extensions.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

SERVED = "https://stac-extensions.github.io"
CORE = "https://schemas.stacspec.org/v1.1.0/{0}-spec/json-schema/{0}.json"
KINDS = {"Feature": "item", "Collection": "collection", "Catalog": "catalog"}


def extension_schemas() -> dict[str, Any]:
    """Return the schemas of extensions that this machine has, by their address."""
    folder = os.environ.get("MANGROVES_STAC_SCHEMAS")
    found = sorted(Path(folder).rglob("*.json")) if folder else []
    return {f"{SERVED}/{path.relative_to(str(folder)).as_posix()}": json.loads(path.read_text()) for path in found}


def problems(documents: Iterable[Mapping[str, Any]]) -> tuple[list[str], Counter[str], Counter[str]]:
    """Return what is wrong with documents, and how many were held against each schema, or could not be."""
    extensions, core = extension_schemas(), get_local_schema_cache()
    resources = {name: Resource.from_contents(one, DRAFT7) for name, one in {**core, **extensions}.items()}
    registry: Registry[Any] = Registry().with_resources(resources.items())
    wrong, held, not_held = [], Counter[str](), Counter[str]()
    for document in documents:
        for name in (CORE.format(KINDS[document["type"]]), *document.get("stac_extensions", ())):
            schema = core.get(name) or extensions.get(name)
            if schema is None:
                not_held[name] += 1
                continue
            held[name] += 1
            errors = Draft7Validator(schema, registry=registry).iter_errors(document)
            wrong += [
                f"{document['id']}: {name}: {list(error.absolute_path)}: {error.message[:200]}" for error in errors
            ]
    return wrong, held, not_held
