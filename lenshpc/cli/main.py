"""The command `lenshpc`: its verbs, and the one place where errors become a line."""

import sys
from typing import Any

import click

from lenshpc import __version__
from lenshpc.cli.aggregate import aggregate
from lenshpc.cli.cancel import cancel
from lenshpc.cli.clean import clean
from lenshpc.cli.compare import compare
from lenshpc.cli.doctor import doctor
from lenshpc.cli.endings import describe_ending
from lenshpc.cli.export import export
from lenshpc.cli.info import info
from lenshpc.cli.list import list_runs
from lenshpc.cli.logs import logs
from lenshpc.cli.meant import explain_option, explain_verb
from lenshpc.cli.predict import predict
from lenshpc.cli.prepare import prepare
from lenshpc.cli.resume import resume
from lenshpc.cli.sample import sample
from lenshpc.cli.serve import serve
from lenshpc.cli.show import echo
from lenshpc.cli.simulate import simulate
from lenshpc.cli.spinner import spinning
from lenshpc.cli.status import status
from lenshpc.cli.submit import submit
from lenshpc.cli.tune import tune
from lenshpc.cli.verify import verify
from lenshpc.errors import LensHpcError


class Commands(click.Group):
    """Verbs in the order in which they are used; an error ends in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which they were added."""
        del ctx
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb; one of other tools leads to the one that is meant."""
        found = super().get_command(ctx, cmd_name)
        error = None if found or ctx.resilient_parsing else explain_verb(cmd_name, ctx)
        if error:
            raise error
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; whatever goes wrong ends in one line and an exit code."""
        try:
            with spinning():
                return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise explain_option(error) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, and `| head` that has seen enough
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort
            line, code = describe_ending(error, ctx.invoked_subcommand)
            for note in getattr(error, "__notes__", ()) if isinstance(error, LensHpcError) else ():
                echo(note, err=True)
            echo(f"lenshpc: {line}", err=True)
            sys.exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lenshpc")
def main() -> None:
    """Batch jobs on GPU clusters for deep learning on gravitational lenses.

    \b
    From images to a report:
      lenshpc prepare lens_finding images/ stores/lenses
      lenshpc submit --task lens-finding --data stores/lenses --site ./my.yaml
      lenshpc status RUN
      lenshpc aggregate RUN
      lenshpc predict RUN images/
    """


PREPARING = (simulate, prepare, verify, info)
RUNNING = (doctor, submit, tune, status, logs, cancel, resume, aggregate, compare)
USING = (predict, sample, export)
KEEPING = (list_runs, serve, clean)
for verb in (*PREPARING, *RUNNING, *USING, *KEEPING):
    main.add_command(verb)
