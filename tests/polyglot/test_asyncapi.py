"""The AsyncAPI document, held against the meta-schema that its specification publishes."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft7Validator
from tests.polyglot.toolchains import BUILD, REPOSITORY, require, run

SPECS = "@asyncapi/specs@6.11.1"


def test_it_is_a_document_of_asyncapi_3() -> None:
    require("npm")
    folder = BUILD / "asyncapi"
    folder.mkdir(parents=True, exist_ok=True)
    published = folder / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    if not published.exists():
        run("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", ".", SPECS, cwd=folder)
    validator: Any = Draft7Validator(json.loads(published.read_text()))
    document = json.loads((REPOSITORY / "schemas" / "asyncapi.json").read_text())
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)] == []
    document["operations"]["status"]["action"] = "answer"
    assert not validator.is_valid(document)
