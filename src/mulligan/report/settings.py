"""The stages of a run with their settings, and how to make its numbers again."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mulligan.report.inputs import RunContent
from mulligan.report.markup import Html, element
from mulligan.report.summary import is_warmed_up

_VERSIONS = "made_with"
_STAGES = (
    (
        "sft",
        "Warm-up",
        "Supervised training on generated conversations, for a model below the method’s reach. "
        "It is not part of the method: the table’s “before” is measured after it.",
    ),
    ("collect", "Collect failures", "The model tries training problems; what fails is stored."),
    (
        "train",
        "Train",
        "For each failure the model reflects several times and retries; `reward` says what is "
        "rewarded, and `learn` whose tokens learn. The method rewards a reflection whose retry "
        "passes, and trains on reflections alone.",
    ),
    (
        "consolidate",
        "Consolidate",
        "The trained policy tries the problems and reflects on what it fails; what passes is "
        "trained on after the bare question.",
    ),
    (
        "evaluate",
        "Evaluate, before and after training",
        "Held-out problems, the same ones with the same seeds both times, with the controls.",
    ),
    ("generate", "How the model writes", "The same in every stage."),
    ("prompts", "What the model is told", "After a failure, and before the retry."),
    ("verify", "How answers are judged", "By the task’s own verifier."),
)
"""Section of the settings, title, and what happens there."""

_APART = frozenset({_VERSIONS, *(section for section, *_ in _STAGES)})


def stages(run: RunContent) -> Iterator[Html]:
    """Yield every stage with its settings, the run's general ones first."""
    general = {name: value for name, value in run.settings.items() if name not in _APART}
    yield _stage("The run", "Which model is trained, and on which task.", general)
    for section, title, text in _STAGES:
        settings = run.settings.get(section)
        if isinstance(settings, Mapping):
            yield _stage(title, text, settings)
        elif section == "sft" and is_warmed_up(run):
            yield _stage(title, text, {})
    if not is_warmed_up(run):
        yield element("p", "This run has no warm-up: the model was used as it is.", class_="note")


def commands(run: RunContent) -> Iterator[Html]:
    """Yield the commands that make the numbers of this page."""
    folder = f"runs/{run.name}"
    lines = {
        f"mulligan run {folder}/config.yaml name=again": "the same run once more, under a new name",
        f"mulligan report {folder} --json": "the table, computed from evaluation/*.jsonl",
        f"mulligan report {folder}": "this page",
        f"mulligan show {folder}": "more episodes, in the terminal",
    }
    width = max(map(len, lines))
    text = "\n".join(f"{command:<{width}}  # {what}" for command, what in lines.items())
    yield element("pre", text, class_="commands")


def versions(run: RunContent) -> Iterator[Html]:
    """Yield what the run was made with."""
    found = run.settings.get(_VERSIONS)
    if isinstance(found, Mapping) and found:
        yield element("h3", "Versions")
        yield _listed(found)
    else:
        yield element("p", "The run does not say which versions made it.", class_="missing")


def _stage(title: str, text: str, settings: Mapping[str, Any]) -> Html:
    summary = element("summary", element("b", title), " ", element("span", text))
    return element("details", summary, _listed(settings), class_="stage")


def _listed(settings: Mapping[str, Any]) -> Html:
    rows = (
        element("div", element("dt", name), element("dd", value))
        for name, value in _flat(settings, "")
    )
    return element("dl", *rows)


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield settings as (dotted name, value), however deeply nested."""
    if isinstance(value, Mapping) and (value or not name):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield name, ", ".join(map(str, value))
    else:
        yield name, _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
