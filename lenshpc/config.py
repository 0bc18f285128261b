"""Read YAML strictly: a mistake becomes one line with the key and the nearest known one."""

import difflib
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lenshpc.errors import ConfigError, one_line

KINDS = {"jobs": "recipe", "slurm": "site", "data_prep": "dataset"}
MAX_BYTES = 1 << 18  # of a YAML file
MAX_DEPTH = 32  # of values in each other, and of parts in a dotted key
MAX_VALUES = 100_000  # of a YAML file, each alias written out
MAX_DIGITS = 30  # of a whole number, with the zeros before it
MAX_SHOWN = 80  # characters of a wrong value

# Bounded, so that nothing which is computed from a setting leaves 64 bits or a float.
Count = Annotated[int, Field(ge=1, le=10**9)]
MAX_SIDE = 1 << 14  # of an image, in pixels
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy and scikit-learn take
Positive = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]

# What another tool, or the field, calls what has another name here.
MEANT = {
    "rotate": "affine",
    "rotation": "affine",
    "translate": "affine",
    "scale": "affine",
    "flip": "flips",
    "blur": "psf_jitter",
    "brightness": "contrast",
}
_KEY_DEPTH = 2  # of a section in a section
# In place of pydantic's words.
_EXPECTED = {
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "expected a whole number"
    ),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "expected a list"),
    **dict.fromkeys(
        ("dict_type", "model_type", "model_attributes_type", "mapping_type"),
        "expected keys and values",
    ),
    "string_type": "expected text",
    "string_pattern_mismatch": "expected text that matches {pattern}",
    "finite_number": "expected a finite number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "too_short": "expected at least {min_length} values",
    "too_long": "expected at most {max_length} values",
}
# What pydantic puts into a location for the part of a union that it tried.
_UNION_TAG = r"constrained-\w+|[\w-]+\[.*\]|int|float|str|bool"


class Frozen(BaseModel):
    """A validated value: immutable, closed to keys it does not know, its numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def inner_models(cls, field: str, value: Mapping[str, Any]) -> list[type["Frozen"]]:
        """Return the models that a field may hold where these keys stand around it."""
        del value
        if field not in cls.model_fields:
            return []
        annotation = cls.model_fields[field].annotation
        return [one for one in (annotation, *get_args(annotation)) if _is_model(one)]


Model = TypeVar("Model", bound=Frozen)

_CORE = "tag:yaml.org,2002:"
# YAML 1.2's own: the tag of a plain word, what it looks like, what it may begin with
_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
}


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader for the values of YAML 1.2: null, truth, numbers, text, lists and mappings.

    Yes, no, on, off, 1:30 and 2026-01-01 are text: `no` is a class of images. Refused are keys that
    stand twice, of which YAML would take the last, or are no text; numbers that are not finite or
    pass 64 bits; tags; aliases within what has an anchor, since ten in each other fill any memory;
    and values that lie deeper than `MAX_DEPTH` in each other.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class has it
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}
    depth = 0
    num_values = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[str, int] = {}  # of what each anchor names, in values
        self._anchor = ""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.num_values += self._measure_alias(event)
        elif event.tag is not None:
            raise _refuse(f"tag {event.tag} is not read; leave it out", event)
        if self.depth == MAX_DEPTH:
            raise _refuse(f"values lie more than {MAX_DEPTH} deep in each other", event)
        if self.num_values >= MAX_VALUES:
            raise _refuse(f"there are more than {MAX_VALUES} values, aliases written out", event)
        before, outer = self.num_values, self._anchor
        self.depth, self.num_values = self.depth + 1, self.num_values + 1
        self._anchor = outer or event.anchor or ""
        node = super().compose_node(parent, index)
        self.depth, self._anchor = self.depth - 1, outer
        if event.anchor:
            self._sizes.setdefault(event.anchor, self.num_values - before)
        return node

    def _measure_alias(self, event: Any) -> int:
        # Refused within anything that has an anchor: so no value is written out twice over, none
        # holds itself, and none gets deeper than two limits.
        if self._anchor:
            told = f"alias *{event.anchor} lies within &{self._anchor}; write out its value"
            raise _refuse(told, event)
        return self._sizes.get(event.anchor, 0)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag != f"{_CORE}str":
                raise _refuse("a key is no text; quote it", key_node)
            if key_node.value in seen:
                raise _refuse(f"{_shorten(key_node.value)} is given twice", key_node)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _refuse(told: str, where: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, told, where.start_mark)


def _construct_truth(_: _StrictLoader, node: yaml.ScalarNode) -> bool:
    return str(node.value).lower() == "true"


def _construct_whole(_: _StrictLoader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    # The length first: Python refuses to read thousands of digits, with an error of its own.
    fits = len(text) <= MAX_DIGITS
    value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if fits else 2**63
    if abs(value) >= 2**63:
        raise _refuse(f"{_shorten(text)} is no number of 64 bits", node)
    return value


def _construct_float(_: _StrictLoader, node: yaml.ScalarNode) -> float:
    text = str(node.value).lower()
    value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise _refuse(f"{_shorten(text)} is no finite number", node)
    return value


def _construct_text(_: _StrictLoader, node: yaml.ScalarNode) -> str:
    text = str(node.value)
    try:
        text.encode()
    except UnicodeEncodeError as error:  # "\\ud800", half of a character
        raise _refuse(f"{_shorten(text)} is no text that can be written", node) from error
    return text


for _name, (_looks, _first) in _PLAIN.items():
    _StrictLoader.add_implicit_resolver(_CORE + _name, re.compile(rf"^(?:{_looks})\Z"), _first)
for _name, _construct in {
    "null": _StrictLoader.construct_yaml_null,
    "bool": _construct_truth,
    "int": _construct_whole,
    "float": _construct_float,
    "str": _construct_text,
    "seq": _StrictLoader.construct_yaml_seq,
    "map": _StrictLoader.construct_yaml_map,
}.items():
    _StrictLoader.add_constructor(_CORE + _name, _construct)


def _shorten(value: Any) -> str:
    """Return a value as Python writes it, its middle left out where it is long."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = MAX_SHOWN
    return writer.repr(value)


def _parse(text: str) -> Any:
    # _StrictLoader is a SafeLoader: a tag such as !!python/object is refused. It must stay one,
    # since recipes and profiles are handed around.
    return yaml.load(text, _StrictLoader)  # noqa: S506


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file of at most `MAX_BYTES`."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES} bytes, too many for settings")
        value = _parse(content.decode("utf-8"))
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
        # As `doctor` writes a profile into the current folder.
        mine = (Path(f"{name}.yaml"), Path(folder) / f"{name}.yaml")
        found = next((str(path) for path in mine if path.is_file()), "the path of a .yaml")
        raise ConfigError(unknown(KINDS[folder], name, known, hint=f"or give {found}"))
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
    near = find_near(name, known)
    guess = f"did you mean {near[0]}? " if near else ""
    tail = f"; {hint}" if hint else ""
    return f"unknown {what} {_shorten(name)}; {guess}known: {', '.join(known)}{tail}"


def find_near(name: str, known: Iterable[str], num: int = 1) -> list[str]:
    """Return the known names that are most likely meant, at most `num`."""
    names = list(known)
    meant = [MEANT.get(name.lower(), ""), *(one for one in names if _spell(one) == _spell(name))]
    sure = list(dict.fromkeys(one for one in meant if one in names))
    return sure[:num] or difflib.get_close_matches(name.lower(), names, n=num, cutoff=0.65)


def _spell(name: str) -> str:
    """Return a name without what tells `ResNet-34` from `resnet34`."""
    return re.sub(r"[-_ ]", "", name.lower())


def validate(model: type[Model], value: Mapping[str, Any], source: str) -> Model:
    """Return `value` as a `model`; `source` names where it came from in the error."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_complaint(model, value, error)}") from error


def _first_complaint(model: type[Frozen], value: Mapping[str, Any], error: ValidationError) -> str:
    first = error.errors()[0]
    *parents, parent = _models_along(model, value, first["loc"])
    kinds = {*map(_kind, [*parents, parent])}
    location = [str(part) for part in first["loc"] if part not in kinds]
    where = ".".join(part for part in location if not re.fullmatch(_UNION_TAG, part))
    if first["type"] == "extra_forbidden":
        prefix, _, last = where.rpartition(".")
        fields = [key for key in (_keys(parent) if parent else ()) if key != "kind"]
        known = [f"{prefix}.{name}" if prefix else name for name in fields]
        elsewhere = [key for key in _list_keys(model, value) if key.rpartition(".")[2] == last]
        if elsewhere and not find_near(last, fields):
            return f"unknown key {_shorten(where)}; did you mean {' or '.join(elsewhere[:2])}?"
        return unknown("key", where, known)
    if first["type"] == "missing":
        return f"key {where!r} is missing"
    found = "" if isinstance(first["input"], dict) else f" (found {_shorten(first['input'])})"
    words = _EXPECTED.get(first["type"])
    limits = {key: _shorten_number(limit) for key, limit in first.get("ctx", {}).items()}
    message = words.format(**limits) if words else first["msg"]
    message = message.removeprefix("Value error, ")
    # What is wrong with a section may name its keys whole, as `--set` takes them.
    names = not where or message.startswith(f"{where}.")
    return f"{'' if names else where + ': '}{message}{found}"


def _shorten_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list_keys(model: type[Frozen], value: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that a model has where these values stand in it."""
    around = value if isinstance(value, Mapping) else {}
    for key, name in _keys(model).items():
        yield f"{prefix}{key}"
        for inner in model.inner_models(name, around):
            if prefix.count(".") < _KEY_DEPTH:  # a model may hold itself
                yield from _list_keys(inner, around.get(key), f"{prefix}{key}.")


def _keys(model: type[Frozen]) -> dict[str, str]:
    """Return key, as files have it → name of the field."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _models_along(
    model: type[Frozen], value: Any, location: tuple[int | str, ...]
) -> list[type[Frozen] | None]:
    """Return the models that hold the parts of a location but for its last; None where unknown."""
    along: list[type[Frozen] | None] = [model]
    for part in location[:-1]:
        holder = along[-1]
        if holder is None or part == _kind(holder):
            continue  # pydantic puts the kind that it chose into the location
        if isinstance(part, int):  # a place in a list of what the last part may hold
            value = value[part] if isinstance(value, Sequence) else None
            continue
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
    if not (key and equals) or "" in key.split("."):
        raise ConfigError(
            f"--set {_shorten(text)[1:-1]}: expected key=value, such as train.epochs=3"
        )
    try:
        return key, _parse(value)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or one_line(error)
        told = f"{_shorten(value)} is not a YAML value: {reason}"
        raise ConfigError(f"--set {_shorten(key)[1:-1]}: {told}") from error


def override(value: Mapping[str, Any], key: str, leaf: Any) -> dict[str, Any]:
    """Return a copy of `value` with the dotted `key` set to `leaf`."""
    if key.count(".") >= MAX_DEPTH:
        raise ConfigError(f"cannot set {_shorten(key)}: it has more than {MAX_DEPTH} parts")
    first, _, rest = key.partition(".")
    if not rest:
        return {**value, first: leaf}
    inner = value.get(first, {})
    if not isinstance(inner, Mapping):
        raise ConfigError(f"cannot set {key}: {first} holds a value, not further keys")
    return {**value, first: override(inner, rest, leaf)}
