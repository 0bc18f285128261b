"""Wait for runs that were sent: a bar counts the epochs, and a run without a report is an error."""

from lenshpc.api.progress import progress_bar
from lenshpc.errors import IncompleteError, LensHpcError
from lenshpc.launch.local import stop_queue
from lenshpc.launch.states import RunStatus, follow, has_own_queue
from lenshpc.launch.words import count_epochs
from lenshpc.run.completion import reference, resume_command
from lenshpc.run.paths import RunPaths
from lenshpc.run.planning import PlannedRun


def wait_for(chain: tuple[PlannedRun, ...]) -> None:
    """Return when every run has its report; where one has none, those of this machine end."""
    for place, one in enumerate(chain):
        try:
            _require_report(one.paths, _follow(one))
        except (KeyboardInterrupt, LensHpcError):
            for later in chain[place:]:
                if has_own_queue(later.paths):
                    stop_queue(later.paths)
            raise


def _follow(one: PlannedRun) -> RunStatus:
    """Show how many epochs are done until the run has ended, and return where it stands then."""
    with progress_bar(one.paths.name, "epochs") as progress:
        for told in follow(one.paths, one.plan):
            progress(*count_epochs(told))
    return told


def _require_report(run: RunPaths, told: RunStatus) -> None:
    if told.report == "DONE":
        return
    ended = [line for line in told.members if line.state != "DONE"]
    why = f"member {ended[0].index}: {ended[0].reason}" if ended else told.report_reason
    advice = [line.failure.advice for line in ended if line.failure and line.step == "correct"]
    go_on = advice[0] if advice else f"continue with: {resume_command(run)}"
    raise IncompleteError(
        f"run {run.name} has no report ({why or told.report}); {go_on}; for details: lenshpc "
        f"status {reference(run)}"
    )
