"""The sizes and names that keep the code readable."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import lenshpc

ROOT = Path(lenshpc.__file__).parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 60
ROLES = {"ResultRow", "RunEvaluation"}  # every task has its own
# `…ed` (but not `…eed`: seed, deepspeed) and the irregular ones, as a name's first word
PARTICIPLE = re.compile(
    r"_*([a-z]*[^e]ed|begun|broken|built|chosen|done|drawn|found|given|gone|held|hidden|kept|known"
    r"|learnt|left|lost|made|seen|sent|shown|spelt|spent|taken|thrown|told|written)(_|$)"
)
NOUNS = {"evaluated_rows", "expected_calibration_error", "learnt_labels", "scored_rows"}


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


def definitions(kind):
    """Yield the module and the node of each definition in the package."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield name, node


def is_value(node):
    """Tell whether it is read as a property, or checks values that pydantic hands to it."""
    decorators = (ast.unparse(decorator) for decorator in node.decorator_list)
    return any(re.match(r"(cached_)?property|\w+_validator", one) for one in decorators)


def test_class_names_are_unique_but_for_the_roles_of_tasks():
    counts = Counter(node.name for _, node in definitions(ast.ClassDef))
    assert {name for name, count in counts.items() if count > 1} == ROLES


def test_function_names_are_verbs_and_not_participles():
    found = [(name, node.name) for name, node in definitions(ast.FunctionDef) if not is_value(node)]
    assert [one for one in found if PARTICIPLE.match(one[1]) and one[1] not in NOUNS] == []
    assert {name for _, name in found} >= NOUNS


def test_text_is_formatted_and_not_worded():
    found = [node.name for _, node in definitions(ast.FunctionDef)]
    assert [name for name in found if re.match("_*word(_|$)", name)] == []
