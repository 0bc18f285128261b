"""What a recipe starts from: the trained members of a run of any task, or of an export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lenshpc.errors import ConfigError, IncompleteError
from lenshpc.run.completion import is_done, read_output, resume_command
from lenshpc.run.paths import RunPaths, find_run
from lenshpc.run.plan import Member, Plan, load_plan, load_splits, open_planned_store
from lenshpc.run.recipe import Recipe, is_variant
from lenshpc.run.trained import (
    MODEL,
    TRAINING_ROWS,
    check_file,
    read_export,
    read_training_rows,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from lenshpc.store import Store

Part = Literal["network", "encoder"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Rows that trained something or chose its epoch: their numbers in a store, and files' hashes.

    `read_sha256` returns the hashes (n,32).
    """

    store_hash: str
    rows: npt.NDArray[np.int64]
    read_sha256: Callable[[], npt.NDArray[np.uint8]]

    def among(self, store: Store, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Say of each of a store's rows whether it is one of them.

        Rows of the same store are told by their number, of another by the SHA-256 of their source
        files, so an image under another name is found too. Of pairs that hash is of both files, and
        knows no image that is one of them.
        """
        import numpy as np

        if store.content_hash == self.store_hash:
            return np.isin(rows, self.rows)
        return _are_among(store.column("sha256", rows), self.read_sha256())


def _are_among(
    hashes: npt.NDArray[np.uint8], known: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Say of each hash (n,32) whether it is one of those that are known (m,32)."""
    import numpy as np

    if not len(known):
        return np.zeros(len(hashes), bool)
    # By their first eight bytes, of which no two are the same: texts or whole hashes sort in
    # minutes where there are millions.
    known = known[np.argsort(_first_words(known))]
    places = np.searchsorted(_first_words(known), _first_words(hashes))
    found = known[np.minimum(places, len(known) - 1)] == hashes
    return np.asarray(found.all(axis=1))


def _first_words(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    import numpy as np

    return np.ascontiguousarray(hashes[:, :8]).view("<u8").reshape(-1)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Trained members, from whose weights others start.

    `read` returns a member's weights as safetensors; DataError where they were altered. `find_seen`
    tells of its own rows, and of those of what it began with itself.
    """

    title: str
    fingerprint: str
    recipe: Recipe
    members: tuple[Member, ...]
    read: Callable[[Any], bytes]
    find_seen: Callable[[], list[Seen]]

    def find_source(self, recipe: Recipe, member: Member) -> tuple[Part, Member]:
        """Return what of which member goes into a member's network; ConfigError where nothing fits.

        All of the same network, or else the encoder that both have. Of several members it is that
        of the same fold, then of the same seed, or else the first; one of a variant only where
        there is none without.
        """
        part, able = self.find_able(recipe, member.network)
        # The same fold before all: where both runs cut the same store, the rows that validate this
        # member have trained none of the others but this one. Then the seed, so that the scatter
        # over seeds holds that of the first training too.
        return part, min(
            able,
            key=lambda one: (
                is_variant(one.model),
                one.fold != member.fold,
                one.seed != member.seed,
                one.index,
            ),
        )

    def find_able(self, recipe: Recipe, network: str) -> tuple[Part, list[Member]]:
        """Return what goes into a network, and the members that have it."""
        ours, theirs = recipe.method, self.recipe.method
        same = [one for one in self.members if _bare(one.network) == _bare(network)]
        if same and ours.family == theirs.family:
            return "network", same
        encoders = [one for one in self.members if one.network in theirs.encoders]
        if encoders and network in ours.encoders:
            return "encoder", encoders
        has = ", ".join(dict.fromkeys(one.network for one in self.members))
        raise ConfigError(
            f"{self.title} of task {self.recipe.task} has weights of {has}, and none for {network} "
            f"of task {recipe.task}; give --models a network that it has, in a task of its kind, "
            "or a variant that sets init_from to null"
        )


def _bare(network: str) -> str:
    """Return a network's name; of one in a file without the hash, since weights must fit anyway."""
    return network.partition("@")[0]


def origin_of(recipe: Recipe) -> RunPaths | None:
    """Return the run whose members make the weights that a recipe starts from.

    None where it starts from none, or from an export, which has them all.
    """
    if recipe.init_from is None or is_export(Path(recipe.init_from)):
        return None
    return RunPaths(Path(recipe.init_from))


def find_origin(text: str, runs: Path) -> Path:
    """Return the folder of an export, or of a run by its path or name."""
    folder = Path(text)
    if is_export(folder):
        return folder.resolve()
    if folder.exists() and not (folder / "plan.json").exists():
        raise ConfigError(
            f"{text} is neither a run, which has a plan.json, nor the folder of an export, which "
            f"has a {MODEL}; unpack a .zip first"
        )
    return find_run(text, runs).root


def is_export(folder: Path) -> bool:
    """Say whether a folder is an export of an ensemble."""
    return (folder / MODEL).is_file()


def open_origin(folder: Path) -> Origin:
    """Return what lies in a folder to start from."""
    if is_export(folder):
        return of_export(folder)
    run = RunPaths(folder)
    plan = load_plan(run)
    return of_run(run, plan, lambda: (load_splits(run, plan), open_planned_store(plan)))


def of_export(folder: Path) -> Origin:
    """Return an export to start from; DataError where a file of it is lost or was changed."""
    ensemble = read_export(folder)
    spec = ensemble.spec

    def find_seen() -> list[Seen]:
        import numpy as np

        # One that is not listed is nobody's word.
        check_file(folder, TRAINING_ROWS, spec.files.get(TRAINING_ROWS, ""))
        read = partial(read_training_rows, folder)
        return [Seen(store_hash="", rows=np.empty(0, np.int64), read_sha256=read)]

    return Origin(
        title=f"export {folder}",
        fingerprint=spec.digest,
        recipe=spec.recipe,
        members=spec.members,
        read=ensemble.read_weights,
        find_seen=find_seen,
    )


def of_run(
    run: RunPaths, plan: Plan, find_rows: Callable[[], tuple[pd.DataFrame, Store]]
) -> Origin:
    """Return a run to start from; `find_rows` gives its split manifest and its store."""

    def read(member: Member) -> bytes:
        if not is_done(run, plan, member):
            raise IncompleteError(
                f"member {member.index} of run {run.name}, from whose weights this run starts, is "
                f"not done; finish it with: {resume_command(run)}"
            )
        return read_output(run, member, run.member(member.name).weights)

    def find_seen() -> list[Seen]:
        from lenshpc.run.splits import find_learnt

        splits, store = find_rows()
        rows = find_learnt(splits)
        read = partial(store.column, "sha256", rows)
        own = Seen(store_hash=plan.store_hash, rows=rows, read_sha256=read)
        # Weights remember what those saw that they began with.
        before = plan.recipe.init_from
        return [own, *(open_origin(Path(before)).find_seen() if before else ())]

    return Origin(
        title=f"run {plan.run_name}",
        fingerprint=plan.fingerprint(),
        recipe=plan.recipe,
        members=plan.members,
        read=read,
        find_seen=find_seen,
    )
