import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic_run import make_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")
