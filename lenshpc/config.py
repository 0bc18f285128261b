"""Read YAML strictly: a mistake becomes one line with the key and the nearest known one."""

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lenshpc.errors import ConfigError, one_line

KINDS = {"jobs": "recipe", "slurm": "site", "data_prep": "dataset"}


class Frozen(BaseModel):
    """A validated value: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def inner_models(cls, field: str, value: Mapping[str, Any]) -> list[type["Frozen"]]:
        """Return the models that a field may hold where these keys stand around it."""
        del value
        if field not in cls.model_fields:
            return []
        annotation = cls.model_fields[field].annotation
        return [one for one in (annotation, *get_args(annotation)) if _is_model(one)]


Model = TypeVar("Model", bound=Frozen)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice, of which YAML would take the last.

    The words yes, no, on and off are text, as in YAML 1.2: `no` is a class of images.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                where = key_node.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", where)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _truth_or_word(_: _StrictLoader, node: yaml.ScalarNode) -> bool | str:
    word = str(node.value)
    return {"true": True, "false": False}.get(word.lower(), word)


_StrictLoader.add_constructor("tag:yaml.org,2002:bool", _truth_or_word)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file."""
    try:
        # _StrictLoader is a SafeLoader: a tag such as !!python/object is refused. It must stay one,
        # since recipes and profiles are handed around.
        value = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)  # noqa: S506
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise ConfigError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {type(value).__name__}; expected a mapping of keys")
    return value


def find_shipped(folder: str) -> dict[str, Path]:
    """Return name → path of the YAML files that ship in `jobs`, `slurm` or `data_prep`."""
    root = Path(str(resources.files(f"lenshpc.{folder}")))
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def locate(folder: str, name: str) -> Path:
    """Return the file of a shipped name, of a path that ends in `.yaml`, or PACKAGE:FILE.yaml."""
    if name.endswith((".yaml", ".yml")):
        path = _find_in_package(name) or Path(name)
        if not path.is_file():
            raise ConfigError(f"no such file: {path}")
        return path
    known = find_shipped(folder)
    if name not in known:
        raise ConfigError(unknown(KINDS[folder], name, known, hint="or give the path of a .yaml"))
    return known[name]


def _find_in_package(name: str) -> Path | None:
    """Return the path that PACKAGE:FILE.yaml stands for; None of any other text."""
    found = re.fullmatch(r"([A-Za-z_][\w.]*):([^/:]+)", name)
    if found is None:
        return None
    package, file = found.groups()
    try:
        return Path(str(resources.files(package))) / file
    except (ImportError, TypeError) as error:  # TypeError: a module of one file holds no others
        raise ConfigError(f"{name}: no package {package} can be imported ({error})") from error


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
        raise ConfigError(f"{source}: {_first_complaint(model, value, error)}") from error


def _first_complaint(model: type[Frozen], value: Mapping[str, Any], error: ValidationError) -> str:
    first = error.errors()[0]
    *parents, parent = _models_along(model, value, first["loc"])
    where = ".".join(
        str(part) for part in first["loc"] if part not in map(_kind, [*parents, parent])
    )
    if first["type"] == "extra_forbidden":
        prefix = where[: where.rfind(".") + 1]
        known = [
            prefix + name for name in (parent.model_fields if parent else ()) if name != "kind"
        ]
        return unknown("key", where, known)
    if first["type"] == "missing":
        return f"key {where!r} is missing"
    found = "" if isinstance(first["input"], dict) else f" (found {first['input']!r})"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where + ': ' if where else ''}{message}{found}"


def _models_along(
    model: type[Frozen], value: Any, location: tuple[int | str, ...]
) -> list[type[Frozen] | None]:
    """Return the models that hold the parts of a location but for its last; None where unknown."""
    along: list[type[Frozen] | None] = [model]
    for part in location[:-1]:
        holder = along[-1]
        if holder is None or part == _kind(holder):
            continue  # pydantic puts the kind that it chose into the location
        around = value if isinstance(value, Mapping) else {}
        inner = holder.inner_models(str(part), around)
        value = around.get(part)
        fits = [one for one in inner if len(inner) == 1 or _kind(one) in location]
        along.append(fits[0] if fits else None)
    return along


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Frozen)


def _kind(model: type[Frozen] | None) -> Any:
    """Return what tells a model from the others of its union."""
    field = model.model_fields.get("kind") if model else None
    return field.default if field else None


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return the dotted key and the YAML value of a `--set key=value`."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"--set {text}: expected key=value, such as train.epochs=3")
    try:
        return key, yaml.load(value, _StrictLoader)  # noqa: S506
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
