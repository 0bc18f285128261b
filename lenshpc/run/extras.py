"""Packages that may be absent, or not fit those beside them: each is one line with its remedy."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from lenshpc.errors import ConfigError, one_line

PACKAGES: Mapping[str, str] = MappingProxyType(  # module of each extra of setup.cfg, but for dev
    {
        "explain": "captum",
        "fid": "torch_fidelity",
        "fits": "astropy",
        "hdf5": "h5py",
        "mlflow": "mlflow",
        "onnx": "onnxruntime",
        "sky": "astropy_healpix",
        "smote": "imblearn",
        "tensorboard": "tensorboard",
        "tune": "optuna",
        "wandb": "wandb",
    }
)


def require(extra: str, use: str) -> None:
    """Refuse `use` where the package of an extra is not installed; nothing is imported."""
    package = PACKAGES[extra]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{use} needs {package}, which is not installed; install it with: pip install "
            f"'lenshpc[{extra}]'"
        )


@contextmanager
def importing(package: str) -> Iterator[None]:
    """Turn whatever an import in this block raises into one line, without a traceback."""
    try:
        yield
    except Exception as error:
        told = one_line(f"{type(error).__name__}: {error}")
        raise ConfigError(
            f"{package} cannot be imported ({told}); install compatible versions with: pip "
            "install -c constraints.txt lenshpc"
        ) from error
