"""lm-eval's tasks on a run's checkpoints, in this process.

Two collections that packages ship are written as task files of lm-eval's own format, so that the
harness itself asks them: ``mmlu_dev``, the 282 MMLU development questions inside lm-eval, and
``bigbench:NAME``, a multiple-choice task of the bigbench package.
"""

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mulligan.errors import MulliganError, nearest
from mulligan.evaluation.forgetting.records import Checkpoint, Outcome
from mulligan.storage.atomic import inside

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MMLU = "mmlu_dev"
BIGBENCH = "bigbench:"

_METRICS = ("acc", "exact_match", "em")
"""What counts as an item's outcome, the first that it has."""
_BATCH = 8
_LETTERS = "ABCDE"


def require_harness() -> None:
    """Check that lm-eval is installed.

    Raises:
        MulliganError: it is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MulliganError(
            "These tasks need lm-eval, which is not installed: pip install 'lm-eval[hf]'."
        )


def prepare(names: Sequence[str], folder: Path, include_path: Path | None) -> tuple[list[str], Any]:
    """Return the harness's names of tasks and its task manager.

    Args:
        names: ``mmlu_dev``, ``bigbench:NAME``, or any name that lm-eval knows.
        folder: where the task files of packaged data are written.
        include_path: a folder of the user's own task files.

    Raises:
        MulliganError: lm-eval or bigbench is not installed, or a task is unknown.
    """
    require_harness()
    from lm_eval.tasks import TaskManager

    asked = [_write_packaged(name, folder) for name in names]
    paths = [str(path) for path in (folder, include_path) if path is not None]
    if include_path is not None and not include_path.is_dir():
        raise MulliganError(f"No folder {str(include_path)!r} for --include_path.")
    manager = TaskManager(include_path=paths)
    for name in asked:
        if name not in manager.all_tasks:
            raise MulliganError(
                f"lm-eval has no task {name!r}: {nearest(name, manager.all_tasks)[:300]} "
                "Tasks of your own are found by --include_path."
            )
    return asked, manager


def ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    names: Sequence[str],
    manager: Any,
    limit: int | None,
) -> dict[str, Any]:
    """Return what the harness itself says of a model.

    Raises:
        MulliganError: the harness fails, for instance because a task's data cannot be loaded.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    wrapped = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=_BATCH, device=str(model.device)
    )
    try:
        results: dict[str, Any] = simple_evaluate(
            model=wrapped,
            tasks=list(names),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    except Exception as error:  # whatever the harness, its tasks and their data sets raise
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MulliganError(
            f"lm-eval could not ask {', '.join(names)}: {first_line} Data of most tasks come from "
            "a hub: check the network, or name tasks whose data are here (mmlu_dev, your own by "
            "--include_path)."
        ) from error
    return results


def outcomes(answers: Mapping[Checkpoint, Mapping[str, Any]]) -> Iterator[Outcome]:
    """Pair the harness's items across checkpoints; a group's subtasks are tasks of their own.

    Raises:
        MulliganError: a task scores its items by something other than right or wrong.
    """
    first = next(iter(answers.values()))
    for task, samples in first["samples"].items():
        filters = [sample.get("filter") for sample in samples]
        metric = next((name for name in _METRICS if samples and name in samples[0]), None)
        if metric is None:
            raise MulliganError(
                f"lm-eval's {task} does not score items as right or wrong ({', '.join(_METRICS)}), "
                "so answers cannot be paired. Leave it out."
            )
        is_choice = first["configs"][task].get("output_type") == "multiple_choice"
        for place, sample in enumerate(samples):
            if filters[place] == filters[0]:
                passed = {c: bool(a["samples"][task][place][metric]) for c, a in answers.items()}
                chance = 1 / len(sample["filtered_resps"]) if is_choice else 0.0
                yield Outcome(task, str(sample["doc_id"]), passed, chance)


def _write_packaged(name: str, folder: Path) -> str:
    """Write the task file of data that a package ships; return the harness's name for it."""
    if name == MMLU:
        return _write_task(MMLU, list(_mmlu_questions()), folder)
    if name.startswith(BIGBENCH):
        task = name.removeprefix(BIGBENCH)
        return _write_task(f"bigbench_{task}_packaged", list(_bigbench_questions(task)), folder)
    return name


def _write_task(name: str, rows: Sequence[Mapping[str, Any]], folder: Path) -> str:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return name


def _mmlu_questions() -> Iterator[dict[str, Any]]:
    """Yield the questions of lm-eval's few-shot prompts, worded as its MMLU task words them."""
    [folder] = _locations("lm_eval")
    path = folder / "tasks" / "mmlu" / "flan_cot_fewshot" / "_cot_prompts.json"
    subjects = json.loads(path.read_text(encoding="utf-8"))
    for text in subjects.values():
        for part in text.split("\n\nQ: ")[1:]:
            asked, _, reasoning = part.partition("\nA: Let's think step by step.")
            question, *pieces = re.split(rf"\s*\(([{_LETTERS}])\) ", asked)
            options = [option.strip() for option in pieces[1::2]]
            answer = re.search(rf"The answer is \(([{_LETTERS}])\)", reasoning)
            if answer is None or _LETTERS.index(answer[1]) >= len(options):
                raise MulliganError(f"{path} is not in the form that lm-eval 0.4.13 ships.")
            shown = [f"{letter}. {o}" for letter, o in zip(_LETTERS, options, strict=False)]
            yield {
                "question": "\n".join([question.strip(), *shown, "Answer:"]),
                "choices": list(_LETTERS[: len(options)]),
                "answer": _LETTERS.index(answer[1]),
            }


def _bigbench_questions(task: str) -> Iterator[dict[str, Any]]:
    """Yield the items of a bigbench task that have one best answer among several."""
    places = _locations("bigbench")
    if not places:
        raise MulliganError(
            f"{BIGBENCH}{task} needs the data of a package (a download of 358 MB): "
            "pip install --no-deps bigbench==1.0.0."
        )
    tasks = places[0] / "benchmark_tasks"
    path = inside(tasks, task) / "task.json"
    if not path.is_file():
        names = [each.parent.name for each in tasks.glob("*/task.json")]
        raise MulliganError(f"bigbench has no JSON task {task!r}: {nearest(task, names)[:300]}")
    content = json.loads(path.read_text(encoding="utf-8"))
    start = content.get("task_prefix", "")
    before, after = content.get("example_input_prefix", "\nQ: "), "\nA:"
    rows = [row for row in content["examples"] if len(row.get("target_scores", {})) > 1]
    if not rows:
        raise MulliganError(f"bigbench's {task} is not multiple choice. Name another one.")
    for row in rows:
        choices = [f" {choice}" for choice in row["target_scores"]]
        values = list(row["target_scores"].values())
        question = f"{start}{before}{row['input']}{after}".strip()
        yield {"question": question, "choices": choices, "answer": values.index(max(values))}


def _locations(package: str) -> list[Path]:
    """Return a package's folder without importing it; nothing where it is not installed."""
    found = importlib.util.find_spec(package)
    return [Path(place) for place in (found.submodule_search_locations or [])[:1]] if found else []
