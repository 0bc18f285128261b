"""Read YAML strictly: a mistake becomes one line with the key and the nearest known one."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lenshpc.errors import ConfigError

KINDS = {"jobs": "recipe", "slurm": "site", "data_prep": "dataset"}

Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """A validated value: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice; YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                where = key_node.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", where)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {type(value).__name__}; expected a mapping of keys")
    return value


def shipped(folder: str) -> dict[str, Path]:
    """Return name → path of the YAML files that ship in `jobs`, `slurm` or `data_prep`."""
    root = Path(str(resources.files(f"lenshpc.{folder}")))
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def locate(folder: str, name: str) -> Path:
    """Return the file of a shipped name, or of a path that ends in `.yaml` or `.yml`."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"no such file: {path}")
        return path
    known = shipped(folder)
    if name not in known:
        raise ConfigError(unknown(KINDS[folder], name, known, hint="or give the path of a .yaml"))
    return known[name]


def unknown(what: str, name: str, known: Sequence[str] | Mapping[str, Any], hint: str = "") -> str:
    """Word the complaint about an unknown name, with the nearest known one."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    guess = f"did you mean {close[0]}? " if close else ""
    tail = f"; {hint}" if hint else ""
    return f"unknown {what} {name!r}; {guess}known: {', '.join(known)}{tail}"


def validate(model: type[Model], value: Mapping[str, Any], source: str) -> Model:
    """Return `value` as a `model`; `source` names where it came from in the error."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_complaint(model, error)}") from error


def _first_complaint(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return unknown("key", where, _keys_beside(model, first["loc"]))
    if first["type"] == "missing":
        return f"key {where!r} is missing"
    found = "" if isinstance(first["input"], dict) else f" (found {first['input']!r})"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where + ': ' if where else ''}{message}{found}"


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the dotted names of the keys that are known where `location` stands."""
    prefix = ""
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model, prefix = annotation, f"{prefix}{part}."
    return [prefix + name for name in model.model_fields]


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the dotted key and the YAML value of a `--set key=value`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"--set {text}: expected key=value, such as train.epochs=3")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: {value!r} is not a YAML value") from error


def override(value: Mapping[str, Any], key: str, leaf: Any) -> dict[str, Any]:
    """Return a copy of `value` with the dotted `key` set to `leaf`."""
    first, _, rest = key.partition(".")
    if not rest:
        return {**value, first: leaf}
    inner = value.get(first, {})
    if not isinstance(inner, Mapping):
        raise ConfigError(f"cannot set {key}: {first} holds a value, not further keys")
    return {**value, first: override(inner, rest, leaf)}
