"""The contract artefacts: fresh, complete, and of one mind with the product's own decoder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from callboard.cli.main import run
from callboard.orchestrator.endpoints import endpoints_of
from callboard.schemas import agents, base, errors, events, pools, status, tasks, why
from callboard.schemas.base import Message
from callboard.schemas.codec import decode
from callboard.schemas.errors import ERRORS, InvalidRequestError
from callboard.schemas.operations import OPERATIONS
from callboard.schemas.subjects import Subjects

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas"
MODULES = (agents, base, errors, events, pools, status, tasks, why)
GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted((SCHEMAS / "golden").glob("*.json"))}
GOOD = [
    pytest.param(golden[of], example["message"], id=f"{name}: {example['note']}")
    for name, golden in GOLDEN.items()
    for of, examples in (("message", "good"), ("answer", "answers"))
    for example in golden.get(examples, [])
]
BAD = [
    pytest.param(golden["message"], example["message"], example["path"], id=f"{name}: {example['note']}")
    for name, golden in GOLDEN.items()
    for example in golden.get("bad", [])
]


def struct(name: str) -> type[Message]:
    found: set[type[Message]] = {vars(module)[name] for module in MODULES if name in vars(module)}
    (only,) = found
    return only


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((SCHEMAS / "json" / f"{name}.json").read_text()))


def decoded(name: str, message: Any) -> Message:  # noqa: ANN401 - any JSON value
    return decode(msgspec.json.Decoder(struct(name)), json.dumps(message).encode())


def test_the_committed_artefacts_are_as_the_code_says() -> None:
    subprocess.run([sys.executable, "schemas/generate.py", "--check"], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", sorted((SCHEMAS / "json").glob("*.json")), ids=lambda path: path.stem)
def test_a_schema_is_one_and_its_patterns_are_read_by_every_language(path: Path) -> None:
    text = path.read_text()
    Draft202012Validator.check_schema(json.loads(text))
    assert "(?" not in text


@pytest.mark.parametrize(("name", "message"), GOOD)
def test_a_good_message_is_decoded_and_fits_its_schema(name: str, message: Any) -> None:  # noqa: ANN401 - any JSON value
    assert [error.message for error in validator(name).iter_errors(message)] == []
    again = json.loads(msgspec.json.encode(decoded(name, message)))
    assert again == message


@pytest.mark.parametrize(("name", "message", "path"), BAD)
def test_a_bad_message_is_refused_by_decoder_and_schema(name: str, message: Any, path: str) -> None:  # noqa: ANN401 - any JSON value
    assert not validator(name).is_valid(message)
    with pytest.raises(InvalidRequestError) as refusal:
        decoded(name, message)
    assert refusal.value.details == {"path": path}


def test_every_operation_has_examples_and_every_error_has_one() -> None:
    names = {operation.name for operation in OPERATIONS}
    assert set(GOLDEN) == {*names, "errors"}
    assert {golden["operation"] for name, golden in GOLDEN.items() if name != "errors"} == names
    assert {error["note"]: error["number"] for error in GOLDEN["errors"]["good"]} == {
        code: error.number for code, error in ERRORS.items()
    }
    without_bad = {name for name, golden in GOLDEN.items() if not golden.get("bad")}
    assert without_bad == {"errors", "status"}


class Anybody:
    """Stands for the handlers, of which the list of endpoints only takes references."""

    subjects = Subjects()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a handler, never called
        return lambda *_: name


def test_what_is_served_is_what_the_table_of_operations_says() -> None:
    anybody: Any = Anybody()
    served = {
        (endpoint.subject.replace("*", "{agent_id}"), endpoint.request, endpoint.expects_reply, endpoint.description)
        for endpoint in endpoints_of(anybody, anybody, anybody, anybody, anybody)
    }
    assert served == {
        (f"callboard.v1.default.{one.subject}", one.message, one.answer is not None, one.summary)
        for one in OPERATIONS
        if one.sender != "orchestrator"
    }


def expanded(subject: str) -> list[str]:
    """`~.a.{b,c}` as the protocol writes it: each of its subjects."""
    found = re.search(r"\{([^}]*)\}", subject)
    if found is None:
        return [subject.replace("<", "{").replace(">", "}")]
    return [
        each
        for choice in found[1].split(",")
        for each in expanded(subject[: found.start()] + choice.strip() + subject[found.end() :])
    ]


def test_the_asyncapi_document_names_every_subject_of_the_protocol() -> None:
    document = json.loads((SCHEMAS / "asyncapi.json").read_text())
    _, _, section = (ROOT / "docs" / "protocol.md").read_text().partition("## 1. ")
    table = section.partition("| subject |")[2].partition("\n\n")[0]
    written = re.findall(r"`~\.([^`]+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if "~." in row))
    subjects = {each for subject in written for each in expanded(subject)}
    addresses = [channel["address"] for channel in document["channels"].values() if channel["address"]]
    assert len(addresses) == len(set(addresses))
    assert {address.removeprefix("{prefix}.v1.{pool}.") for address in addresses} == subjects


def test_the_asyncapi_document_holds_together() -> None:
    document = json.loads((SCHEMAS / "asyncapi.json").read_text())
    assert document["asyncapi"] == "3.0.0"
    for channel in document["channels"].values():
        parameters = set(re.findall(r"\{(\w+)\}", channel["address"] or ""))
        assert set(channel.get("parameters", {})) == parameters
    for operation in OPERATIONS:
        drawn = document["operations"][operation.name]
        assert drawn["action"] == ("send" if operation.sender == "orchestrator" else "receive")
        assert names(drawn["messages"]) == {operation.message.__name__}
        expected = {operation.answer.__name__} if operation.answer else set()
        refusals = {errors.ErrorAnswer.__name__} if operation.is_refusable else set()
        assert names(drawn.get("reply", {}).get("messages", [])) == expected | refusals
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)):
        assert resolves(document, reference), reference


def names(references: list[dict[str, str]]) -> set[str]:
    return {reference["$ref"].rpartition("/")[2] for reference in references}


def resolves(document: Any, reference: str) -> bool:  # noqa: ANN401 - any JSON value
    file, _, pointer = reference.partition("#/")
    if file:
        return (SCHEMAS / file).is_file()
    for step in pointer.split("/"):
        if step not in document:
            return False
        document = document[step]
    return True


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    files = [SCHEMAS / "asyncapi.json", *(SCHEMAS / "json").iterdir(), *(SCHEMAS / "golden").iterdir()]
    for file in files:
        assert run(["schema", file.stem]) == 0
        assert capsys.readouterr().out == file.read_text()
    assert run(["schema"]) == 0
    listed = capsys.readouterr().out
    assert all(operation.name in listed for operation in OPERATIONS)
    assert run(["schema", "TaskSpecs"]) == 2
    assert (
        capsys.readouterr().err == "callboard: no message or operation is called 'TaskSpecs' (see: callboard schema)\n"
    )
