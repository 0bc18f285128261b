"""`lenshpc aggregate`: the members' predictions become a report."""

import click

from lenshpc.cli.completing import runs


@click.command(short_help="Merge a run's predictions and write its report.")
@click.argument("run", shell_complete=runs)
@click.option("--allow-partial", is_flag=True, help="Report what is there if members are missing.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json for programs.")
def aggregate(run: str, allow_partial: bool, as_json: bool) -> None:
    """Merge the predictions of RUN (a name in runs/ or a path) and write its report.

    A member without predictions is an error that names the command which mends it.

    \b
    Example:
      lenshpc aggregate lens_finding-9f2c51ab
    """
    from lenshpc.files import read_json
    from lenshpc.launch.states import reasons
    from lenshpc.paths import find_run
    from lenshpc.plan import load_plan
    from lenshpc.report.markdown import models_table
    from lenshpc.report.write import write_report

    paths = find_run(run)
    plan = load_plan(paths)
    known = reasons(paths, plan)
    page = write_report(paths, plan, reasons=known, allow_partial=allow_partial)
    content = page.with_name("report.json")
    if as_json:
        click.echo(content.read_text(encoding="utf-8"), nl=False)
        return
    click.echo(models_table(read_json(content)))
    click.echo(f"report: {page}")
