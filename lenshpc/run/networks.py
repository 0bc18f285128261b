"""The names of networks, those of the registry and timm's, checked without importing torch."""

import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lenshpc.config import find_near
from lenshpc.errors import ConfigError
from lenshpc.registry import TaskSettings, component_names, is_kept_file


@cache
def timm_names() -> frozenset[str]:
    """Return the networks that the installed timm registers, read from its source."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("timm is not installed; install it with: pip install timm")
    sources = Path(found.submodule_search_locations[0], "models").glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    return frozenset(re.findall(r"^@register_model\ndef (\w+)\(", text, flags=re.MULTILINE))


def hint_near(name: str) -> str:
    """Return timm's network that is most likely meant, as the end of a sentence."""
    near = find_near(name, timm_names())
    return f"; did you mean {near[0]}?" if near else ""


def check_names(networks: Iterable[str], settings: TaskSettings) -> None:
    """Refuse a network that neither the registry nor timm knows, naming the nearest ones."""
    own = component_names("networks", settings.family)
    for network in networks:
        if settings.takes_timm and network in own and network in timm_names():
            raise ConfigError(
                f"network {network} is a timm model, and a plugin declares another of that name; "
                "rename or uninstall the plugin's"
            )
        if is_kept_file(network) or network in own or network in timm_names():
            continue
        known = sorted({*own, *timm_names()})
        near = find_near(network, known, num=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ConfigError(f"timm has no model {network!r}; {hint}")
