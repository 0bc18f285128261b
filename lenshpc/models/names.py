"""The names of timm's networks, read from its source: no torch is imported to check a spelling."""

import difflib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lenshpc.errors import ConfigError


@cache
def known_names() -> frozenset[str]:
    """Return the networks that the installed timm registers."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("timm is not installed; install it with: pip install timm")
    sources = Path(found.submodule_search_locations[0], "models").glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    return frozenset(re.findall(r"^@register_model\ndef (\w+)\(", text, flags=re.MULTILINE))


def check_names(models: Iterable[str]) -> None:
    """Refuse a network that timm does not know, naming the nearest ones."""
    for model in models:
        if model not in known_names():
            near = difflib.get_close_matches(model, sorted(known_names()), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
            raise ConfigError(f"timm knows no model {model!r}; {hint}")
