"""Send exports to a Hugging Face hub, and fetch them from one.

`HF_ENDPOINT` names another hub than huggingface.co; `hf auth login` or `token` says who asks.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from os import PathLike
from pathlib import Path

from lenshpc.errors import ConfigError, LensHpcError, one_line
from lenshpc.files import replacing_folder
from lenshpc.inference.archive import require_free
from lenshpc.inference.card import CARD
from lenshpc.run.trained import (
    ARRAYS,
    MODEL,
    TRAINING_ROWS,
    EnsembleSpec,
    read_export,
    weights_file,
)

# What an export may hold; nothing else is fetched. A network's file is text until somebody says
# that it may be imported.
KEPT = (
    MODEL,
    CARD,
    "*.safetensors",
    "*.parquet",
    "code/files/*.py",
    "programs/*.pt2",
    "programs/*.onnx",
    "programs/*.onnx.data",
)
OPTIONAL = (ARRAYS, TRAINING_ROWS, "members/*", "programs/*", "code/*")
_EMPTY = {".gitattributes", CARD}  # of a repository in which nothing lies yet


def push(
    folder: str | PathLike[str], repository: str, *, private: bool = True, token: str | None = None
) -> str:
    """Send an export to the hub's repository `user/name`; return the address of the commit.

    The repository is made if it is not there, for nobody else to see unless `private` is False.
    ConfigError of a repository that holds something else than an export.
    """
    from huggingface_hub import HfApi

    root = Path(folder)
    ensemble = read_export(root)
    api = HfApi(token=token)
    with _asking(repository):
        api.create_repo(repository, private=private, exist_ok=True)
        there = set(api.list_repo_files(repository))
        if there - _EMPTY and MODEL not in there:
            raise ConfigError(
                f"{repository} on the hub holds {', '.join(sorted(there)[:3])}, not an export; "
                "give another repository"
            )
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=root,
            commit_message=f"Export of run {ensemble.spec.name}",
            allow_patterns=_list_files(ensemble.spec),
            delete_patterns=[*OPTIONAL],  # of an earlier export
        )
    return str(commit.commit_url)


def _list_files(spec: EnsembleSpec) -> list[str]:
    """Return the files of an export as patterns: what else lies in its folder is not for others."""
    weights = [weights_file(one) for one in spec.members]
    return [escape(name) for name in (MODEL, CARD, *spec.files, *weights)]


def pull(
    repository: str,
    to: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Return the folder of an export that was fetched from the hub, its hashes checked.

    It lies in the hub's cache, or is copied to the folder `to`, which must not hold anything yet.
    Code in it is not imported. `revision` is a branch, a tag or a commit.
    """
    from huggingface_hub import HfApi

    place = Path(to) if to is not None else None
    if place is not None:
        require_free(place)
    with _asking(repository):
        found = HfApi(token=token).snapshot_download(
            repository, revision=revision, allow_patterns=[*KEPT]
        )
    cached = Path(found)
    if not (cached / MODEL).is_file():
        raise ConfigError(
            f"{repository} on the hub holds no {MODEL}: it is not an export of lenshpc"
        )
    if place is None:
        read_export(cached)
        return cached
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(place) as draft:
        shutil.copytree(cached, draft, dirs_exist_ok=True)
        read_export(draft)  # the copy is what is used
    return place


@contextmanager
def _asking(repository: str) -> Iterator[None]:
    """Turn what goes wrong between here and the hub into one line."""
    from huggingface_hub import errors

    try:
        yield
    except LensHpcError:
        raise
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"no repository {repository} on the hub that you may read; check its name, and your "
            "login with: hf auth whoami"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{repository} on the hub has no such revision; give another") from error
    except Exception as error:  # of four libraries that speak with it, each has its own
        told = one_line(f"{type(error).__name__}: {error}")[:200]
        raise ConfigError(f"{repository} on the hub: {told}") from error
