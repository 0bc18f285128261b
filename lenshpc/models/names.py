"""The names of networks, ours and timm's, checked without importing torch."""

import difflib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lenshpc.errors import ConfigError
from lenshpc.tasks.anomaly.settings import NETWORKS as ANOMALY_NAMES
from lenshpc.tasks.diffusion.settings import NETWORKS as DIFFUSION_NAMES
from lenshpc.tasks.foundation.settings import NETWORKS as FOUNDATION_NAMES
from lenshpc.tasks.super_resolution.settings import NETWORKS as SUPER_RESOLUTION_NAMES
from lenshpc.tasks.supervised.settings import NETWORKS as CLASSIFICATION_NAMES

OWN_NAMES = frozenset(
    {
        *CLASSIFICATION_NAMES,
        *ANOMALY_NAMES,
        *SUPER_RESOLUTION_NAMES,
        *DIFFUSION_NAMES,
        *FOUNDATION_NAMES,
    }
)


@cache
def known_names() -> frozenset[str]:
    """Return our networks and those that the installed timm registers, read from its source."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("timm is not installed; install it with: pip install timm")
    sources = Path(found.submodule_search_locations[0], "models").glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    registered = re.findall(r"^@register_model\ndef (\w+)\(", text, flags=re.MULTILINE)
    return OWN_NAMES.union(registered)


def check_names(models: Iterable[str]) -> None:
    """Refuse a network that neither we nor timm know, naming the nearest ones."""
    for model in models:
        if model not in known_names():
            near = difflib.get_close_matches(model, sorted(known_names()), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
            raise ConfigError(f"timm knows no model {model!r}; {hint}")
