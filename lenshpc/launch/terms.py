"""On what terms a run was sent: its site and sizes, which members under way keep."""

from dataclasses import dataclass

from lenshpc.errors import LensHpcError
from lenshpc.launch.jobs import latest_of_members
from lenshpc.launch.sites import Site, read_site
from lenshpc.launch.submit import Submission
from lenshpc.run.completion import missing_members, reference
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import load_plan
from lenshpc.run.sections import Resources


@dataclass(frozen=True)
class Terms:
    """What a job is asked for with, and the fingerprint does not cover."""

    site: Site
    resources: Resources


def read_terms(run: RunPaths) -> Terms | None:
    """Return the terms of the last submission; None of a new run, or where they are unreadable."""
    try:
        return Terms(read_site(run), load_plan(run).recipe.resources)
    except (LensHpcError, OSError):
        return None


def describe_kept(run: RunPaths, before: Terms | None, sent: Submission) -> str:
    """Return that members under way keep other terms than those just given; else nothing."""
    now = read_terms(run)
    if before is None or now is None:
        return ""
    latest, lacking = latest_of_members(run), missing_members(run, load_plan(run), verify=False)
    # What lacks results and was not sent waits or runs.
    under_way = {one.index for one in lacking} - {*sent.members}
    sites = sorted({latest[one][0].site for one in under_way & latest.keys()})
    if not sites or (before == now and sites == [now.site.name]):
        return ""
    num = len(under_way)
    who = (
        "1 member under way stays as it was"
        if num == 1
        else f"{num} members under way stay as they were"
    )
    return (
        f"{who} submitted, to site {', '.join(sites)}; to change that: lenshpc cancel "
        f"{reference(run)}, then the same command again"
    )
