"""Where the test processes of a run put the outcomes that they share."""

from __future__ import annotations

import os

import pytest
from shared_outcomes import SharedOutcomes


@pytest.fixture(scope="session")
def shared_outcomes(tmp_path_factory: pytest.TempPathFactory) -> SharedOutcomes:
    """Beside the temporary folders of the workers, or in that of the only process."""
    own = tmp_path_factory.getbasetemp()
    return SharedOutcomes((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "outcomes")
