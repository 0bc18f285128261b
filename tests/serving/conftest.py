"""A served folder with one planted run."""

import pytest
from site_server import serve


@pytest.fixture
def served(run):
    """Return a server of the folder of a planted run of six members."""
    with serve(run.paths.root.parent) as served:
        yield served
