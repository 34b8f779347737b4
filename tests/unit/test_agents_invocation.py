"""What a command is called with: what templates make of a task, and what a task cannot make of them."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.agents.context import TaskContext
from callboard.agents.errors import TaskFailed
from callboard.agents.invocation import FILLED_BYTES, INPUT_BYTES, Invocation
from callboard.agents.progress_lines import LINE_BYTES, ProgressLines
from callboard.schemas.agents import Assign
from callboard.schemas.codec import encode
from callboard.schemas.errors import ConfigurationError
from callboard.schemas.tasks import Progress
from callboard.schemas.vocabulary import TaskPriority


def context(
    payload: object = None,
    *,
    heard: list[Progress] | None = None,
    metadata: dict[str, str] | None = None,
    description: str | None = None,
) -> TaskContext:
    offer = Assign(
        epoch=0,
        task_id="t-1",
        attempt=2,
        type="lint",
        payload=msgspec.Raw(encode(payload)),
        priority=TaskPriority.HIGH,
        metadata=metadata or {},
        description=description,
    )
    told: list[Progress] = [] if heard is None else heard
    return TaskContext(offer, told.append, lambda *_: None)


def argument(template: str, ctx: TaskContext) -> str:
    return Invocation.parse(("ls", "--", template), None, {}).of(ctx).argv[2]


@pytest.mark.parametrize(
    ("template", "payload", "expected"),
    [
        ("{payload}", "as it is", "as it is"),
        ("{payload}", None, ""),
        ("{payload}", {"a": [1, True, None]}, '{"a":[1,true,null]}'),
        ("{payload}", 2**70, str(2**70)),
        ("{payload.a.1.b}", {"a": [0, {"b": 7}]}, "7"),
        ("{payload.0}", {"0": "a key"}, "a key"),
        ("{payload.ä ö}", {"ä ö": "name"}, "name"),
        ("x={payload.x},y={payload.y};", {"x": 1.5, "y": False}, "x=1.5,y=false;"),
        ("{{payload}} {{}}", "unused", "{payload} {}"),
        ("{{{payload}}}", "inner", "{inner}"),
        ("{payload}", "{task_id} {{ $(id) `id` ; | \n '\"", "{task_id} {{ $(id) `id` ; | \n '\""),
        ("{task_id}/{attempt}/{type}/{priority}", None, "t-1/2/lint/high"),
        ("{description}.", None, "."),
    ],
)
def test_a_template_is_filled_in(template: str, payload: object, expected: str) -> None:
    assert argument(template, context(payload)) == expected


def test_metadata_and_description_are_fields() -> None:
    assert argument("{metadata.a.b} {description}", context(metadata={"a.b": "x"}, description="d")) == "x d"


@pytest.mark.parametrize(
    "template",
    ["{", "}", "{}", "{payload", "payload}", "{payload.}", "{payload..a}", "{.payload}", "{ payload }", "{paylod}",
     "{task_id.x}", "{metadata}", "{metadata.}", "{payload!r}", "{payload[0]}", "{{payload}", "{__class__}"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["argument 1", "the input", "variable X"])
def test_a_bad_template_is_refused_at_once_saying_where(template: str, place: str) -> None:
    argv = ("ls", template) if place == "argument 1" else ("ls",)
    stdin = template if place == "the input" else None
    with pytest.raises(ConfigurationError) as refused:
        Invocation.parse(argv, stdin, {"X": template} if place == "variable X" else {})
    assert str(refused.value).startswith(f"{place}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("template", "payload"),
    [
        ("{payload.a}", {"b": 1}),
        ("{payload.a}", [1]),
        ("{payload.a}", "text"),
        ("{payload.a}", None),
        ("{payload.1}", [0]),
        ("{payload.-1}", [0]),
        ("{payload.01}", [0, 1]),
        ("{payload.99999999999999}", [0]),
        ("{payload.__class__}", {}),
        ("{metadata.a}", None),
        ("{payload}", "a\0b"),
    ],
)
def test_a_task_without_the_field_fails_for_good(template: str, payload: object) -> None:
    with pytest.raises(TaskFailed) as failed:
        argument(template, context(payload))
    assert (failed.value.error.type, failed.value.error.retryable) == ("invalid_payload", False)


@pytest.mark.parametrize("templates", [("{payload}",), ("{metadata.none}{payload}",), ("-v", "{payload}", "--")])
def test_a_field_does_not_become_an_option(templates: tuple[str, ...]) -> None:
    invocation = Invocation.parse(("ls", *templates), None, {})
    metadata = {"none": ""}
    assert "a" in invocation.of(context("a", metadata=metadata)).argv
    for option in ("-l", "--help", "-"):
        with pytest.raises(TaskFailed, match="would be taken for an option"):
            invocation.of(context(option, metadata=metadata))


def test_a_field_may_begin_with_a_hyphen_where_it_is_no_option() -> None:
    invocation = Invocation.parse(("ls", "--name={payload}", "--", "{payload}"), None, {})
    assert invocation.of(context("-x")).argv[1:] == ("--name=-x", "--", "-x")


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=50))
def test_whatever_the_text_it_stays_within_its_argument_and_variable(text: str) -> None:
    call = Invocation.parse(("ls", "a={payload}", "b"), "in:{payload}", {"V": "{payload}"}).of(context(text))
    assert call.argv == ("ls", f"a={text}", "b")
    assert call.env["V"] == text
    assert call.stdin.decode() == f"in:{text}"


def test_what_templates_make_is_bounded() -> None:
    half = "x" * (FILLED_BYTES // 2)
    twice = Invocation.parse(("ls", "{payload}"), None, {"V": "{payload}"})
    assert twice.of(context(half)).env["V"] == half
    with pytest.raises(TaskFailed, match=f"more than {FILLED_BYTES} bytes"):
        twice.of(context(half + "x"))
    with pytest.raises(TaskFailed, match=f"at most {INPUT_BYTES}"):
        Invocation.parse(("ls",), "{payload}" * 9, {}).of(context("x" * (INPUT_BYTES // 8)))


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "echo {payload}"),
        ("bash", "-o", "pipefail", "-ec", "echo '{payload.a}' | cat"),
        ("python3", "-c{payload}"),
        (sys.executable, "-W", "error", "-c", "print('{payload}')"),
        ("python3", "{payload.script}"),
    ],
)
def test_a_task_cannot_write_a_part_of_a_script(command: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"no field may be part of what .* runs"):
        Invocation.parse(command, None, {})


@pytest.mark.parametrize(
    "command", [("sh", "-c", 'echo "$1"', "x", "{payload}"), ("python3", "-m", "json.tool", "-c", "{payload}")]
)
def test_a_task_may_write_the_arguments_of_a_script(command: tuple[str, ...]) -> None:
    assert Invocation.parse(command, None, {}).of(context("p")).argv[-1] == "p"


@pytest.mark.parametrize("name", ["", "A B", "1A", "A=B", "Ä", "CALLBOARD_TASK_ID", "CALLBOARD_X", "A\n"])
def test_a_bad_name_of_a_variable_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="variable"):
        Invocation.parse(("ls",), None, {name: "x"})


def test_a_program_given_by_a_path_is_meant_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert Invocation.parse(("./tool",), None, {}).of(context()).argv == (str(tmp_path / "tool"),)


def test_no_command_and_a_program_of_the_task_are_refused() -> None:
    for command in ((), ("{payload}",)):
        with pytest.raises(ConfigurationError, match=r"no (such )?command"):
            Invocation.parse(command, None, {})


def progress(prefix: str | None, *pieces: bytes) -> list[tuple[float | None, str | None]]:
    heard: list[Progress] = []
    lines = ProgressLines(prefix, context(heard=heard))
    for piece in pieces:
        lines.feed(piece)
    return [(one.percent, one.message) for one in heard]


@pytest.mark.parametrize(
    ("prefix", "pieces", "expected"),
    [
        ("", [b"one\n", b"tw", b"o\n"], [(None, "one"), (None, "two")]),
        ("", [b"one\ntwo\n\n"], [(None, "two")]),
        ("", [b"no end"], []),
        ("", [b" 5%\r", b" 40.5% parsing\r"], [(5, None), (40.5, "parsing")]),
        ("", [b"100.5%|##|\n", b"101%\n", b"1000%\n"], [(100, "|##|"), (None, "101%"), (None, "1000%")]),
        ("P:", [b"noise\nP: 7% a\nnoise\n", b"P:\n", b"P:b\n"], [(7, "a"), (None, "b")]),
        ("", [b"gr\xc3", b"\xbc\xc3\x9fe\n"], [(None, "grüße")]),
        ("", [b"\xff\0x\n"], [(None, "\ufffd\ufffdx")]),
        ("", [b"y" * LINE_BYTES, b"y\n"], [(None, "y" * LINE_BYTES)]),
        (None, [b"one\n"], []),
    ],
)
def test_lines_become_progress(
    prefix: str | None, pieces: list[bytes], expected: list[tuple[float | None, str | None]]
) -> None:
    assert progress(prefix, *pieces) == expected


def test_a_task_that_is_cancelled_tells_nothing_more() -> None:
    heard: list[Progress] = []
    ctx = context(heard=heard)
    ctx.cancel()
    ProgressLines("", ctx).feed(b"late\n")
    assert heard == []
