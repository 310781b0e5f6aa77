import tomllib
from pathlib import Path

from benchmarks.cases import Results, Settings

import mulligan

ROOT = Path(__file__).parents[1]


def test_the_version_is_the_same_wherever_it_is_written():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text().splitlines()

    assert project["version"] == mulligan.__version__
    assert next(line for line in changelog if line.startswith("## ")) == (
        f"## {mulligan.__version__}"
    )


def test_results_of_benchmarks_name_the_version_of_the_code_that_ran():
    results = Results(None, "sft", Settings("tiny"))

    assert results.values["versions"]["mulligan"] == mulligan.__version__
