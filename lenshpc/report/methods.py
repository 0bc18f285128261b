"""The paragraph that a paper's section on methods begins with, from the numbers of a run."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any

from lenshpc.registry import component_names
from lenshpc.report.content import Notes, Prose, Report, Section
from lenshpc.report.format import format_count, format_duration, format_metric
from lenshpc.report.references import cite, format_citations, list_cited
from lenshpc.run.recipe import Recipe, network_of
from lenshpc.run.results import RunResults
from lenshpc.statistics.results import LEVEL, NUM_RESAMPLES

BOOTSTRAP = (
    f"Intervals are {LEVEL:.0%} percentiles over {NUM_RESAMPLES:,} bootstrap resamples of the test "
    f"images{cite('statistic/bootstrap')}."
)
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "adam": "Adam"}
STEPS = {
    "d4": "flips and quarter turns",
    "affine": "turns, scalings and shifts",
    "noise": "Gaussian noise",
    "psf_jitter": "blurring",
}


def describe_methods(results: RunResults, report: Report) -> str:
    """Return what was done, in sentences with marks of citations; the task's own among them."""
    recipe, content = results.plan.recipe, report.content
    sentences = (
        *_describe_data(content),
        *_describe_networks(recipe),
        _describe_training(recipe, content),
        report.method,
        _describe_headline(report),
        *_describe_cost(content),
        f"All was run by lenshpc {content['code_version']} (run {content['fingerprint'][:8]}, "
        f"store {content['store_hash'][:12]}).",
    )
    return " ".join(filter(None, sentences))


def methods_section(text: str) -> Section:
    """Return the section of the page: the paragraph, and what it cites."""
    cited = Notes(lines=tuple(one.line for one in list_cited(text)))
    beside = "As LaTeX in methods.tex and references.bib beside this page, tables in tables/."
    paragraph = Prose(text=format_citations(text), soft=False)
    return Section(title="Methods", blocks=(paragraph, cited, Prose(text=beside)))


def _describe_data(content: Mapping[str, Any]) -> Iterator[str]:
    counts, recipe = content["counts"], content["recipe"]
    learnt = sum(one["training"] + one["oof"] for one in counts)
    excluded, test = (sum(one[key] for one in counts) for key in ("excluded", "test"))
    shape = " × ".join(map(str, content["image_shape"]))
    more = f", {excluded:,} of other classes that nothing was trained on" if excluded else ""
    each = "; ".join(
        f"{one['class']} {one['training'] + one['oof'] + one['excluded']:,} and {one['test']:,}"
        for one in counts
    )
    yield (
        f"We used the data set {content['dataset']}, images of {shape} pixels: {learnt:,} for "
        f"training and validation{more} and {test:,} for testing ({each})."
    )
    seeds = len(recipe["seeds"])
    times = "once" if seeds == 1 else f"from {seeds} seeds"
    cut = (
        "A part of the former was held out for validation, and each network was trained "
        if recipe["folds"] == 1
        else f"The former were divided into {recipe['folds']} folds, stratified by class with "
        "groups kept whole; with each fold held out each network was trained "
    )
    yield f"{cut}{times}, {format_count(content['num_members'], 'training')} in all."


def _describe_networks(recipe: Recipe) -> Iterator[str]:
    networks = list(dict.fromkeys(map(network_of, recipe.models)))
    own = component_names("networks", recipe.method.family)
    timm = recipe.method.takes_timm and any(name not in own for name in networks)
    named = _enumerate(f"{name}{cite(f'network/{name}')}" for name in networks)
    software = ["software/torch", *(["software/timm"] if timm else [])]
    what = "network was" if len(networks) == 1 else "networks were"
    yield f"The {what} {named}, in PyTorch{cite(*software)}."
    variants = [name.partition("+")[2] for name in recipe.models if "+" in name]
    if variants:
        yield f"Variants of it, {_enumerate(dict.fromkeys(variants))}, differed by settings alone."


def _describe_training(recipe: Recipe, content: Mapping[str, Any]) -> str:
    train = recipe.train
    steps = _enumerate(STEPS.get(one.kind, one.kind) for one in recipe.data.augment)
    best = [one["best_epoch"] for one in content["members"] if one["best_epoch"] is not None]
    monitor = format_metric(train.monitor or next(iter(recipe.method.monitors)))
    rate = f"a learning rate of {train.rate:g}, weight decay {train.weight_decay:g} and "
    kept = f" (in the median epoch {median(best):g})" if best else ""
    return (
        f"Each was trained for at most {format_count(train.epochs, 'epoch')} in batches of "
        f"{train.batch_size} by {OPTIMIZERS.get(train.optimizer, train.optimizer)}"
        f"{cite(f'optimizer/{train.optimizer}')} with {rate}a {train.scheduler.replace('_', ' ')} "
        f"schedule{cite(f'scheduler/{train.scheduler}')}"
        f"{f', on images augmented by {steps}' if steps else ''}; the weights of the epoch with "
        f"the best {monitor} on the held-out fold were kept{kept}."
    )


def _describe_headline(report: Report) -> str:
    head = report.headline
    more = f" ({head.range})" if head.range else ""
    return f"{head.label} was {head.value}{more}.{f' {head.note}' if head.note else ''}"


def _describe_cost(content: Mapping[str, Any]) -> Iterator[str]:
    members, usage = content["members"], content["usage"]
    if usage and usage["total"]["attempts"]:
        took = f"{usage['total']['hours']:.2f} {usage['unit']}-hours"
    else:
        took = format_duration(sum(one["seconds"] or 0 for one in members))
    used = dict.fromkeys(f"{one['num_processes']} × {one['device']}" for one in members)
    if members:
        yield f"The trainings took {took} in all, each on {_enumerate(used)}."


def _enumerate(words: Iterable[str]) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last
