"""The Python face of runs: a recipe becomes a Plan, is sent, followed and reported on."""

from __future__ import annotations

from collections.abc import Mapping
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenshpc.api.data import open_store
from lenshpc.errors import ConfigError

if TYPE_CHECKING:
    from lenshpc.api import Location
    from lenshpc.api.views import Planned, RunComparison, Status, WrittenReport
    from lenshpc.run.recipe import Recipe
    from lenshpc.store import Store


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
    adopt: bool = True,
    restart: bool = False,
) -> Status:
    """Send what is not done of a planned run, or of a recipe on a store; say where it stands.

    `adopt` takes over what the runs beside it have trained to the same data, fold, seed and
    settings. A member that is done with fewer epochs and cannot go on is a ConfigError, unless it
    is to `restart`.

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
    from lenshpc.launch.submit import NOTHING, search
    from lenshpc.launch.submit import submit as send
    from lenshpc.worker import CALLS

    if not isinstance(planned, Planned):
        if data is None:
            raise ConfigError("submit needs a planned run, or a recipe and a store")
        planned = plan(planned, data, runs, site=site)
    for one in planned.chain:
        offer = search(one, restart=restart) if adopt else NOTHING
        send(one, planned.site, CALLS, offer)
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
    changes: Mapping[str, Any] | None = None,
    *,
    out: Location | None = None,
    allow_partial: bool = False,
    replace: bool = False,
    verbose: bool = False,
) -> WrittenReport:
    """Merge the predictions of a run's members, write its report and return it.

    The report goes to the run, or to `out`/report. IncompleteError where a member has none, unless
    `allow_partial`, and where the report that is there shows more, unless `replace`. `changes` has
    dotted keys that decide how members are judged, such as `ensemble`: then the report lies beside
    the run's own, in a folder that says so. `verbose` writes a line a stage to standard error, with
    its seconds.

    Examples:
        >>> import lenshpc
        >>> report = lenshpc.aggregate("lens")
        >>> report
        <Report AUC 1.0000: .../report/report.html>
        >>> report.content["num_members"], len(report.predictions)
        (6, 150)
        >>> lenshpc.aggregate("lens", {"ensemble": "greedy"}).folder.name
        'report-greedy'
    """
    from lenshpc.api.progress import quieten_tqdm, telling
    from lenshpc.api.views import WrittenReport, convert
    from lenshpc.launch.modes import writing_in
    from lenshpc.run.judging import judge_otherwise
    from lenshpc.run.ownership import require_place
    from lenshpc.run.paths import RunPaths, find_run
    from lenshpc.run.plan import load_plan
    from lenshpc.run.stages import silent
    from lenshpc.worker import tell_line, write_report

    quieten_tqdm()
    paths = find_run(fspath(run))
    if out is None:
        require_place(paths)
    judging = judge_otherwise(load_plan(paths), changes.items()) if changes else None
    place = paths if out is None else RunPaths(Path(out).resolve())
    try:
        place.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be created: {error.strerror}") from error
    with writing_in(place), telling("reading the run") as say:
        report = write_report(
            paths,
            out=None if out is None else place,
            judging=judging,
            allow_partial=allow_partial,
            replace=replace,
            say=say,
            tell=tell_line if verbose else silent,
        )
    shown = judging.find_place(place) if judging else place
    return convert(WrittenReport, report, folder=shown.report)


def compare(
    *runs: Location | Planned, common: bool = False, page: Location | None = None
) -> RunComparison:
    """Return how the models of two or more finished runs of a task differ on the same test rows.

    Differences are paired, with intervals and probabilities of chance. Runs whose test rows differ
    are refused, unless those that all have are asked for as `common`. `page` is where a page for a
    browser is written. IncompleteError where a run is not done.

    Examples:
        >>> import lenshpc
        >>> found = lenshpc.compare("lens", "theirs")
        >>> found
        <Comparison of lens-..., theirs: A ensemble and B ensemble are not told apart: AUC ...>
        >>> found.num_rows, [line.name for line in found.lines][:2]
        (60, ['A resnet18', 'A resnet34'])
    """
    from lenshpc.api.progress import quieten_tqdm, telling
    from lenshpc.api.views import RunComparison, convert
    from lenshpc.run.paths import find_run
    from lenshpc.worker import compare_runs

    quieten_tqdm()
    with telling("reading the runs") as say:
        found = compare_runs([find_run(fspath(one)) for one in runs], common=common, say=say)
    if page is not None:
        from lenshpc.report.comparison_page import (
            write_page,
        )  # with matplotlib, which takes a second

        write_page(found, Path(page))
    return convert(RunComparison, found)
