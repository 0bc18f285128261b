"""`lenshpc doctor`: examine a cluster and write its site profile."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lenshpc.cli.show import echo, fold, say_withheld

if TYPE_CHECKING:
    from lenshpc.launch.facts import Facts
    from lenshpc.launch.finding import ClusterFinding
    from lenshpc.launch.sites import Site


@click.command(short_help="Examine a cluster and write its site profile.")
@click.option("--site", required=True, help="Site profile to write: a name, or your .yaml.")
@click.option("--partition", help="Partition to examine.  [default: the cluster's default]")
@click.option("--account", help="Account for the doctor's jobs, and for the profile.")
@click.option("--qos", help="QOS for the doctor's jobs, and for the profile.")
@click.option(
    "--preflight", is_flag=True, help="Measure the speed of every node, and exclude slow ones."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(site: str, preflight: bool, as_json: bool, **given: str | None) -> None:
    """Examine the cluster that this machine is a login node of, and write slurm/SITE.yaml.

    It submits a short job to every node of the partition that is up and takes jobs. Run it in a
    folder that all nodes share. A profile that exists is used, and not changed.

    \b
    Examples:
      lenshpc doctor --site mycluster --partition gpu --account my-project
      lenshpc doctor --site mycluster --preflight
    """
    from lenshpc.launch.doctor import findings, profile

    path = profile_path(site)
    exists = path.is_file()
    keys = {key: value for key, value in given.items() if value is not None}
    place, chosen = _site(path, keys)
    say_withheld(place)
    facts = _facts(place, preflight=preflight)
    found = findings(facts)
    seen = profile(facts, found, chosen)
    if not exists:
        _write(path, seen, found, facts.config.get("ClusterName", ""))
    if as_json:
        told = {"findings": [asdict(one) for one in found], "profile": seen, **_speeds(facts)}
        echo(json.dumps({**told, "written": None if exists else str(path)}, indent=1))
        return
    echo(_text(facts, found))
    if not exists:
        echo(f"profile: {path}; use it with: --site {path}")
        return
    new = {key: value for key, value in seen.items() if chosen.get(key) != value}
    besides = f"; it could say:\n{_yaml(new)}" if new else ", and says all of this"
    echo(f"{path} exists and was left as it is{besides}")


def profile_path(site: str) -> Path:
    """Return where the profile of that name, or at that path, lies."""
    if site.endswith((".yaml", ".yml")):
        return Path(site)
    return Path("slurm") / f"{site}.yaml"


def _site(path: Path, keys: dict[str, str]) -> tuple[Site, dict[str, Any]]:
    """Return the site to examine, and the keys that the user has chosen for it."""
    from lenshpc.config import read_yaml, validate
    from lenshpc.errors import ConfigError
    from lenshpc.launch.sites import Site, read_variables

    chosen = read_yaml(path) if path.is_file() else {"scheduler": "slurm", **keys}
    others = [key for key, value in keys.items() if chosen.get(key) != value]
    if others:
        raise ConfigError(f"{path} exists; set {', '.join(others)} in it, or use another --site")
    filled = {**chosen, **read_variables(chosen)}
    site = validate(Site, {"name": path.stem, **filled}, f"site {path}")
    if site.scheduler != "slurm":
        raise ConfigError(
            f"{path} has scheduler {site.scheduler}, which is this machine and needs no doctor; "
            "give the profile of a cluster"
        )
    return site, chosen


def _facts(site: Site, *, preflight: bool) -> Facts:
    from lenshpc.api.progress import progress_bar
    from lenshpc.launch.examine import cluster, make_shared_folder, measure, probe_nodes
    from lenshpc.launch.trials import try_ways, use_ways

    with make_shared_folder(Path()) as folder:
        facts = try_ways(cluster(site), site)
        site = use_ways(site, facts.asking)
        with progress_bar("examining", unit="nodes") as progress:
            facts = probe_nodes(facts, site, folder, progress)
        if preflight:
            with progress_bar("measuring", unit="jobs") as progress:
                facts = measure(facts, site, folder, progress)
    return facts


def _write(
    path: Path, keys: dict[str, Any], found: tuple[ClusterFinding, ...], cluster: str
) -> None:
    from lenshpc.files import write_text

    lines = [f"# Written by lenshpc doctor on cluster {cluster}. Edit it as you like."]
    lines += [f"# {one.level}: {_printable(one.what)}" for one in found]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join([*lines, _yaml(keys)]))


def _printable(text: str) -> str:
    """Return a node's words without what YAML forbids even in a comment."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _yaml(keys: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(keys, sort_keys=False))


def _speeds(facts: Facts) -> dict[str, Any]:
    return {
        "product_tflops": facts.product_tflops,
        "all_reduce_gb_per_s": facts.all_reduce_gb_per_s,
    }


def _text(facts: Facts, found: tuple[ClusterFinding, ...]) -> str:
    name, num = facts.partition["PartitionName"], len(facts.reports)
    version = facts.config.get("SLURM_VERSION", "?")
    lines = [f"SLURM {version}, partition {name}: {num} node{'s' * (num != 1)} examined"]
    for kind, speeds in _speeds(facts).items():
        lines += [
            f"{kind}: {', '.join(f'{node} {speed:.3g}' for node, speed in speeds.items())}"
        ] * bool(speeds)
    for one in found:
        lines += _wrap(one.what, f"{one.level:<8} ")
        lines += _wrap(f"means: {one.meaning}", " " * 11) * bool(one.meaning)
        lines += _wrap(f"do: {one.advice}", " " * 11) * bool(one.advice)
    return "\n".join(lines if found else [*lines, "nothing unusual"])


def _wrap(text: str, begin: str) -> list[str]:
    """Return the lines of a text that go on below where it begins; a word before it stays alone."""
    return fold(text, begin, " " * (len(begin) + (2 if begin.isspace() else 0)))
