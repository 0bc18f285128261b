"""JSON schemas that editors check YAML by are those of the models, and fit what ships."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from lenshpc.api.schemas import build_schemas, write_schemas
from lenshpc.config import read_yaml, validate
from lenshpc.launch.sites import Site
from lenshpc.prep.dataset import Dataset
from lenshpc.run.recipe import Recipe

ROOT = Path(__file__).parents[2]
FILES = {
    "recipe": [*ROOT.glob("jobs/*.yaml"), *ROOT.glob("examples/*/*/*.yaml")],
    "dataset": [*ROOT.glob("data_prep/*.yaml")],
    "site": [*ROOT.glob("slurm/*.yaml"), *ROOT.glob("slurm/examples/*.yaml")],
}
SHIPPED = [(kind, path) for kind, paths in FILES.items() for path in sorted(paths)]
NAMES = [str(path.relative_to(ROOT)) for _, path in SHIPPED]
SCHEMAS = build_schemas()
KINDS = {"task": "recipe", "scheduler": "site", "classes": "dataset"}  # by a key that tells
BAD_RANGE = {"keys": {"train.lr": {"log": ["low", 1]}}}
BAD_PLACE = "$.search.keys['train.lr'].log"
MODELS = {"recipe": Recipe, "dataset": Dataset, "site": Site}
PAGES = [ROOT / "README.md", *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")]


def list_faults(kind, value):
    return [
        fault.json_path for fault in jsonschema.Draft7Validator(SCHEMAS[kind]).iter_errors(value)
    ]


def shown_files():
    for page in sorted(PAGES):
        blocks = re.findall(r"^```yaml\n([\s\S]*?)^```", page.read_text("utf-8"), re.MULTILINE)
        for number, block in enumerate(blocks):
            value = yaml.safe_load(block)
            kind = next((kind for key, kind in KINDS.items() if key in value), None)
            if kind and value.get("task") != "centring":  # of the plugin that a page shows
                yield pytest.param(kind, value, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize(("kind", "value"), [*shown_files()])
def test_file_on_a_page_is_one_that_can_be_used(kind, value):
    whole = {"name": "shown", **value}
    assert list_faults(kind, whole) == []
    validate(MODELS[kind], whole, "the page")


def test_schemas_that_ship_are_those_of_the_models(tmp_path):
    write_schemas(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        shipped = (ROOT / "schemas" / path.name).read_text(encoding="utf-8")
        assert shipped == path.read_text(encoding="utf-8"), "run: make schemas"
        jsonschema.Draft7Validator.check_schema(json.loads(shipped))
    assert {path.stem for path in tmp_path.iterdir()} == {*FILES}


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=NAMES)
def test_shipped_file_names_its_schema_first_and_fits_it(kind, path):
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert (path.parent / named[1]).resolve() == ROOT / "schemas" / f"{kind}.json"
    assert list_faults(kind, read_yaml(path)) == []


def test_all_shipped_yaml_is_looked_at():
    folders = ("jobs", "data_prep", "slurm", "examples")
    assert sorted(path for _, path in SHIPPED) == sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.yaml")
    )


@pytest.mark.parametrize(
    ("kind", "value", "faults"),
    [
        ("recipe", {"task": "multiclass", "models": ["resnet18"]}, []),
        ("recipe", {"task": "a-plugin", "models": ["its"], "method": {"any": 1}}, []),
        (
            "recipe",
            {"task": "diffusion", "models": ["x"], "method": {"smote": {}}},
            ["$.method"],
        ),
        ("recipe", {"task": "multiclass", "models": ["x"], "train": {"epoch": 3}}, ["$.train"]),
        ("recipe", {"task": "multiclass", "models": ["x"], "folds": 0}, ["$.folds"]),
        ("recipe", {"task": "multiclass"}, ["$"]),
        (
            "recipe",
            {"task": "multiclass", "models": ["x"], "data": {"augment": [{"noise": {"st": 1}}]}},
            ["$.data.augment[0]"],
        ),
        ("recipe", {"task": "multiclass", "models": ["x"], "search": BAD_RANGE}, [BAD_PLACE]),
        ("site", {"scheduler": "pbs"}, ["$.scheduler"]),
        ("site", {"scheduler": "slurm", "setup": ["module load cuda"]}, []),
        ("dataset", {"name": "x", "classes": [{"name": "a"}]}, ["$"]),
    ],
)
def test_schema_finds_what_the_models_refuse(kind, value, faults):
    assert list_faults(kind, value) == faults
