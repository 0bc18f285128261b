"""All messages of errors in one file, `messages.txt`, to be read in one go.

LENSHPC_WRITE_GOLDEN=1 writes it anew.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import lenshpc
from lenshpc import errors
from lenshpc.cli.main import main
from lenshpc.launch.rules import RULES, UNKNOWN

SOURCE = Path(lenshpc.__file__).parent
FILE = Path(__file__).with_name("messages.txt")
NAMES = {name for name, one in vars(errors).items() if isinstance(one, type)} | {"ValueError"}
CLUMSY = (
    r"\b(mend|mends|mended|lame|anew|in vain|leave [\w`-]+ away|is no (store|run|file|folder))\b"
)


def messages() -> list[str]:
    """Return the words of each error in the package, in the order of files and lines."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        told = list(dict.fromkeys(_find(ast.parse(path.read_text(encoding="utf-8")))))
        if told:
            found += [f"# {path.relative_to(SOURCE)}", *told, ""]
    return found


def _find(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in NAMES and node.args:
            words = _words(node.args[0])
            if " " in words:
                yield " ".join(words.split())


def _name(function: ast.expr) -> str:
    return getattr(function, "id", getattr(function, "attr", ""))


def _words(node: ast.expr) -> str:
    """Return a text with `{…}` for what is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return f"{{{_shorten(ast.unparse(node.value))}}}"
    if isinstance(node, ast.BinOp):
        return _words(node.left) + _words(node.right)
    return f"{{{_shorten(ast.unparse(node))}}}"


def _shorten(code: str) -> str:
    """Return the last name of an expression: `self._path.name` says `name`."""
    names = re.findall(r"[a-z]\w*", code)
    return names[-1].strip("_") if names else "…"


def test_file_has_all_messages() -> None:
    found = "\n".join(messages())
    if os.environ.get("LENSHPC_WRITE_GOLDEN"):
        FILE.write_text(found, encoding="utf-8")
    assert found == FILE.read_text(encoding="utf-8"), "write it anew with LENSHPC_WRITE_GOLDEN=1"


def test_helps_and_failures_are_plain() -> None:
    failures = [f"{one.meaning}; {one.advice}" for one in (*RULES, UNKNOWN)]
    helps = [
        text
        for command in main.commands.values()
        for text in (command.help, *(getattr(one, "help", "") for one in command.params))
    ]
    assert len(failures) > 20
    assert len(helps) > 100
    told = [" ".join(text.split()) for text in (*failures, *helps) if text]
    assert [text for text in told if re.search(CLUMSY, text)] == []


def test_messages_are_plain() -> None:
    told = [line for line in messages() if line and not line.startswith("#")]
    assert len(told) > 300
    assert [line for line in told if re.search(CLUMSY, line)] == []
    assert [line for line in told if re.search(r"\w[.!]$", line)] == []
