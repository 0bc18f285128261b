"""The sizes that keep the code readable."""

import ast
from pathlib import Path

import pytest

import lenshpc

ROOT = Path(lenshpc.__file__).parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 60


def functions(text):
    """Yield name and number of lines of each function, without its decorators."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("name", MODULES)
def test_module_begins_with_what_it_is_and_is_short(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    long = {name: lines for name, lines in functions(text) if lines > MAX_FUNCTION_LINES}
    assert long == {}
