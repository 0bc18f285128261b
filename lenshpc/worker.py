"""What runs inside an allocation: a member, the aggregation, a share of another job array.

As a module it is this machine's queue. The scheduler's pickle holds a path and numbers; all else is
read from the run directory. torch is imported where a job runs, not where it is submitted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lenshpc.files import put_back
from lenshpc.launch.modes import writing, writing_in
from lenshpc.launch.predict import PredictCalls
from lenshpc.launch.prepare import PrepareCalls
from lenshpc.launch.sites import read_tracking
from lenshpc.launch.submit import Calls
from lenshpc.launch.tune import TuneCalls
from lenshpc.registry import find_task, load
from lenshpc.run.paths import RunPaths

if TYPE_CHECKING:
    from lenshpc.engine.signals import Signals
    from lenshpc.report.comparison import Comparison
    from lenshpc.report.content import Report
    from lenshpc.run.judging import Judging
    from lenshpc.run.plan import Member, Plan
    from lenshpc.run.results import RunResults
    from lenshpc.run.stages import Stages
    from lenshpc.store import Store


def run_member(root: str, index: int) -> None:
    """Complete the member `index` of the run at `root`, or exit EX_TEMPFAIL where it must stop."""
    run = RunPaths(Path(root))
    with _stopping_well(run) as signals:
        from lenshpc.engine.member import run_member as complete
        from lenshpc.engine.trackers import choose_trackers

        complete(run, index, signals, trackers=choose_trackers(read_tracking(run)))


def run_trial(root: str, element: int) -> None:
    """Run a trial of the study whose base is at `root`, or exit EX_TEMPFAIL where it must stop."""
    base = RunPaths(Path(root))
    with _stopping_well(base) as signals:
        from lenshpc.engine.member import run_member as train
        from lenshpc.engine.trackers import choose_trackers
        from lenshpc.tuning.element import run_element
        from lenshpc.tuning.study import Study

        followed = partial(train, trackers=choose_trackers(read_tracking(base)))
        run_element(Study(base.root.parent), element, signals, followed)


@contextmanager
def _stopping_well(run: RunPaths) -> Iterator[Signals]:
    """Yield what notes signals, and leave as a batch script expects of what they have stopped."""
    from lenshpc.engine.signals import Signals, Stopped

    # Before torch is imported by what follows, which takes seconds: a signal in that time would
    # end the process by its default, and the attempt would count as a crash.
    signals = Signals()
    from lenshpc.engine.lease import Superseded

    try:
        with writing_in(run):
            yield signals
    except Stopped as stopped:
        # Not 0: the batch script asks whether to requeue only where srun has failed.
        raise SystemExit(os.EX_TEMPFAIL) from stopped
    except Superseded as superseded:
        # no failure: srun would end the step, and the later attempt's has the same name
        sys.stderr.write(f"lenshpc: {superseded}\n")


def ask_round(root: str) -> None:
    """Ask for the next points of the study whose base is at `root`."""
    from lenshpc.tuning import boards
    from lenshpc.tuning.study import Study

    base = RunPaths(Path(root))
    with writing_in(base):
        boards.ask_round(Study(base.root.parent))


def finish_study(root: str) -> None:
    """Write the report of the study whose base is at `root`, and send its best recipe if asked."""
    from lenshpc.tuning.report import write_report as write
    from lenshpc.tuning.study import Study

    base = RunPaths(Path(root))
    study = Study(base.root.parent)
    with writing_in(base):
        best = write(study)
    if best and study.settings.then_submit:
        sent = submit_best(study.settings.runs, best, study.store, base)
        sys.stderr.write(
            f"best recipe submitted; follow it with: lenshpc status {sent.root} --watch\n"
        )


def submit_best(runs: Path, recipe: Path, store: Store, base: RunPaths) -> RunPaths:
    """Send the best recipe of a study as a run, where the study's own jobs went."""
    from lenshpc.launch.sites import read_site
    from lenshpc.launch.submit import search, submit
    from lenshpc.run.plan import load_plan
    from lenshpc.run.planning import plan_chain
    from lenshpc.run.recipe import load_recipe

    # Those of the trials: what was asked for on the command line is in no profile.
    resources = load_plan(base).recipe.resources.model_dump(mode="json")
    site = read_site(base)
    asked = load_recipe(str(recipe), [("resources", resources)])
    chain = plan_chain(asked, store, runs, site.defaults)
    for one in chain:
        # Nobody is there to say so where an older run of the recipe has fewer epochs.
        submit(one, site, CALLS, search(one, restart=True))
    return chain[0].paths


def run_aggregate(root: str) -> None:
    """Write the report of the run at `root`, or fail naming what is missing."""
    run = RunPaths(Path(root))
    with writing_in(run):
        write_report(run, tell=tell_line)


def tell_line(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write_report(
    run: RunPaths,
    *,
    out: RunPaths | None = None,
    judging: Judging | None = None,
    allow_partial: bool = False,
    replace: bool = False,
    say: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Write the report of a run with all that is known of its jobs, and return it.

    `say` is told what is being done, `tell` the seconds of each stage that has ended.

    It goes to the run, or to another folder `out`; then nothing is written in the run. With
    `judging` it lies beside the run's own report, which stays as it is.
    IncompleteError where one stands that shows more, unless it is to be replaced.
    """
    from lenshpc.launch import snapshot
    from lenshpc.report.write import check_fuller, check_members, compose, write
    from lenshpc.run.plan import load_plan
    from lenshpc.run.stages import Stages

    plan = judging.plan if judging else load_plan(run)
    place = judging.find_place(out or run) if judging else out or run
    code = snapshot.read(Path("code")).sha256
    stages = Stages(folder=place.cache, code=code, say=say, tell=tell)
    with stages.hold():
        # Before it is compared with a new one: a kill may have left the earlier report aside.
        put_back(place.report)
        results = _gather(
            run,
            plan,
            stages,
            allow_partial=allow_partial,
            out=place,
            changes=judging.changes if judging else {},
            say=say,
        )
        if not replace:
            check_members(results)
        report = compose(results)
        if not replace:
            check_fuller(report, results)
        say("writing the report")
        write(report, place.report)
    return report


def _gather(run: RunPaths, plan: Plan, stages: Stages, **extras: Any) -> RunResults:
    """Return what is known of a run and of its jobs, once its members have passed the gate."""
    from lenshpc.launch.history import past_failures
    from lenshpc.launch.states import standings
    from lenshpc.launch.usage import run_usage
    from lenshpc.run.results import gather

    tools = find_task(plan.recipe.task).tools
    usage = run_usage(run, plan)
    failures = past_failures(run, usage.attempts)
    with stages.time("gate"):
        return gather(
            run,
            plan,
            standings(run, plan),
            usage=usage.summary(),
            failures=failures,
            tools={name: partial(_use, path, plan, run) for name, path in tools.items()},
            stages=stages,
            **extras,
        )


def compare_runs(
    runs: Sequence[RunPaths], *, common: bool = False, say: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Return the comparison of finished runs on the same test rows; nothing is written.

    ConfigError where they cannot be compared, or differ in their test rows and those in `common`
    were not asked for; IncompleteError where one is not done.
    """
    from lenshpc.launch.states import standings
    from lenshpc.launch.usage import run_usage
    from lenshpc.report.comparison import check_comparable, compare_results
    from lenshpc.run.plan import load_plan
    from lenshpc.run.results import gather

    plans = [load_plan(run) for run in runs]
    check_comparable(plans, [run.root for run in runs])
    results = []
    for run, plan in zip(runs, plans, strict=True):
        say(f"reading {run.name}")
        results.append(
            gather(
                run,
                plan,
                standings(run, plan),
                allow_partial=False,
                usage=run_usage(run, plan).summary(),
                say=say,
            )
        )
    return compare_results(results, common=common)


def _use(path: str, plan: Plan, run: RunPaths, member: Member, *arguments: Any) -> Any:
    """Call a task's function that needs a trained network, and import torch no earlier."""
    return load(path)(plan, run, member, *arguments)


def convert_share(folder: str, element: int, array_size: int, workers: int) -> None:
    """Convert the element's share of a draft's shards, but those that are made already."""
    from lenshpc.prep.convert import convert_shards
    from lenshpc.store import open_draft

    draft = open_draft(Path(folder))
    # All of them, since the sources of what an earlier array made may have changed.
    convert_shards(draft, range(element, len(draft.blocks), array_size), workers=workers)


def cut_share(folder: str, element: int, array_size: int, workers: int) -> None:
    """Make the cut-outs of the element's share of a draft's tiles, but those that are made."""
    from lenshpc.prep.cutouts import open_stacks
    from lenshpc.store import open_draft

    stacks = open_stacks(open_draft(Path(folder)))
    if stacks:
        stacks.make(stacks.missing(element, array_size), workers=workers)


def draw_share(
    root: str,
    element: int,
    array_size: int,
    index: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Draw the element's share of the shards of samples that a member lacks."""
    from lenshpc.run.plan import load_plan
    from lenshpc.run.samples import open_samples

    run = RunPaths(Path(root))
    plan = load_plan(run)
    samples = open_samples(run, plan, plan.members[index], seed)
    mine = samples.missing(element, array_size)
    if not mine:
        return
    generator = load(find_task(plan.recipe.task).generator or "")(plan, run, plan.members[index])
    with writing_in(run):
        for done, shard in enumerate(mine, start=1):
            samples.write(shard, generator.draw(samples.rows(shard), seed))
            progress(done, len(mine))


def probe_batches(root: str) -> None:
    """Try growing batches of the first member of the run at `root`, which is never sent."""
    from lenshpc.engine.probing import probe

    probe(RunPaths(Path(root)))


def predict_share(root: str, element: int, array_size: int) -> None:
    """Predict the element's share of the parts that an output folder lacks."""
    from lenshpc.inference.predict import predict_parts

    with writing():
        predict_parts(Path(root), element, array_size)


def join_predictions(root: str) -> None:
    """Write candidates, gallery and summary of an output folder, or fail naming what is missing."""
    from lenshpc.inference.predict import join

    with writing():
        join(Path(root))


def join_shards(folder: str) -> None:
    """Finish the store whose shards an array has converted, or fail naming what is missing."""
    from lenshpc.prep.convert import join_draft
    from lenshpc.store import open_draft

    join_draft(open_draft(Path(folder)))


TUNE_CALLS = TuneCalls(trial=run_trial, ask=ask_round, finish=finish_study)
CALLS = Calls(member=run_member, aggregate=run_aggregate)
PREDICT_CALLS = PredictCalls(predict=predict_share, join=join_predictions)
PREPARE_CALLS = PrepareCalls(cut=cut_share, convert=convert_share, join=join_shards)


def main() -> None:
    """Run the local queue of the run that is named on the command line."""
    from lenshpc.launch.local import run_queue
    from lenshpc.worker import CALLS  # not __main__'s: the jobs' pickles name their module

    run_queue(RunPaths(Path(sys.argv[1])), CALLS)


if __name__ == "__main__":
    main()
