"""Where initial weights come from: a file, or timm's on the Hugging Face hub; without torch.

The hub's cache is looked into first, so that a node without network finds what was downloaded
elsewhere, and nothing waits for a network that is not there.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from lenshpc.errors import ConfigError, DataError, one_line, printable, read_error
from lenshpc.files import read_json, sha256
from lenshpc.registry import families_of, is_kept_file

HUB = "hf-hub:"
CONFIG = "config.json"
FILENAMES = ("model.safetensors", "pytorch_model.bin")
TIMEOUT_S = 5.0


def find_weights(weights: str, models: Iterable[str]) -> dict[str, str]:
    """Return the method's keys for weights that members will find; refuse others.

    A file gets its whole path; it and what the hub has get their SHA-256, so that another file is
    another run.
    """
    if weights == "imagenet":
        for model in models:
            _check_imagenet(model)
    if weights in {"imagenet", "random"}:
        return {}
    if weights.startswith(HUB):
        for model in models:
            _check_architecture(weights.removeprefix(HUB), model)
        return {"weights_sha256": sha256(weights_file(weights))}
    path = Path(weights).resolve()
    if not path.is_file():
        raise ConfigError(f"method.weights {weights}: no such file; give the path of one")
    return {"weights": str(path), "weights_sha256": sha256(path)}


def weights_file(weights: str) -> Path:
    """Return the file that `weights` names: a path, or hf-hub: and a repository of the hub."""
    if weights.startswith(HUB):
        return download(weights.removeprefix(HUB))
    return Path(weights)


def check_unchanged(weights: str, digest: str | None) -> None:
    """Refuse a file of initial weights that is not the one that the run was submitted with."""
    # Each member looks again, hours after submission: members of one run must not begin from
    # different files.
    if digest is not None and sha256(weights_file(weights)) != digest:
        raise DataError(
            f"{weights} has changed since the run was submitted; put the file back, or submit again"
        )


def download(repository: str, names: Sequence[str] = FILENAMES) -> Path:
    """Return a repository's file of the first of these names, from the cache if one is there."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        for name in names:
            cached = try_to_load_from_cache(repository, name)
            if isinstance(cached, str):
                return Path(cached)
        # Asked once and briefly: the hub's client would try for minutes on a node without network.
        if not is_reachable():
            raise _not_found(repository, names)
        for name in names:
            try:
                return Path(hf_hub_download(repository, name))
            except EntryNotFoundError:
                continue
    except (HfHubHTTPError, HFValidationError) as error:
        raise ConfigError(
            f"the hub refuses access to {repository} ({one_line(error)[:160]}); correct its name, "
            "log in with hf auth login if it is gated, or give a file's path as method.weights"
        ) from error
    raise ConfigError(f"{repository} holds no {' or '.join(names)}; give a file's path")


def is_reachable() -> bool:
    """Say whether the hub answers, within seconds; HF_HUB_OFFLINE=1 says that it does not."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    request = Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  # the user's own HF_ENDPOINT
    try:
        with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
            return True
    except HTTPError:  # an answer, though not a friendly one
        return True
    except OSError:
        return False


def _check_imagenet(model: str) -> None:
    if families_of("networks", model) or is_kept_file(model):
        raise ConfigError(
            f"{model} has no ImageNet weights; use --set method.weights=random or a file's path"
        )
    if not _is_cached(model) and not is_reachable():
        raise _not_found(f"timm/{model}", FILENAMES)


def _is_cached(model: str) -> bool:
    """Say whether the cache holds weights of the network, under any of its tags."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob(f"models--timm--{model}.*/snapshots/*")
    return any((folder / name).is_file() for folder in folders for name in FILENAMES)


def _check_architecture(repository: str, model: str) -> None:
    """Refuse a repository of another network than a model's, by its own word."""
    path = download(repository, (CONFIG,))
    try:
        config = read_json(path)
    except OSError as error:
        raise read_error(path, error) from error
    found = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(found, str):
        raise ConfigError(
            f"{HUB}{repository} is not a timm repository: its {CONFIG} names no architecture; "
            "give one that does, or a file's path as method.weights"
        )
    if found != model:
        raise ConfigError(
            f"{HUB}{repository} holds weights of {printable(found)}, not of {model}; use --models "
            f"{printable(found)}, or a variant with other method.weights"
        )


def _not_found(repository: str, names: Sequence[str]) -> ConfigError:
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return ConfigError(
        f"{repository} has no {' or '.join(names)} in the cache (HF_HOME {cache}), and the hub "
        f"cannot be reached; on a machine that can reach it, run: hf download {repository}; then "
        "set HF_HOME to that cache, or give a file's path as method.weights"
    )
