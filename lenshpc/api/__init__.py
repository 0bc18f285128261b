"""The Python face: what `import lenshpc` offers, and the command line calls.

Each function takes names, paths or values. What is imported is imported inside of them, so that
`import lenshpc` costs nothing. Errors are `LensHpcError`s of one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenshpc.errors import ConfigError, LensHpcError

if TYPE_CHECKING:
    import torch

    from lenshpc.api.views import OpenStore, Planned, Status, WrittenPredictions, WrittenReport
    from lenshpc.engine.ensemble import Ensemble
    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store

    Location = str | PathLike[str]
    Images = int | Mapping[str, int]

__all__ = [
    "LensHpcError",
    "aggregate",
    "load_ensemble",
    "load_recipe",
    "open_store",
    "plan",
    "predict",
    "prepare",
    "simulate",
    "status",
    "submit",
]


def simulate(
    dataset: Location,
    out: Location,
    *,
    train: Images,
    val: Images | None = None,
    test: Images | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Make images that stand in for a survey's in the new folder `out`, and return it.

    `dataset` is a name that ships, or the path of a .yaml; `train`, `val` and `test` are numbers of
    images of each class, or class → number. Equal seeds give equal images.

    Examples:
        >>> import lenshpc
        >>> lenshpc.simulate("lens_finding", "images", train={"nonlens": 2, "lens": 1}, workers=1)
        PosixPath('images')
    """
    from lenshpc.api.progress import progress_bar
    from lenshpc.prep.dataset import load_dataset
    from lenshpc.prep.parallel import num_cores
    from lenshpc.prep.simulation.counts import parse_counts, write_count
    from lenshpc.prep.simulation.simulate import simulate as make_images

    loaded = load_dataset(fspath(dataset))
    counts = parse_counts(
        loaded, {"train": write_count(train), "val": write_count(val), "test": write_count(test)}
    )
    with progress_bar("simulating") as progress:
        make_images(
            loaded,
            Path(out),
            counts,
            seed=seed,
            workers=workers or num_cores(),
            progress=progress,
        )
    return Path(out)


def prepare(
    dataset: Location,
    source: Location,
    store: Location,
    *,
    seed: int = 0,
    workers: int | None = None,
) -> OpenStore:
    """Turn the images under `source` into a new store, laid out as `dataset` says, and open it.

    Stopped at any moment, the same call goes on. DataError names a file that is wrong.

    Examples:
        >>> import lenshpc
        >>> images = lenshpc.simulate("lens_finding", "images", train=3, test=1, workers=1)
        >>> lenshpc.prepare("lens_finding", images, "stores/toy", workers=1)
        <Store stores/toy: 8 images, 3 x 64 x 64 float32, classes nonlens, lens>
    """
    from lenshpc.api.progress import progress_bar
    from lenshpc.api.views import OpenStore, convert
    from lenshpc.prep.convert import Options
    from lenshpc.prep.convert import convert as make_store
    from lenshpc.prep.dataset import load_dataset
    from lenshpc.prep.parallel import num_cores

    with progress_bar("converting") as progress:
        made = make_store(
            load_dataset(fspath(dataset)),
            Path(source),
            Path(store),
            Options(seed=seed),
            workers=workers or num_cores(),
            progress=progress,
        )
    return convert(OpenStore, made)


def open_store(path: Location) -> OpenStore:
    """Return the store at a path; DataError where it is absent, unfinished or damaged.

    Examples:
        >>> import lenshpc
        >>> store = lenshpc.open_store("stores/spots")
        >>> store
        <Store stores/spots: 120 images, 1 x 32 x 32 float32, classes class0, class1>
        >>> store.rows["split"].value_counts().to_dict()
        {'train': 96, 'test': 24}
        >>> store.read(slice(0, 2)).shape
        (2, 1, 32, 32)
    """
    from lenshpc.api.views import OpenStore, convert
    from lenshpc.store import open_store as open_at

    return convert(OpenStore, open_at(Path(path)))


def load_recipe(
    source: Location, changes: Mapping[str, Any] | None = None, /, **more: Any
) -> Recipe:
    """Return a shipped recipe by name, or the one of a .yaml, with keys changed.

    `changes` has dotted keys; keys without a dot may be given by name. ConfigError says which key
    is wrong, and the nearest that is known.

    Examples:
        >>> import lenshpc
        >>> recipe = lenshpc.load_recipe("lens_finding", {"train.epochs": 3}, folds=2)
        >>> recipe.train.epochs, recipe.folds
        (3, 2)
        >>> try:
        ...     lenshpc.load_recipe("lens_finding", {"train.epoch": 3})
        ... except lenshpc.LensHpcError as error:
        ...     print(str(error).partition(";")[0])
        recipe lens_finding: unknown key 'train.epoch'
    """
    from lenshpc.run.recipe import load_recipe as load

    return load(fspath(source), (dict(changes or {}) | more).items())


def plan(
    recipe: Location | Recipe,
    data: Location | Store,
    runs: Location = "runs",
    *,
    site: Location = "local",
) -> Planned:
    """Return the run of a recipe on a store, with every member; write nothing.

    It is to lie in the folder `runs`, and to be sent to `site`, a name or the path of a .yaml,
    whose defaults stand instead of the recipe's unless `load_recipe` was given others. A
    recipe's `then` is planned too.

    Examples:
        >>> import lenshpc
        >>> planned = lenshpc.plan("lens_finding", "stores/spots")
        >>> planned
        <Planned lens_finding-...: 5 members on site local>
        >>> planned.plan.members[0].name
        '000-resnet18-fold0-seed0'
    """
    import warnings

    from lenshpc.api.views import Planned, list_warnings
    from lenshpc.launch.sites import check_fits, load_site
    from lenshpc.run.planning import plan_chain
    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store

    place = load_site(fspath(site))
    asked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    store = data if isinstance(data, Store) else open_store(data)
    chain = plan_chain(asked, store, Path(runs), place.defaults)
    for one in chain:
        check_fits(place, one.plan.recipe)
    for text in list_warnings(chain):
        warnings.warn(text, stacklevel=2)
    first, *later = (Planned(run=one, site=place) for one in chain)
    return Planned(run=first.run, site=place, then=tuple(later))


def submit(
    planned: Planned | Location | Recipe,
    data: Location | Store | None = None,
    *,
    runs: Location = "runs",
    site: Location = "local",
    wait: bool = False,
) -> Status:
    """Send what is not done of a planned run, or of a recipe on a store; say where it stands.

    To repeat it is safe. With `wait` a bar counts the epochs until the report is written, and
    IncompleteError says why there is none; to interrupt it stops a run of this machine, and leaves
    that of a cluster.

    Examples:
        >>> import lenshpc
        >>> small = {"models": ["resnet10t"], "train.epochs": 2, "train.batch_size": 16}
        >>> recipe = lenshpc.load_recipe("lens_finding", small, folds=1)
        >>> lenshpc.submit(recipe, "stores/spots", wait=True)
        <Status lens_finding-...: 1 DONE; report DONE>
    """
    from lenshpc.api.views import Planned
    from lenshpc.launch.submit import submit as send
    from lenshpc.worker import CALLS

    if not isinstance(planned, Planned):
        if data is None:
            raise ConfigError("submit needs a planned run, or a recipe and a store")
        planned = plan(planned, data, runs, site=site)
    for one in planned.chain:
        send(one, planned.site, CALLS)
    if wait:
        from lenshpc.api.waiting import wait_for

        wait_for(planned.chain)
    return status(planned)


def status(run: Location | Planned) -> Status:
    """Return where every member of a run stands, and its report.

    `run` is a planned run, a path, a name in ./runs or the beginning of one.

    Examples:
        >>> import lenshpc
        >>> told = lenshpc.status("lens")
        >>> told
        <Status lens-...: 6 DONE; report NOT SUBMITTED>
        >>> told.members[0].state, told.has_ended
        ('DONE', True)
    """
    from lenshpc.api.views import Status, convert
    from lenshpc.launch.states import run_status
    from lenshpc.run.paths import find_run
    from lenshpc.run.plan import load_plan

    paths = find_run(fspath(run))
    return convert(Status, run_status(paths, load_plan(paths)))


def aggregate(
    run: Location | Planned,
    *,
    out: Location | None = None,
    allow_partial: bool = False,
    replace: bool = False,
) -> WrittenReport:
    """Merge the predictions of a run's members, write its report and return it.

    The report goes to the run, or to `out`/report. IncompleteError where a member has none, unless
    `allow_partial`, and where the report that is there shows more, unless `replace`.

    Examples:
        >>> import lenshpc
        >>> report = lenshpc.aggregate("lens")
        >>> report
        <Report AUC 1.0000: .../report/report.html>
        >>> report.content["num_members"], len(report.predictions)
        (6, 150)
    """
    from lenshpc.api.progress import quieten_tqdm, telling
    from lenshpc.api.views import WrittenReport, convert
    from lenshpc.launch.modes import writing_in
    from lenshpc.run.ownership import require_place
    from lenshpc.run.paths import RunPaths, find_run
    from lenshpc.worker import write_report

    quieten_tqdm()
    paths = find_run(fspath(run))
    if out is None:
        require_place(paths)
    place = paths if out is None else RunPaths(Path(out).resolve())
    try:
        place.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made: {error.strerror}") from error
    with writing_in(place), telling("reading the run") as say:
        report = write_report(
            paths,
            out=None if out is None else place,
            allow_partial=allow_partial,
            replace=replace,
            say=say,
        )
    return convert(WrittenReport, report, folder=place.report)


def load_ensemble(
    source: Location | Planned,
    *,
    models: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    trust_code: bool = False,
) -> Ensemble:
    """Return the trained ensemble of a run that is done, or of an export's folder.

    It is a `torch.nn.Module`: pixels (B, C, H, W) as the store has them in, the task's answer out,
    such as probabilities (B, K). `.predict(images)` does so for numpy arrays of any number of
    images. It lies on a GPU where there is one, or on `device`. `models` chooses some of a run's.
    An export with networks in files of its own is refused without `trust_code`.

    Examples:
        >>> import lenshpc
        >>> ensemble = lenshpc.load_ensemble("spots")
        >>> ensemble.spec.classes, len(ensemble.members)
        (('plain', 'spot'), 4)
        >>> images = lenshpc.open_store("store").read_raw(slice(0, 3))
        >>> ensemble.predict(images).sum(axis=1).round(6)
        array([1., 1., 1.])
    """
    from lenshpc.api.progress import quieten_tqdm
    from lenshpc.inference.load import load_ensemble as load

    quieten_tqdm()
    return load(source, models=models, device=device, trust_code=trust_code)


def predict(
    source: Location | Planned,
    images: Location | Store,
    out: Location | None = None,
    *,
    models: Sequence[str] | None = None,
    dataset: Location | None = None,
    prior: float | None = None,
    rank_by: str | None = None,
    top: int = 100,
    trust_code: bool = False,
) -> WrittenPredictions:
    """Apply the networks of a run, or of an export, to the images of a store or a folder.

    The results go to the folder `out`: a table with a row an image in parts, candidates.csv, and
    gallery.html to grade the `top` candidates in a browser. `dataset` says what files are, by
    default as the run's own. `prior` is the share of the positive class, which moves the
    threshold; `rank_by` the class by which candidates are ranked. Stopped at any moment, the same
    call goes on.

    Examples:
        >>> import lenshpc
        >>> found = lenshpc.predict("spots", "images/test", "found", top=10)
        >>> found
        <Predictions found: 24 images, 10 candidates>
        >>> found.candidates["score"].is_monotonic_decreasing
        True
        >>> sorted(found.read(["id", "score"]).columns)
        ['id', 'score']
    """
    from lenshpc.api.progress import progress_bar, quieten_tqdm, say_or_warn, telling
    from lenshpc.api.views import WrittenPredictions
    from lenshpc.inference.predict import begin_predictions, join, name_folder, predict_parts
    from lenshpc.launch.modes import writing
    from lenshpc.store import Store

    quieten_tqdm()
    place = images.path if isinstance(images, Store) else images
    with writing():
        with telling("reading the run") as say:
            predictions = begin_predictions(
                source,
                place,
                name_folder(source, place) if out is None else Path(out),
                models=models,
                dataset=None if dataset is None else fspath(dataset),
                prior=prior,
                rank_by=rank_by,
                top=top,
                trust_code=trust_code,
                say=lambda text: say_or_warn(text, say),
            )
        with progress_bar("predicting") as progress:
            predict_parts(predictions.root, progress=progress)
        summary = join(predictions.root)
    return WrittenPredictions(folder=predictions.root, summary=summary)
