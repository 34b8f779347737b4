"""Writes the contract artefacts; `--check` only says whether they are fresh.

`json/` has a JSON Schema for each message, `golden/` examples of what is right and what is refused for each operation,
`asyncapi.json` all subjects. They are drawn from the structs and the table of operations, and travel in the wheel, from
where `callboard schema` prints them.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from artefacts import asyncapi, golden
from artefacts.examples import agents, operators, tasks
from artefacts.json_schema import messages, schema_of
from callboard.schemas.errors import ERRORS, ErrorAnswer
from callboard.schemas.operations import OPERATIONS

FOLDER: Final = Path(__file__).parent
EXAMPLES: Final = {**tasks.EXAMPLES, **operators.EXAMPLES, **agents.EXAMPLES}
PROTOCOL_VERSION: Final = "1"


def drawn() -> dict[str, str]:
    """Every file with its text, by its path below this folder."""
    every = messages()
    files: dict[str, Any] = {f"json/{name}.json": schema_of(message) for name, message in every.items()}
    files |= {
        f"golden/{operation.name}.json": golden.document(operation, EXAMPLES[operation.name])
        for operation in OPERATIONS
    }
    files["golden/errors.json"] = errors()
    files["asyncapi.json"] = asyncapi.document(every, PROTOCOL_VERSION)
    return {path: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for path, content in files.items()}


def errors() -> dict[str, Any]:
    """One error of each code, with the number that its header carries."""
    good = {code: golden.builtins(ErrorAnswer(error=error().body())) for code, error in ERRORS.items()}
    return {
        "message": ErrorAnswer.__name__,
        "good": [{"note": code, "number": ERRORS[code].number, "message": message} for code, message in good.items()],
    }


def main() -> int:
    """Write, or with `--check` compare; the exit status."""
    check = "--check" in sys.argv[1:]
    wanted = drawn()
    present = {str(path.relative_to(FOLDER)) for folder in ("json", "golden") for path in (FOLDER / folder).glob("*")}
    stale = sorted(present - set(wanted))
    for name in stale:
        if not check:
            (FOLDER / name).unlink()
    for name, text in wanted.items():
        path = FOLDER / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    for name in stale:
        sys.stdout.write(f"{'stale' if check else 'written'}: schemas/{name}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
