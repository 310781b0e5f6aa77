"""What the page on production shows runs."""

import re
import shutil
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "production.md"


def test_the_python_on_its_page_has_ten_lines_and_runs(tmp_path, tiny_run, monkeypatch):
    [block] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    shutil.copytree(tiny_run, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    names = {}

    exec(block, names)

    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    assert names["solution"].tries in (1, 2, 3)
    assert names["solution"].problem == names["problem"]
