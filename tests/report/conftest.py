import pytest
from synthetic_run import make_run

from mulligan.report.page import write_report


@pytest.fixture
def run(tmp_path):
    """A small run that a test may change."""
    return make_run(tmp_path / "run", problems=60)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A run of full size with its report written, for tests that only look."""
    run = make_run(tmp_path_factory.mktemp("runs") / "demo")
    write_report(run)
    return run


@pytest.fixture(scope="session")
def finished_page(finished_run):
    return (finished_run / "report.html").read_text(encoding="utf-8")
