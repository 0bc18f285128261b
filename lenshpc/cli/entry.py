"""The console script: Ctrl-C ends in one line, also while Python still imports the commands."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from lenshpc.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("lenshpc: stopped before it began\n")
        sys.exit(130)
    run()
