"""Packages that serve one option each: where one is absent, a line says which extra to install."""

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from lenshpc.errors import ConfigError

PACKAGES: Mapping[str, str] = MappingProxyType(  # module of each extra of setup.cfg, but for dev
    {
        "explain": "captum",
        "fid": "torch_fidelity",
        "fits": "astropy",
        "hdf5": "h5py",
        "smote": "imblearn",
    }
)


def require(extra: str, use: str) -> None:
    """Refuse `use` where the package of an extra is not installed; nothing is imported."""
    package = PACKAGES[extra]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{use} needs {package}, which is not installed; pip install 'lenshpc[{extra}]'"
        )
