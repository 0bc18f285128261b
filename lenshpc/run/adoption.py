"""Members that other runs have trained: found by what decides them, and taken over by links.

Two Plans have the same member where the fingerprints are equal, whatever else they hold. So another
seed, model, fold, ensemble or name of a run trains nothing again.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lenshpc.errors import ConfigError, DataError, LensHpcError
from lenshpc.files import (
    flush,
    link_file,
    make_open_folder,
    read_sealed,
    replacing_folder,
    sha256,
    write_sealed,
)
from lenshpc.run.completion import describe, is_done, mark_done, read_done
from lenshpc.run.differences import find_differences
from lenshpc.run.ownership import find_risk
from lenshpc.run.paths import HASHES, MemberPaths, RunPaths, find_runs, list_checkpoints
from lenshpc.run.plan import Member, Plan, load_plan

TRIALS = "*/trials"  # of studies: folders of runs whose members have weights and no predictions
# What equal members have in common, before their fingerprints are looked at.
SHARED = ("layout", "store_hash", "splits_hash", "code_version")
State = Literal["done", "trained", "begun"]
HashMember = Callable[[Plan, Member], str]
Key = tuple[str, int, int]  # a hash, a fold, a seed


@dataclass(frozen=True, kw_only=True)
class Source:
    """A member of another run that a member may be taken from; `epochs` are those it has.

    It is `done`, or `trained` and without predictions; of one that is `begun` the training goes on.
    """

    run: RunPaths
    plan: Plan
    member: Member
    state: State

    @property
    def paths(self) -> MemberPaths:
        """Return the member's files."""
        return self.run.member(self.member.name)

    @property
    def epochs(self) -> int:
        """Return how many epochs its recipe has."""
        return self.plan.recipe_of(self.member).train.epochs

    @property
    def title(self) -> str:
        """Return its run and its name."""
        return f"{self.run.name}/{self.member.name}"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What other runs have of a Plan's members.

    `shorter` are done with fewer epochs and cannot be gone on with; `nearest` is the run that
    differs least, with what differs key by key.
    """

    found: Mapping[Member, Source] = field(default_factory=dict)
    shorter: Mapping[Member, Source] = field(default_factory=dict)
    nearest: RunPaths | None = None
    differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


def find_offer(run: RunPaths, plan: Plan, members: Collection[Member], runs: Path) -> Offer:
    """Return what the runs in a folder have of those members of a run; nothing is written.

    Only runs of one's own count, which nobody else may write into.
    """
    others = list(_list_others(run, runs))
    differences = {other: find_differences(one, plan) for other, one in others}
    near = [other for other, told in differences.items() if "task" not in told]
    nearest = min(near, key=lambda other: len(differences[other]), default=None)
    akin = [
        (other, one)
        for other, one in others
        if _is_akin(one, plan) and _list_begun(other) and find_risk(other.root) is None
    ]
    found = dict(_match(plan, members, akin))
    left = [member for member in members if member not in found]
    return Offer(
        found=found,
        shorter=dict(_match_shorter(plan, left, akin)),
        nearest=nearest,
        differences=differences[nearest] if nearest else {},
    )


def _list_others(run: RunPaths, runs: Path) -> Iterator[tuple[RunPaths, Plan]]:
    """Yield the other runs in a folder and in its studies that can be read."""
    folders = [runs, *sorted(runs.glob(TRIALS))] if runs.is_dir() else []
    for other in (one for folder in folders for one in find_runs(folder)):
        if other.root == run.root:
            continue
        try:
            yield other, load_plan(other)
        except (LensHpcError, OSError):  # damaged, of another version or user
            continue


def _is_akin(one: Plan, other: Plan) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in SHARED)


def _match(
    plan: Plan, members: Collection[Member], others: Sequence[tuple[RunPaths, Plan]]
) -> Iterator[tuple[Member, Source]]:
    """Yield the members that are done, trained or begun elsewhere, with the best source."""
    whole = _index(others, Plan.member_fingerprint)
    growing = [one for one in others if one[1].recipe.can_grow or one[1].recipe.variants]
    begun = _index(growing, Plan.trajectory)
    find_whole, find_begun = (
        _key_members(plan, one) for one in (Plan.member_fingerprint, Plan.trajectory)
    )
    for member in members if others else ():
        equal = filter(None, map(_see, whole.get(find_whole(member), ())))
        source = next(equal, None) or _find_longest(plan, member, begun.get(find_begun(member), ()))
        if source is not None:
            yield member, source


def _key_members(plan: Plan, hash_member: HashMember) -> Callable[[Member], Key]:
    """Return what tells of a member what its hash tells, with one hash a model: there are many."""
    # Of a fold and a seed all that is hashed is their numbers.
    prints = {
        model: hash_member(plan, Member(index=0, model=model, fold=0, seed=0))
        for model in plan.recipe.models
    }
    return lambda member: (prints[member.model], member.fold, member.seed)


def _list_begun(run: RunPaths) -> set[str]:
    """Return the names of the members that have a folder."""
    try:
        return {path.name for path in (run.root / "members").iterdir()}
    except OSError:
        return set()


def _index(
    others: Sequence[tuple[RunPaths, Plan]], hash_member: HashMember
) -> dict[Key, list[Source]]:
    """Return key → the members that have it and have begun."""
    index: dict[Key, list[Source]] = {}
    for run, plan in others:
        begun, find_key = _list_begun(run), _key_members(plan, hash_member)
        for member in plan.members:
            if member.name in begun:
                one = Source(run=run, plan=plan, member=member, state="done")
                index.setdefault(find_key(member), []).append(one)
    return index


def _see(source: Source) -> Source | None:
    """Return a member of the same fingerprint as what it is; None where it is nothing yet."""
    if _is_done(source):
        return source
    try:
        ended = read_sealed(source.paths.progress)
        whole = sha256(source.paths.weights) == ended["weights_sha256"]
    except (LensHpcError, OSError, KeyError):
        return None
    return replace(source, state="trained") if whole else None


def _find_longest(plan: Plan, member: Member, others: Sequence[Source]) -> Source | None:
    """Return the longest training that a member goes on from, with its last checkpoint kept."""
    epochs = plan.recipe_of(member).train.epochs
    able = [
        replace(one, state="begun")
        for one in others
        if one.epochs < epochs and _is_done(one) and find_checkpoint(one.paths)
    ]
    return max(able, key=lambda one: one.epochs, default=None)


def _is_done(source: Source) -> bool:
    try:
        return is_done(source.run, source.plan, source.member)
    except (LensHpcError, OSError):  # that cannot be told, so it gives nothing
        return False


def find_checkpoint(paths: MemberPaths) -> Path | None:
    """Return the last checkpoint that a finished member has kept, if it has one."""
    found = [paths.checkpoint / name for name in list_checkpoints(paths.checkpoint)]
    return next((one for one in reversed(found) if (one / HASHES).is_file()), None)


def _match_shorter(
    plan: Plan, members: Collection[Member], others: Sequence[tuple[RunPaths, Plan]]
) -> Iterator[tuple[Member, Source]]:
    """Yield the members that are done elsewhere with fewer epochs alone."""
    index = _index(others, Plan.endless_fingerprint)
    find_key = _key_members(plan, Plan.endless_fingerprint)
    for member in members if others else ():
        epochs = plan.recipe_of(member).train.epochs
        akin = index.get(find_key(member), ())
        shorter = [one for one in akin if one.epochs < epochs and _is_done(one)]
        if shorter:
            # Of one that lacks its checkpoint alone the user can be told what would have helped.
            yield (
                member,
                max(shorter, key=lambda one: (_is_same_way(plan, member, one), one.epochs)),
            )


def _is_same_way(plan: Plan, member: Member, source: Source) -> bool:
    return source.plan.trajectory(source.member) == plan.trajectory(member)


def check_growth(run: RunPaths, plan: Plan, shorter: Mapping[Member, Source]) -> None:
    """Refuse to train members from the beginning that are done with fewer epochs."""
    if not shorter:
        return
    member, source = next(iter(shorter.items()))
    recipe = plan.recipe_of(member)
    why = (
        "its last checkpoint was removed"
        if _is_same_way(plan, member, source)
        else f"its steps would differ from the first one on, as {_name_length(recipe)}"
    )
    raise ConfigError(
        f"{describe(run, member)} is done with {source.epochs} epochs in {source.run.name}, and "
        f"training cannot continue from there to {recipe.train.epochs}: {why}; give --restart to "
        f"train {len(shorter)} of {len(plan.members)} members from the beginning"
    )


def _name_length(recipe: Any) -> str:
    if recipe.train.scheduler == "cosine":
        return f"train.scheduler cosine falls over {recipe.train.length} train.schedule_epochs"
    return f"task {recipe.task} weighs its loss by the part of {recipe.train.length} epochs done"


def adopt_members(
    run: RunPaths, plan: Plan, found: Mapping[Member, Source]
) -> dict[Member, Source]:
    """Take over members, and return those that could be: not one whose files were altered since."""

    def take(member: Member) -> bool:
        try:
            return _adopt(run, plan, member, found[member])
        except (DataError, FileNotFoundError):  # the member is trained, as if nobody had it
            return False

    with ThreadPoolExecutor() as threads:  # hashing needs no lock of Python's
        taken = list(threads.map(take, found))
    return {
        member: found[member] for member, is_taken in zip(found, taken, strict=True) if is_taken
    }


def _adopt(run: RunPaths, plan: Plan, member: Member, source: Source) -> bool:
    """Take over a member: its files are linked where possible, once they have their hashes.

    Returns whether anything was taken: a member that has a checkpoint goes on from its own.
    DataError where a file was altered. May be repeated after it was cut short.
    """
    paths = run.member(member.name)
    make_open_folder(paths.root)
    if source.state == "done":
        _adopt_done(run, plan, member, source)
    elif source.state == "trained":
        _adopt_trained(paths, source)
    elif not paths.checkpoint.exists():
        _adopt_checkpoint(paths, source)
    else:
        return False
    return True


def _adopt_done(run: RunPaths, plan: Plan, member: Member, source: Source) -> None:
    done, lack = read_done(source.run, source.plan, source.member, verify=True)
    if lack is not None:
        raise DataError(f"{describe(source.run, source.member)} {lack}")
    paths = run.member(member.name)
    _link_files(source.paths.root, paths.root, done["files"])
    if plan.recipe_of(member).can_grow and not paths.checkpoint.exists():
        # What more epochs go on from, also when the run is gone that it came from.
        with suppress(DataError, FileNotFoundError):
            _adopt_checkpoint(paths, source)
    hashes = {paths.root / name: digest for name, digest in done["files"].items()}
    own = {*Member.model_fields, "fingerprint", "files"}
    facts = {key: value for key, value in done.items() if key not in own}
    # The first origin stays, whoever took it over in between.
    mark_done(run, plan, member, hashes, {"adopted": source.title, **facts})


def _adopt_trained(paths: MemberPaths, source: Source) -> None:
    names = (source.paths.weights.name, source.paths.metrics.name)
    _link_files(source.paths.root, paths.root, names)
    # Last: it says that training has ended, with the hash of the weights.
    write_sealed(paths.progress, read_sealed(source.paths.progress))


def _adopt_checkpoint(paths: MemberPaths, source: Source) -> None:
    found = find_checkpoint(source.paths)
    if found is None:
        raise DataError(f"the last checkpoint of {source.title} is missing")
    # The engine compares these hashes before it loads anything.
    files = [*read_sealed(found / HASHES)["files"], f"{found.name}/{HASHES}"]
    # Whole or not at all: half of it would be taken for the member's own, and be no checkpoint.
    with replacing_folder(paths.checkpoint) as fresh:
        fresh.chmod(0o700)
        _link_files(source.paths.checkpoint, fresh, files)


def _link_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Have the files below one folder stand below another too, and their names on disk."""
    folders = {target}
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        link_file(source / name, place)
        folders.add(place.parent)
    for folder in folders:
        flush(folder)
