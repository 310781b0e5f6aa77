"""A run folder as training would leave it, made in a moment: for developing and testing reports."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from mulligan.storage.records import encode
from mulligan.types import (
    Answer,
    Attempt,
    Completion,
    Failure,
    Problem,
    Sampling,
    TrainedEpisode,
    Trial,
    Verdict,
    Written,
)

RATES = {
    "before": {"first_try": 0.36, "reflection": 0.21, "nothing": 0.17, "other": 0.18},
    "after": {"first_try": 0.38, "reflection": 0.38, "nothing": 0.18, "other": 0.22},
}
WRONG = [("failed", "missed_target"), ("failed", "wrong_numbers"), ("unparseable", "no_answer")]
REFLECTIONS = {
    "before": "I did not check my result. Next time I should compute the value before I answer.",
    "after": "{wrong} = {value}, but I need {target}. Trying {right} instead, and checking it.",
}


def make_run(folder: Path, problems: int = 400, samples: int = 1, seed: int = 0) -> Path:
    """Write a whole run: settings, metrics, warm-up and both evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    write_lines(folder / "metrics.jsonl", metrics(60, seed))
    write_lines(folder / "warmup.jsonl", warmup(57, seed))
    write_lines(folder / "timings.jsonl", timings(60))
    failures = [make_failure(number) for number in range(612)]
    write_lines(folder / "failures.jsonl", failures)
    write_lines(folder / "episodes.jsonl", episodes(failures, 60))
    for when in ("before", "after"):
        write_trials(folder, make_trials(when, problems, samples, seed))
    return folder


def make_trials(when: str, problems: int, samples: int = 1, seed: int = 0) -> list[Trial]:
    random = np.random.default_rng([seed, when == "after"])
    return [
        make_trial(random, when, number, sample)
        for number in range(problems)
        for sample in range(samples)
    ]


def make_trial(random: np.random.Generator, when: str, number: int, sample: int) -> Trial:
    a, b = 2 + number % 17, 3 + number % 11
    target, right, wrong = a * b, f"{a} * {b}", f"{a} + {b}"
    question = f"Use the numbers {a} and {b} and + - * / to make {target}."
    problem = Problem.create(question, {"numbers": [a, b], "target": target, "id": number})
    rates = RATES[when]
    first = answer(random, rates["first_try"], right, wrong)
    if first.verdict.passed:
        return Trial(problem.id, sample, when, question, first)
    text = REFLECTIONS[when].format(wrong=wrong, value=a + b, target=target, right=right)
    return Trial(
        problem.id,
        sample,
        when,
        question,
        first,
        reflection=text,
        reflection_tokens=int(random.integers(16, 48)),
        leaked=bool(random.random() < (0.08 if when == "before" else 0.24)),
        after_reflection=answer(random, rates["reflection"], right, wrong),
        second_tries={
            "nothing": answer(random, rates["nothing"], right, wrong),
            "other_reflection": answer(random, rates["other"], right, wrong),
        },
    )


def answer(random: np.random.Generator, rate: float, right: str, wrong: str) -> Answer:
    if random.random() < rate:
        return Answer(right, Verdict.right(), 9, "stop", logprob=-0.4)
    status, reason = WRONG[random.choice(len(WRONG), p=[0.6, 0.25, 0.15])]
    text = wrong if status == "failed" else "The numbers are hard to put together"
    return Answer(text, Verdict(status, reason), 9, "stop", logprob=-0.7)


def make_failure(number: int) -> Failure:
    a, b = 2 + number % 17, 3 + number % 11
    problem = Problem.create(f"Use {a} and {b} to make {a * b}.", {"id": number})
    wrong = Completion((1, 2, 3), f"{a} + {b}", "stop")
    attempt = Attempt(problem, (7, 8), wrong, Verdict.wrong("missed_target"))
    return Failure(f"failure-{number}", attempt, "smollm2-135m", Sampling(0.9, 24))


def episodes(failures: list[Failure], steps: int) -> list[TrainedEpisode]:
    """A dead group and one of three passes out of four in every step."""
    return [
        TrainedEpisode(
            step=step,
            failure_id=failures[2 * step + group].id,
            sample=sample,
            reward=float(group and sample > 0),
            advantage=0.0 if not group else (0.5 if sample else -1.5),
            reflection=Written(f"Step {step}: I should check my result.", 12, "stop"),
            retry=Written("2 * 3", 4, "stop"),
            verdict=Verdict.right() if group and sample else Verdict.wrong("missed_target"),
        )
        for step in range(1, steps + 1)
        for group in range(2)
        for sample in range(4)
    ]


def metrics(steps: int, seed: int) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [
        {
            "step": step,
            "reward": 0.21 + 0.2 * step / steps + 0.05 * random.standard_normal(),
            "reward_std": 0.4,
            "reflection_tokens": 34 - 10 * step / steps + 2 * random.standard_normal(),
            "live_groups": int(random.integers(4, 9)),
            "dead_groups": 2,
            "loss": 0.01 * random.standard_normal(),
            "kl": 0.002 * step / steps,
            "gradient_norm": 0.6 + 0.1 * random.standard_normal(),
            "learning_rate": 2e-5,
            "logprob_mismatch": 0.01,
            "truncated": 0.02,
            "unjudged": int(step == 7),
            "skipped": step == 9,
        }
        for step in range(1, steps + 1)
    ]


def timings(steps: int) -> list[dict[str, float]]:
    return [{"step": step, "rollout": 6.5, "update": 4.25} for step in range(1, steps + 1)]


def warmup(steps: int, seed: int) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [
        {"step": step, "loss": 0.5 + 2.5 * np.exp(-step / 9) + 0.05 * random.standard_normal()}
        for step in range(1, steps + 1)
    ]


def write_trials(run: Path, trials: list[Trial]) -> None:
    write_lines(run / "evaluation" / f"{trials[0].when}.jsonl", trials)


def write_lines(path: Path, rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(encode, rows)))


SETTINGS = {
    "name": "demo",
    "task": "countdown",
    "task_options": {"numbers": [2, 3]},
    "model": "smollm2-135m",
    "dtype": "bfloat16",
    "seed": 0,
    "prompts": {"reflect": "Your answer was wrong. Reflect.", "retry": "{question}"},
    "generate": {"temperature": 0.9, "answer_tokens": 24, "reflection_tokens": 48},
    "sft": {"examples": 900, "learning_rate": 5e-5, "batch": 16},
    "collect": {"problems": 1000, "attempts": 1},
    "train": {
        "steps": 60,
        "failures_per_step": 8,
        "group_size": 8,
        "learning_rate": 2e-5,
        "kl_beta": 0.0,
    },
    "evaluate": {"problems": 400, "samples": 1, "controls": ["nothing", "other_reflection"]},
    "made_with": {"format": 1, "mulligan": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
}
