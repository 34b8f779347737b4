"""The measurements: pure functions of bytes. Agents make them far away, the demonstration makes them again to check.

Results are JSON values, so that both compare with `==`.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable
from typing import TypedDict


class Text(TypedDict):
    """Lines, and characters of the longest one."""

    lines: int
    longest: int


class Syntax(TypedDict):
    """What the syntax tree of a source holds.

    Attributes:
        code: Lines that are not blank when it is written anew from the tree: no comments, one layout for all.
        functions: And methods.
        classes: Also those within others.
        nesting: How many statements stand around the most nested one.
    """

    code: int
    functions: int
    classes: int
    nesting: int


Measured = Text | Syntax | str
"""The result of any task of the demonstration; `str` is a checksum."""


def measure_text(source: bytes) -> Text:
    """What can be counted without understanding it."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    # Of bytes: `str.splitlines` also splits at form feeds, which the standard library has.
    lines = [line.decode(encoding) for line in source.splitlines()]
    return Text(lines=len(lines), longest=max(map(len, lines), default=0))


def measure_syntax(source: bytes) -> Syntax:
    """What the syntax tree says.

    Raises:
        SyntaxError: it is not Python of the running version.
    """
    tree = ast.parse(source)
    functions = classes = nesting = 0
    pending: list[tuple[ast.AST, int]] = [(tree, 0)]
    while pending:
        parent, around = pending.pop()
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, ast.stmt):
                functions += isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                classes += isinstance(child, ast.ClassDef)
                level = around - _is_elif(parent, child)
                nesting = max(nesting, level)
                pending.append((child, level + 1))
            elif isinstance(child, ast.excepthandler | ast.match_case):
                pending.append((child, around))
    code = sum(bool(line.strip()) for line in ast.unparse(tree).splitlines())
    return Syntax(code=code, functions=functions, classes=classes, nesting=nesting)


def checksum(sources: Iterable[bytes]) -> str:
    """SHA-256 over all of them, in hexadecimal."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source)
    return digest.hexdigest()


def _is_elif(parent: ast.AST, child: ast.stmt) -> bool:
    """The tree has `elif` as an `if` inside the `else`; only its column tells them apart."""
    return isinstance(parent, ast.If) and isinstance(child, ast.If) and child.col_offset == parent.col_offset
