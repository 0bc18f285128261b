"""JSON schemas of recipes, dataset files and site profiles, which editors check YAML against.

They say what keys there are, their types and their bounds; what keys mean for each other is checked
when a file is read.
"""

import json
from pathlib import Path
from typing import Any

from lenshpc.config import Frozen
from lenshpc.launch.sites import Site
from lenshpc.prep.dataset import Dataset
from lenshpc.registry import find_task, plugin_entries, task_names
from lenshpc.run.augmentations import AUGMENTATIONS
from lenshpc.run.recipe import Recipe

DIALECT = "http://json-schema.org/draft-07/schema#"  # what editors of YAML read
STEPS = {"augment", "augment_minority", "strong"}


def build_schemas() -> dict[str, dict[str, Any]]:
    """Return `recipe`, `dataset` and `site`, each with its JSON schema (draft 7)."""
    schemas = {
        "recipe": _describe_recipe(),
        "dataset": _describe(Dataset),
        "site": _describe(Site),
    }
    return {name: _number_items(schema) for name, schema in schemas.items()}


def write_schemas(folder: Path) -> None:
    """Write each schema to NAME.json in a folder; those that are there are replaced."""
    for name, schema in build_schemas().items():
        text = json.dumps(schema, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def _describe(model: type[Frozen]) -> dict[str, Any]:
    schema = model.model_json_schema()
    # A file's name is the name of what it holds, unless it says another.
    if model is not Dataset:
        schema["required"] = [key for key in schema["required"] if key != "name"]
    return {"$schema": DIALECT, **schema}


def _number_items(value: Any) -> Any:
    """Return a schema with the items of a pair as draft 7 has them: a list."""
    if isinstance(value, list):
        return [_number_items(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        "items" if key == "prefixItems" else key: _number_items(one) for key, one in value.items()
    }


def _describe_recipe() -> dict[str, Any]:
    """Return the recipe's schema, in which `method` has the keys of the task that is named.

    The tasks are ours: files that ship are the same whatever plugins are installed.
    """
    tasks = sorted({*task_names()} - {entry.name for entry in plugin_entries()})
    schema = _describe(Recipe)
    task = schema["properties"]["task"]
    schema["properties"]["task"] = {**task, "anyOf": [{"enum": tasks}, {"type": "string"}]}
    schema["allOf"] = []
    for name in tasks:
        settings = find_task(name).settings.model_json_schema()
        schema["$defs"] |= settings.pop("$defs", {})
        schema["$defs"][settings["title"]] = settings
        schema["allOf"].append(
            {
                "if": {"properties": {"task": {"const": name}}, "required": ["task"]},
                "then": {"properties": {"method": {"$ref": f"#/$defs/{settings['title']}"}}},
            }
        )
    steps = _list_steps(schema["$defs"])
    for section in [schema["$defs"][name] for name in ("Data", "Consistency")]:
        for key in STEPS & {*section["properties"]}:
            named = [step["kind"] for step in section["properties"][key]["default"]]
            section["properties"][key] |= {"items": steps, "default": named}
    return schema


def _list_steps(models: dict[str, Any]) -> dict[str, Any]:
    """Return a step of augmentation as YAML has it: `noise`, or `noise: {std: 0.1}`."""
    names = {name: models[kind.__name__] for name, kind in AUGMENTATIONS.items()}
    ranged = {}
    for name, model in names.items():
        ranges = {key: value for key, value in model["properties"].items() if key != "kind"}
        ranged[name] = {
            "type": ["object", "null"],
            "description": model["description"],
            "properties": ranges,
            "additionalProperties": False,
        }
    mapping = {
        "type": "object",
        "properties": ranged,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [{"enum": sorted(names)}, mapping]}
