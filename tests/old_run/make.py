"""Made the run kept beside this file, with version 0.1.0: stopped after two of four steps.

    cd tests/old_run && PYTHONPATH=.. python make.py

``expected/`` holds what that version made of it when it went on: newer code has to make the same.
It cannot be made again by newer code, for then it would no longer be old.
"""

import shutil
from pathlib import Path

from tiny import make_model_folder, run_cli, write_recipe

KEPT = ("metrics.jsonl", "episodes.jsonl", "evaluation/before.jsonl", "evaluation/after.jsonl")


def main() -> None:
    """Make the model, a run that stopped half-way, and what it becomes."""
    here = Path()
    for name in ("model", "runs", "expected"):
        shutil.rmtree(here / name, ignore_errors=True)
    make_model_folder(here / "model", "llama")
    recipe = write_recipe(here, "model", task="task.py", name="old", train__stop_after=2)
    assert run_cli("run", recipe, "--runs", "runs").code == 130
    whole = here / "whole"
    shutil.copytree(here / "runs", whole)
    done = run_cli("run", recipe, "train.stop_after=null", "--runs", whole, "--resume")
    assert done.code == 0, done.err
    for name in KEPT:
        (here / "expected" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / "old" / name, here / "expected" / name)
    table = run_cli("report", whole / "old", "--json")
    (here / "expected" / "table.json").write_text(table.out)
    shutil.rmtree(whole)


if __name__ == "__main__":
    main()
