"""The sections that every report has: training, data, cost and failures, notes, origin."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lenshpc.errors import DataError
from lenshpc.report.content import (
    Banner,
    Block,
    Column,
    KeyValues,
    Log,
    Notes,
    Prose,
    Row,
    Section,
    Table,
)
from lenshpc.report.figures import draw_histories
from lenshpc.report.format import (
    ABSENT,
    flatten,
    format_count,
    format_duration,
    format_metric,
    format_number,
)
from lenshpc.run.results import RunResults
from lenshpc.store import Store

Content = Mapping[str, Any]
NUM_FAILURES = 50
ON_CPUS = "CPUs are means; memory is the peak."
ON_GPUS = (
    "CPUs, and the part of the time in which GPUs computed, are means; memory is the peak, on the "
    "fullest GPU. TFLOP/s: what the steps of one process computed per second, and its share of the "
    "most that such a GPU can do in that precision."
)
NOTES_TITLE = "How to read this"


def format_overview(content: Content, what: str) -> str:
    """Return one sentence on what the run is, and when its report was written."""
    recipe = content["recipe"]
    parts = [
        format_count(len(recipe["models"]), "model"),
        "one hold-out split" if recipe["folds"] == 1 else format_count(recipe["folds"], "fold"),
        format_count(len(recipe["seeds"]), "seed"),
    ]
    shape = " × ".join(map(str, content["image_shape"]))
    members = format_count(content["num_members"], "member")
    return (
        f"{content['task']} on {content['dataset']} ({shape} images{what}): "
        f"{', '.join(parts)}, {members} in all. Written {content['created']}."
    )


def partial_banner(content: Content) -> tuple[Banner, ...]:
    """Return the banner of a run that lacks members, none if it is whole."""
    if not content["missing"]:
        return ()
    total = f"{len(content['missing'])} of {content['num_members']} members are missing"
    return (
        Banner(
            title=f"PARTIAL: {total}.",
            text="All numbers come from the rows and members that are there; they are not those "
            "of the complete run.",
            lines=tuple(map(format_missing, content["missing"])),
            command=content["resume_command"],
        ),
    )


def format_missing(one: Content) -> str:
    """Return which member is missing and what it lacks."""
    title = f"{one['model']} fold {one['fold']} seed {one['seed']}"
    return f"member {one['index']} ({title}) {one['lack']}"


def open_or_tell(results: RunResults, what: str) -> tuple[Store | None, tuple[Block, ...]]:
    """Return the store, or none and why `what` is not shown: a run may outlive its store."""
    try:
        return results.store, ()
    except DataError as error:
        return None, (Prose(text=f"{what} are shown: {error}."),)


def common_sections(results: RunResults, content: Content) -> tuple[Section, ...]:
    """Return the sections that follow what a task has to say."""
    results.say("drawing the training history")
    cost = (*_usage(results.usage), *_failures(results.failures))
    sections = [
        Section(title="Training", blocks=_training(results, content)),
        Section(title="Data", blocks=tuple(_data(content))),
        Section(title="Cost and failures", blocks=cost),
        Section(title=NOTES_TITLE, blocks=(Notes(lines=tuple(content["notes"])),)),
        Section(title="Where it came from", blocks=_origin(content)),
    ]
    return tuple(section for section in sections if section.blocks)


def _training(results: RunResults, content: Content) -> tuple[Block, ...]:
    figures = draw_histories(results.plan.recipe.models, results.trainings)
    return (*figures, _members(content["members"]))


def _members(members: Sequence[Content]) -> Table:
    """Return the table of members with the metrics of the epoch that each kept."""
    metrics = [key for key in (members[0] if members else {}) if key.startswith("val_")]
    titles = [f"Val. {format_metric(key.removeprefix('val_'))}" for key in metrics]
    rows = (
        Row(
            cells=(
                *(str(one[key]) for key in ("index", "model", "fold", "seed")),
                *(
                    ABSENT if one[key] is None else str(one[key])
                    for key in ("best_epoch", "epochs")
                ),
                *(format_number(one[key]) for key in metrics),
                format_duration(one["seconds"]),
                ", ".join([f"{one['num_processes']} × {one['device']}", *_describe_way(one)])
                + (f"; taken over from {one['adopted']}" if one["adopted"] else ""),
            )
        )
        for one in members
    )
    return Table(
        columns=(
            Column(title="Member"),
            Column(title="Model", words=True),
            *(Column(title=title) for title in ("Fold", "Seed", "Best epoch", "Epochs", *titles)),
            Column(title="Time"),
            Column(title="Ran on", words=True),
        ),
        rows=tuple(rows),
    )


def _describe_way(member: Content) -> Iterator[str]:
    """Yield how a member computed, as far as its mark tells."""
    yield member["strategy"]
    if member["precision"]:
        in_tf32 = member["tf32"] and member["precision"] == "fp32"
        yield member["precision"] + (" in TF32" if in_tf32 else "")
    if member["deterministic"]:
        yield "deterministic"


def _data(content: Content) -> Iterator[Block]:
    yield _counts(content)
    if content["num_unlabelled"]:
        rows = format_count(content["num_unlabelled"], "more image")
        part = "" if content["unlabelled_learnt"] else "no "
        yield Prose(text=f"{rows} without a label took {part}part in the training.")


def _counts(content: Content) -> Table:
    excluded = {"excluded": "Excluded"} if any(one["excluded"] for one in content["counts"]) else {}
    titles = {"training": "Always training", "oof": "Out-of-fold", **excluded, "test": "Test"}
    return Table(
        columns=tuple(Column(title=title) for title in ("Class", *titles.values())),
        rows=tuple(
            Row(cells=(one["class"], *(f"{one[key]:,}" for key in titles)))
            for one in content["counts"]
        ),
    )


def _usage(usage: Content | None) -> tuple[Block, ...]:
    """Return what the run's jobs cost: `lenshpc status --usage` in short."""
    if not usage or not usage["total"]["attempts"]:
        return ()
    costs = {**usage.get("models", {}), "all": usage["total"]}
    hours = f"{usage['unit']}-hours"
    titles = ("Model", "Attempts", hours, "Useful", "Wasted")
    estimate = format_number(usage.get("estimate_hours"), 2)
    rows = (
        Row(
            cells=(
                name,
                str(cost["attempts"]),
                *(format_number(cost[f"{key}hours"], 2) for key in ("", "useful_", "wasted_")),
            ),
            look="strong" if name == "all" else "",
        )
        for name, cost in costs.items()
    )
    return (
        Table(
            title="Usage",
            columns=tuple(Column(title=title) for title in titles),
            rows=tuple(rows),
        ),
        Prose(
            text=f"Source: {usage.get('source', 'the jobs')}; at most {estimate} {hours} were "
            "expected. Wasted: the time after the last checkpoint of an attempt that ended "
            "early."
        ),
        *_use(usage),
    )


def _use(usage: Content) -> tuple[Block, ...]:
    """Return what members asked for beside what they used, and what to do where GPUs idled."""
    costs = {**usage.get("members", {}), "all": usage["total"]}
    uses = {name: cost["use"] for name, cost in costs.items() if cost.get("use")}
    if not uses:
        return ()
    cpus, memory = ("CPUs asked", "CPUs used"), ("GB asked", "GB used")
    gpus = ("GPUs", "GPUs busy", "GPU GB used", "GPU GB", "TFLOP/s", "Of the peak")
    on_gpus = any(use["gpus_asked"] for use in uses.values())
    titles = ("Member", *cpus, *memory, *(gpus if on_gpus else ()))
    rows = (
        Row(cells=(name, *_use_cells(use))[: len(titles)], look="strong" if name == "all" else "")
        for name, use in uses.items()
    )
    return (
        Table(
            title="Asked for and used",
            columns=tuple(Column(title=title) for title in titles),
            rows=tuple(rows),
        ),
        Prose(
            text=f"Totals over all processes of a member: {ON_GPUS if on_gpus else ON_CPUS} "
            "A dash means not measured."
        ),
        *(Prose(text=f"Warning: {one}.", soft=False) for one in usage.get("warnings", ())),
    )


def _use_cells(use: Content) -> tuple[str, ...]:
    return (
        str(use["cpus_asked"]),
        format_number(use["cpus"], 1),
        f"{use['memory_gb_asked']:.4g}",
        format_number(use["memory_gb"], 1),
        str(use["gpus_asked"]),
        _percent(use["gpu_busy"]),
        format_number(use["gpu_memory_gb"], 1),
        format_number(use["gpu_memory_total_gb"], 1),
        format_number(use.get("tflops"), 2),
        _percent(use.get("peak_share")),
    )


def _percent(part: float | None) -> str:
    return ABSENT if part is None else f"{100 * part:.0f} %"


def _failures(failures: Sequence[Content]) -> tuple[Block, ...]:
    """Return the attempts that failed, with the end of each one's log."""
    if not failures:
        return ()
    shown = failures[:NUM_FAILURES]
    titles = ("Member", "Attempt", "Failure", "What followed", "Evidence")
    keys = ("member", "attempt", "name", "action", "line")
    more = f"The first {NUM_FAILURES} of {len(failures):,}." if len(failures) > len(shown) else ""
    return (
        Table(
            title="Failed attempts",
            columns=tuple(Column(title=title, words=True) for title in titles),
            rows=tuple(
                Row(cells=tuple(str(one.get(key) or ABSENT) for key in keys)) for one in shown
            ),
        ),
        *((Prose(text=more),) if more else ()),
        *(
            Log(title=f"Log of member {one['member']}: {one['name']}", text=_tail(one["tail"]))
            for one in shown
            if one.get("tail")
        ),
    )


def _tail(tail: str | Sequence[str]) -> str:
    return tail if isinstance(tail, str) else "\n".join(tail)


def _resources(content: Content) -> Mapping[str, Any]:
    """Return what members asked for, and what they ran on."""
    used = Counter(
        f"{one['num_processes']} × {one['device']}, {one['strategy']}" for one in content["members"]
    )
    ran = {f"used: {way}": format_count(number, "member") for way, number in used.items()}
    asked = flatten(content["recipe"]["resources"])
    return {**{f"asked: {key}": value for key, value in asked}, **ran}


def _origin(content: Content) -> tuple[Block, ...]:
    hashes = {
        "run fingerprint": content["fingerprint"],
        "store": content["store"],
        "store hash": content["store_hash"],
        "splits hash": content["splits_hash"],
        "lenshpc version": content["code_version"],
    }
    provenance = content["provenance"] or {"provenance": "not recorded"}
    # What was asked for may be more than was used; both stand in a block of their own.
    recipe = {key: value for key, value in content["recipe"].items() if key != "resources"}
    titled = {
        "Recipe": recipe,
        "Resources": _resources(content),
        "Hashes": hashes,
        "Provenance": provenance,
    }
    return tuple(KeyValues(title=title, pairs=tuple(flatten(one))) for title, one in titled.items())
