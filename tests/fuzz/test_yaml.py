"""Recipes, site profiles, dataset files and --set of any content: a value, or one line."""

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st
from tries import try_in_bounds

from lenshpc.config import Frozen, find_shipped, override, parse_assignment
from lenshpc.errors import LensHpcError, one_line
from lenshpc.launch.sites import load_site
from lenshpc.prep.dataset import load_dataset
from lenshpc.registry import find_task, task_names
from lenshpc.run.recipe import Recipe, load_recipe

QUICK, WHOLE = 150, 10_000
MAX_LINE = 4000  # characters of what is told; that names all known keys, or a user's own words
LOADERS = {"jobs": load_recipe, "slurm": load_site, "data_prep": load_dataset}
SHIPPED = [(folder, path) for folder in LOADERS for path in find_shipped(folder).values()]
NASTY = [
    *("", "~", "null", "true", "no", "''", '"', "'", "{", "}", "[", "]", "[]", "{}", "[[[[", ":"),
    *("- - -", "? ", "!!set {a}", "!!python/name:os.system", "!!binary aGk=", "! x", "|", ">-"),
    *(
        "&a",
        "*a",
        "&a [*a]",
        "<<: *a",
        "%YAML 9.9",
        "---",
        "...",
        "#",
        "\t",
        "\0",
        "\x85",
        "\ufeff",
    ),
    *("0", "-1", "1", "2", "010", "0x1F", "0o17", "1:30", "1_000", "2026-01-01", "1e-400", "1e400"),
    *(".inf", "-.inf", ".nan", "1.5", "1e9", "4294967296", "9223372036854775807", "9" * 20),
    *(
        "9" * 5000,
        "1e" + "9" * 400,
        "a" * 5000,
        "[" * 200,
        "{a: " * 200,
        '"\\ud800"',
        "é",
        "😀",
        "\ufeff",
    ),
    *("😀", "\ufeff"),
    *("[a, a]", "{a: 1, a: 2}", "{1: 2}", "{[a]: b}", "{kind: affine}", "[{affine: {scale: 9}}]"),
    *("../x", "/dev/null", "a.b.c", "a/b.py:C", "C@123456789abc", "resnet18+x", "x; rm", "$(x)"),
]
line_break = st.sampled_from(["\n", "\r\n", "\r", ""])
mutation = st.tuples(
    st.sampled_from(["flip", "value", "line", "drop", "twice", "indent", "nest", "cut", "join"]),
    st.integers(0, 1 << 20),
    st.sampled_from(NASTY) | st.text(max_size=12),
)
mutations = st.tuples(
    st.integers(0, 1 << 10), st.lists(mutation, min_size=1, max_size=4), line_break
)


def mutate(lines, how, place, text):
    """Change a list of lines in one place."""
    at = place % max(len(lines), 1)
    line = lines[at] if lines else ""
    column = place % max(len(line), 1)
    key = line.partition(":")[0]
    lines[at : at + 1] = {
        "flip": [line[:column] + (text[:1] or "\x07") + line[column + 1 :]],
        "value": [f"{key}: {text}"],
        "line": [line, " " * (place % 5) + text],
        "drop": [],
        "twice": [line, line],
        "indent": [" " * (place % 7) + line],
        "nest": [f"{key}: [{{{line.strip()}}}, {text}]"],
        "cut": [line[:column]],
        "join": [line + text],
    }[how]


def check_told(error):
    told = one_line(error)
    assert told.isprintable()
    assert 0 < len(told) < MAX_LINE, told


def check_file(folder, choice):
    """Load a shipped file with changes made to it; it is a sound value or one line."""
    number, changes, end = choice
    kind, path = SHIPPED[number % len(SHIPPED)]
    lines = path.read_text(encoding="utf-8").splitlines()
    for change in changes:
        mutate(lines, *change)
    mine = folder / "mine.yaml"
    mine.write_bytes((end or "\n").join(lines).encode(errors="surrogatepass"))
    try:
        value = LOADERS[kind](str(mine))
    except LensHpcError as error:
        check_told(error)
    else:
        check_value(value)


def check_value(value):
    """Assert that a value holds what JSON does, and is read back as it was."""
    text = json.dumps(value.model_dump(mode="json", by_alias=True), allow_nan=False)
    assert type(value).model_validate_json(text) == value


def keys_of(model, prefix=""):
    """Yield the dotted keys of a settings class, those of its sections too."""
    for name in model.model_fields:
        yield prefix + name
        for inner in model.inner_models(name, {}):
            if issubclass(inner, Frozen):
                yield from keys_of(inner, f"{prefix}{name}.")


KEYS = [
    *dict.fromkeys(
        [
            *keys_of(Recipe),
            *(key for task in task_names() for key in keys_of(find_task(task).settings, "method.")),
        ]
    )
]
RECIPES = list(find_shipped("jobs"))
dotted = st.sampled_from(KEYS) | st.lists(
    st.sampled_from([*KEYS, "", "a", ".", "variants"]) | st.text(max_size=5), max_size=4
).map(".".join)
assignments = st.tuples(
    st.integers(0, 1 << 10),
    st.lists(
        st.tuples(dotted, st.sampled_from(NASTY) | st.text(max_size=12)).map("=".join)
        | st.text(max_size=30),
        min_size=1,
        max_size=3,
    ),
)


def check_assignments(choice):
    """Load a shipped recipe with settings changed; it is a sound value or one line."""
    number, texts = choice
    try:
        changes = [parse_assignment(text) for text in texts]
        for key, leaf in changes:
            override({}, key, leaf)
        value = load_recipe(RECIPES[number % len(RECIPES)], changes)
    except LensHpcError as error:
        check_told(error)
    else:
        check_value(value)


@pytest.mark.parametrize("number", [QUICK, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_changed_file_is_a_value_or_one_line(number, tmp_path):
    try_in_bounds(number, mutations, lambda choice: check_file(tmp_path, choice))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("number", [QUICK, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_settings_on_the_command_line_are_a_value_or_one_line(number):
    try_in_bounds(number, assignments, check_assignments)


@pytest.mark.parametrize("number", [QUICK, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_bytes_that_are_no_yaml_are_one_line(number, tmp_path):
    def check(content):
        mine = Path(tmp_path, "mine.yaml")
        mine.write_bytes(content)
        for load in LOADERS.values():
            try:
                load(str(mine))
            except LensHpcError as error:
                check_told(error)

    try_in_bounds(number, st.binary(max_size=200) | st.text(max_size=100).map(str.encode), check)
