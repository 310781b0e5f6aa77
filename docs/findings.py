"""Writes docs/findings.md and its figures from the committed results: `python docs/findings.py`.

Everything on the page is computed from ``docs/results/findings/*.json``, as ``mulligan study
--publish`` and ``mulligan examine --out`` write them. What is not there yet is said to be missing,
with its command. A sentence that a person adds to an answer is in ``sentences.json`` beside them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes

from mulligan.evaluation.scores import SCORE_TITLES
from mulligan.report.drawing import COLOURS, STYLED, Drawing, drawn, new_figure
from mulligan.report.export import standing_alone
from mulligan.report.sheets import points
from mulligan.storage.atomic import write_atomically
from mulligan.study.examine.pooling import Quantity, pool

DOCS = Path(__file__).parent
RESULTS = DOCS / "results" / "findings"
STUDY = "mulligan study studies/{}.yaml --jobs 2 --publish docs/results/findings"
EXAMINE = (
    "mulligan examine {} runs/findings_evaluation/runs/verdict-* "
    "--out docs/results/findings/{}.json"
)
CURVE = "mulligan examine curve runs/findings_long/runs/* --out docs/results/findings/curve.json"
_STUDENT = "Intervals are Student's t over runs."
PLANTED = "The warm-up plants the faults that training then repairs (`no_call: 0.6`)."
OUTCOMES = ("reflection_over_nothing", "after_reflection", "first_try", "after_nothing", "greedy")

_TITLE_WIDTH = 40
"""Characters of a line beside a figure."""

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A number with its interval; a fraction where it is not in units of its own."""

    title: str
    mean: float
    low: float | None = None
    high: float | None = None
    per_run: tuple[float, ...] = ()
    unit: str = ""
    """Empty for a fraction, which is written in points or per cent."""
    is_rate: bool = False

    def text(self) -> str:
        """Return the number and its interval as a person reads them."""
        if self.low is None or self.high is None:
            return f"{self._number(self.mean)}{self._unit()}"
        ends = f"{self._number(self.low)}, {self._number(self.high)}"
        return f"{self._number(self.mean)}{self._unit()} [{ends}]"

    def _number(self, value: float) -> str:
        if self.unit:
            return f"{value:,.2f}".replace("-", "−")
        return f"{100 * value:.1f}" if self.is_rate else points(value)

    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else "%" if self.is_rate else ""


@dataclass(frozen=True)
class Found:
    """What a file says to a question."""

    answer: str
    lines: tuple[Line, ...]
    runs: int
    notes: tuple[str, ...] = ()
    figure: Callable[[], Drawing | None] | None = None
    """By default the lines with their intervals."""


@dataclass(frozen=True)
class Question:
    """A question, and the file that answers it."""

    slug: str
    asks: str
    source: str
    """Name of the file, less its ending."""
    read: Callable[[Content], Found]
    exploratory: bool = False

    @property
    def command(self) -> str:
        """What makes the file."""
        if self.source == "curve":
            return CURVE
        study = self.source.startswith("findings_")
        return STUDY.format(self.source) if study else EXAMINE.format(self.source, self.source)


# What is read from a study's table


def estimate(content: Content, arm: str, outcome: str, quantity: str) -> Content | None:
    """Return one estimate of a study's table, or None where there is none."""
    wanted = (arm, outcome, quantity)
    rows = content["estimates"]
    return next((e for e in rows if (e["arm"], e["outcome"], e["quantity"]) == wanted), None)


def line(found: Content, title: str, *, is_rate: bool = False) -> Line:
    """Return an estimate as a line."""
    runs = tuple(found["per_run"].values())
    return Line(title, found["mean"], found["low"], found["high"], runs, is_rate=is_rate)


def lines_of(
    content: Content, arm: str, outcomes: Sequence[str], quantity: str, title: str = ""
) -> Iterator[Line]:
    """Yield an arm's estimates of some outcomes, those that there are."""
    for outcome in outcomes:
        if found := estimate(content, arm, outcome, quantity):
            yield line(found, f"{title}{SCORE_TITLES[outcome]}")


def finished(content: Content, arm: str) -> int:
    """Return how many runs of an arm are in the table."""
    return int(content["finished"].get(arm, 0))


def arm_against_base(arm: str, ends: bool = False) -> Callable[[Content], Found]:
    """Compare an arm with the base: its change, or, of another warm-up, where it ends."""

    def read(content: Content) -> Found:
        base, quantity = content["base"], "after_against_base" if ends else "against_base"
        declared = (content["primary"], *content["secondary"])
        said = [
            f"{SCORE_TITLES[outcome].lower()} {verdict(found)}"
            for outcome in declared
            if (found := estimate(content, arm, outcome, quantity))
        ]
        what = "After training" if ends else "Change by training"
        cost = next((c for c in content["costs"] if c["arm"] == arm), None)
        notes = [f"Differences are {arm} less {base}, in points."]
        if cost and cost["against_base"] is not None:
            notes.append(
                f"{cost['steps']:,.0f} steps, {cost['generated_tokens']:,.0f} generated tokens, "
                f"{cost['against_base']:.0%} of {base}'s."
            )
        return Found(
            f"{what}, {arm} against {base}: {'; '.join(said)}.",
            tuple(lines_of(content, arm, OUTCOMES, quantity)),
            finished(content, arm),
            tuple(notes),
        )

    return read


def verdict(found: Content) -> str:
    """Return what an estimate says, in words where the study has words for it."""
    return str(found["answer"]) if found.get("answer") else line(found, "").text()


def base_of(content: Content) -> Found:
    """Return what the base itself does: its changes."""
    base = content["base"]
    said = [
        f"{SCORE_TITLES[outcome].lower()} {verdict(found)}"
        for outcome in (content["primary"], *content["secondary"])
        if (found := estimate(content, base, outcome, "change"))
    ]
    return Found(
        f"Change by training: {'; '.join(said)}.",
        tuple(lines_of(content, base, OUTCOMES, "change")),
        finished(content, base),
    )


def several(arms: Sequence[str]) -> Callable[[Content], Found]:
    """Compare some arms with the base by the primary outcome; each has its lines."""

    def read(content: Content) -> Found:
        there = [arm for arm in arms if finished(content, arm)]
        primary, said, lines = content["primary"], [], []
        for arm in there:
            ends = arm == "more_warm_up"
            quantity = "after_against_base" if ends else "against_base"
            if found := estimate(content, arm, primary, quantity):
                said.append(f"{arm} {verdict(found)}")
            lines += lines_of(content, arm, OUTCOMES[:3], quantity, f"{arm}: ")
        runs = min((finished(content, arm) for arm in there), default=0)
        title = SCORE_TITLES[primary].lower()
        answer = f"{title.capitalize()}, against {content['base']}: {'; '.join(said)}."
        return Found(answer, tuple(lines), runs)

    return read


def controls(content: Content) -> Found:
    """Compare reflection with every control, after training."""
    base = content["base"]
    names = [e["outcome"] for e in content["estimates"] if e["arm"] == base]
    over = [n for n in dict.fromkeys(names) if n.startswith("reflection_over_")]
    lines = [
        line(known, f"{when}: reflection less {_control(name)}")
        for when in ("after", "change")
        for name in over
        if (known := estimate(content, base, name, when))
    ]
    ends = [
        (_control(name), known)
        for name in over
        if (known := estimate(content, base, name, "after"))
    ]
    kinds = {
        "more than": [name for name, e in ends if e["low"] is not None and e["low"] > 0],
        "less than": [name for name, e in ends if e["high"] is not None and e["high"] < 0],
    }
    said = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
    rest = [name for name, _ in ends if not any(name in names for names in kinds.values())]
    said += [f"undecided against {', '.join(rest)}"] if rest else []
    answer = f"After training reflection solves {'; '.join(said)}."
    return Found(answer, tuple(lines), finished(content, base))


def _control(outcome: str) -> str:
    return outcome.removeprefix("reflection_over_").replace("_", " ")


def generality(content: Content) -> Found:
    """Compare another problem's reflection with none: a general one would help there too."""
    base = content["base"]
    columns = ("after_other_reflection", "after_nothing")
    lines, said = [], ""
    for when in ("before", "after", "change"):
        other, nothing = (estimate(content, base, column, when) for column in columns)
        if other is None or nothing is None:
            continue
        runs = other["per_run"]
        gains = {seed: [("", runs[seed] - nothing["per_run"][seed], 1.0)] for seed in runs}
        known = pool("", when, f"{when}: another problem's reflection, less none", gains)
        assert known is not None
        lines.append(quantity_line(known))
        said = decided(known)
    answer = f"What another problem's reflection adds changes by training: {said}."
    return Found(answer, tuple(lines), finished(content, base), (_STUDENT,))


def thinking(content: Content) -> Found:
    """Compare the trained first try that thinks with the base after reflection."""
    base = content["base"]
    rows = [
        estimate(content, "thinks_first", "first_try", "after"),
        estimate(content, base, "after_reflection", "after"),
    ]
    if rows[0] is None or rows[1] is None:
        return Found("The arm thinks_first has no finished run.", (), 0)
    one, other = (row["per_run"] for row in rows if row)
    pairs = {seed: [("", one[seed] - other[seed], 1.0)] for seed in one if seed in other}
    found = pool("", "", "", pairs)
    assert found is not None
    difference = quantity_line(found, "First try that thinks, less reflection")
    return Found(
        f"First try of a model trained to think first, less {base} after reflection: "
        f"{decided(found)}.",
        (
            line(rows[0], "thinks_first, first try", is_rate=True),
            line(rows[1], f"{base}, after reflection", is_rate=True),
            difference,
        ),
        len(pairs),
        (_STUDENT,),
    )


def temperatures(content: Content) -> Found:
    """Show first try and what reflection adds by the temperature of the evaluation."""
    arms = {"t0": "0", "t03": "0.3", "t06": "0.6", content["base"]: "0.9", "t12": "1.2"}
    outcomes = ("first_try", "after_reflection", "reflection_over_nothing")
    lines = [
        line(found, f"T = {title}: {SCORE_TITLES[o]}", is_rate=not o.startswith("reflection_over"))
        for arm, title in arms.items()
        for o in outcomes
        if (found := estimate(content, arm, o, "after"))
    ]
    said = [
        f"{line(found, '').text()} at {title}"
        for arm, title in arms.items()
        if (found := estimate(content, arm, "reflection_over_nothing", "after"))
    ]
    runs = min(finished(content, arm) for arm in arms)
    return Found(f"What reflection adds after training: {', '.join(said)}.", tuple(lines), runs)


def errors(content: Content) -> Found:
    """Show how the share of each error changes in the base."""
    rows = [row for row in content["reasons"] if row["arm"] == content["base"]]
    lines = [
        Line(
            f"{SCORE_TITLES[row['column']]}: {row['reason'].replace('_', ' ')}",
            fmean(row["per_run"]),
            row["low"],
            row["high"],
            tuple(row["per_run"]),
        )
        for row in rows
    ]
    said = [f"{each.title.lower()} {each.text()}" for each in lines[:4]]
    return Found(f"Change in the share of all problems: {'; '.join(said)}.", tuple(lines),
                 finished(content, content["base"]))  # fmt: skip


def planted(read: Callable[[Content], Found]) -> Callable[[Content], Found]:
    """Say first what the warm-up of function calling does."""

    def said(content: Content) -> Found:
        known = read(content)
        return replace(known, answer=f"{PLANTED} {known.answer}")

    return said


# What is read from an examination


def quantity_line(found: Quantity | Content, title: str = "", unit: str = "", *,
                  is_rate: bool = False) -> Line:  # fmt: skip
    """Return a pooled quantity as a line."""
    if isinstance(found, Quantity):
        values = (found.mean, found.low, found.high, tuple(found.per_run.values()))
        return Line(title or found.says, *values, unit, is_rate)
    values = (found["mean"], found["low"], found["high"], tuple(found["per_run"].values()))
    return Line(title or found["says"], *values, unit, is_rate)


def decided(found: Quantity | Content) -> str:
    """Say what an interval around a difference shows."""
    text = quantity_line(found).text()
    low, high, smallest = (
        (found.low, found.high, found.smallest)
        if isinstance(found, Quantity)
        else (found["low"], found["high"], found["smallest"])
    )
    if low is None or high is None:
        return f"{text} in one run"
    if low > 0 or high < 0:
        return f"{text}, {'higher' if low > 0 else 'lower'}"
    least = "" if smallest is None else f", smallest detectable effect {100 * smallest:.1f}"
    return f"undecided: {text}{least}"


def quantity(content: Content, name: str, when: str) -> Content | None:
    """Return a quantity by name and time, or None where it is not known."""
    rows = content["quantities"]
    return next((q for q in rows if (q["name"], q["when"]) == (name, when)), None)


def asked(
    answers: Sequence[tuple[str, str]], shown: Sequence[tuple[str, str]], when: str = "after"
) -> Callable[[Content], Found]:
    """Read an examination: (name, words) of what the answer says, (name, unit) of the lines.

    The unit ``%`` is a rate; empty is a difference in points.
    """

    def read(content: Content) -> Found:
        said = [
            f"{words} {decided(found)}"
            for name, words in answers
            if (found := quantity(content, name, when))
        ]
        lines = [
            quantity_line(
                found, f"{time}: {found['says']}", unit.removesuffix("%"), is_rate=unit == "%"
            )
            for time in ("before", "after")
            for name, unit in shown
            if (found := quantity(content, name, time))
        ]
        return Found(f"After training: {'; '.join(said)}.", tuple(lines), len(content["runs"]))

    return read


def over_steps(content: Content) -> Found:
    """Read how reflections change over training."""
    fractions = {"cut_off", "distinct", "new_pairs", "names_numbers", "leaks", "scripts"}
    units = {"tokens": "tokens", "original_likelihood": "nats"}
    changes = [q for q in content["quantities"] if q["when"] == "change"]
    lines = [quantity_line(q, unit=units.get(q["name"], "")) for q in changes]
    clear = [
        f"{q['says'].partition(':')[0]} {each.text()}"
        for q, each in zip(changes, lines, strict=True)
        if q["low"] is not None and (q["low"] > 0 or q["high"] < 0)
    ]
    answer = "From the first fifth of training to the last: "
    answer += "; ".join(clear) + "." if clear else "no measure is shown to change."
    shares = tuple(each for q, each in zip(changes, lines, strict=True) if q["name"] in fractions)
    return Found(
        answer, tuple(lines), len(content["runs"]),
        figure=lambda: intervals_figure("How reflections change", shares),
    )  # fmt: skip


def dev_curve(content: Content) -> Found:
    """Read the curve of the long run."""
    changes = [q for q in content["quantities"] if q["name"].endswith("_change")]
    lines = [quantity_line(q) for q in changes]
    said = [
        f"{q['says'].partition(':')[0]}, {q['when']}: {decided(q)}"
        for q in changes
        if q["name"] in ("after_reflection_change", "reflection_over_nothing_change")
    ]
    return Found(
        f"Change up to the last step: {'; '.join(said)}.", tuple(lines), len(content["runs"]),
        figure=lambda: curve_figure(content),
    )  # fmt: skip


def budget_found(content: Content) -> Found:
    """Read what is solved for how many tokens."""
    equal = [f"{way}_{d}_at_equal_tokens" for way in ("reflecting", "again") for d in (1, 2, 3)]
    said = [(name, f"round {name.split('_')[1]} of reflection") for name in equal[:3]]
    known = asked(said, [(name, "") for name in equal])(content)
    answer = known.answer.replace(
        "After training:", "Reflection up to each round, less fresh tries at equal tokens:"
    )
    return Found(answer, known.lines, known.runs, figure=lambda: budget_figure(content))


# Figures


@STYLED
def intervals_figure(title: str, lines: Sequence[Line]) -> Drawing | None:
    """Draw lines with their intervals, and each run as a dot."""
    shown = [each for each in lines if not each.unit]
    if not shown:
        return None
    titles = [fill(each.title, _TITLE_WIDTH) for each in shown]
    lines_of_text = max(title.count("\n") + 1 for title in titles)
    figure, axes = new_figure(height=(0.16 + 0.12 * lines_of_text) * len(shown) + 0.7)
    for row, each in enumerate(shown):
        runs = [100 * value for value in each.per_run]
        axes.plot(runs, [row] * len(runs), "o", color=COLOURS["after"], alpha=0.3, markersize=3.5)
        if each.low is not None and each.high is not None:
            ends = [100 * each.low, 100 * each.high]
            axes.plot(ends, [row, row], color=COLOURS["after"], linewidth=2)
        axes.plot(100 * each.mean, row, "D", color=COLOURS["after"], markersize=6)
    axes.axvline(0, color=COLOURS["faint"], linewidth=0.8)
    axes.set_yticks(range(len(shown)), titles)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    kinds = {"per cent" if each.is_rate else "points" for each in shown}
    axes.set_xlabel(" or ".join(sorted(kinds)))
    axes.tick_params(axis="y", length=0, labelsize=7)
    axes.grid(axis="x", color=COLOURS["faint"], alpha=0.35, linewidth=0.6)
    return drawn(figure, title, "; ".join(f"{each.title} {each.text()}" for each in shown))


@STYLED
def curve_figure(content: Content) -> Drawing | None:
    """Draw what is solved on dev over the steps of training, with intervals."""
    figure, axes = new_figure(height=2.4)
    said = []
    for name, colour in (("after_reflection", "after"), ("after_nothing", "before"),
                         ("first_try", "ink")):  # fmt: skip
        rows = [q for q in content["quantities"] if q["name"] == name]
        if not rows:
            continue
        steps = [int(q["when"].removeprefix("step ")) for q in rows]
        _band(axes, steps, rows, colour, rows[0]["says"])
        said.append(f"{rows[0]['says']}: {rows[0]['mean']:.1%} to {rows[-1]['mean']:.1%}")
    if not said:
        return None
    axes.set_xlabel("step")
    axes.set_ylabel("per cent")
    axes.legend(frameon=False, fontsize=7)
    return drawn(figure, "Solved on dev over a long training", "; ".join(said))


def _band(axes: Axes, x: Sequence[float], rows: Sequence[Content], colour: str, label: str) -> None:
    mean = [100 * row["mean"] for row in rows]
    low, high = (
        [100 * (row["mean"] if row[end] is None else row[end]) for row in rows]
        for end in ("low", "high")
    )
    axes.fill_between(x, low, high, color=COLOURS[colour], alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=COLOURS[colour], marker="o", markersize=3, label=label)


@STYLED
def budget_figure(content: Content) -> Drawing | None:
    """Draw what is solved over the tokens that it takes, after training."""
    figure, axes = new_figure(height=2.6)
    ways = (
        ("sampled", (1, 2, 4, 8, 16), "ink", "sampling again"),
        ("reflecting", (1, 2, 3), "after", "reflecting"),
        ("again", (1, 2, 3), "before", "asked again"),
    )
    said = []
    for way, sizes, colour, label in ways:
        pairs = [
            (tokens["mean"], solved)
            for size in sizes
            if (solved := quantity(content, f"solved_{way}_{size}", "after"))
            and (tokens := quantity(content, f"tokens_{way}_{size}", "after"))
        ]
        if pairs:
            tokens, solved = zip(*pairs, strict=True)
            _band(axes, tokens, solved, colour, label)
            said.append(f"{label}: {solved[-1]['mean']:.1%} at {tokens[-1]:.0f} tokens")
    if not said:
        return None
    axes.set_xlabel("generated tokens per problem, up to the first pass")
    axes.set_ylabel("solved, per cent")
    axes.legend(frameon=False, fontsize=7)
    return drawn(figure, "Solved, by tokens spent", "; ".join(said))


TOKENS, OBJECTIVES = "findings_tokens", "findings_objectives"
EVALUATION, CALLS = "findings_evaluation", "findings_function_calling"

QUESTIONS = (
    Question("method", "What does the method do, on fresh seeds?", TOKENS, base_of),
    Question("first_try", "Does plain GRPO on the first try do as much?", TOKENS,
             arm_against_base("first_try")),
    Question("retry", "Should the retry learn instead of the reflection?", TOKENS,
             arm_against_base("retry")),
    Question("both", "Should both learn?", TOKENS, arm_against_base("both")),
    Question("shuffled", "Does the verdict matter? The same rewards, shuffled within each group",
             TOKENS, arm_against_base("shuffled")),
    Question("leak", "What is left without reward for reflections that state the answer?", TOKENS,
             arm_against_base("verdict_without_leak")),
    Question("errors", "How do errors change?", TOKENS, errors),
    Question("rewards", "What do other rewards teach?", OBJECTIVES,
             several(("format", "random", "self_certainty", "reference")), exploratory=True),
    Question("losses", "DPO on the groups, or fine-tuning on what passed?", OBJECTIVES,
             several(("dpo", "raft")), exploratory=True),
    Question("warm_up", "Would as much more warm-up do the same?", OBJECTIVES,
             arm_against_base("more_warm_up", ends=True), exploratory=True),
    Question("online", "Failures drawn anew at each step, or stored ones?", OBJECTIVES,
             arm_against_base("online"), exploratory=True),
    Question("controls", "Is it reflection, or any extra tokens?", EVALUATION, controls),
    Question("generality", "Do reflections become more general?", EVALUATION, generality),
    Question("thinking", "Would thinking before the first answer do as much?", EVALUATION,
             thinking),
    Question("temperature", "How much hangs on the temperature?", EVALUATION, temperatures),
    Question("rounds", "What do a second and a third reflection add?", "budget",
             asked([("reflecting_2_adds", "a second reflection adds"),
                    ("reflecting_3_adds", "a third")],
                   [(f"{way}_{d}_adds", "") for way in ("reflecting", "again") for d in (2, 3)])),
    Question("budget", "Tokens to a right answer: reflect, or sample again?", "budget",
             budget_found),
    Question("right_answers", "What if no verifier says when to retry?", "right_answers",
             asked([("gain", "always reflecting, less first try,"),
                    ("without_verifier", "always reflecting, less reflecting on failures only,")],
                   [("first_try", "%"), ("spoilt", "%"), ("spoilt_again", "%"), ("fixed", "%"),
                    ("fixed_again", "%"), ("gain", ""), ("gain_again", ""),
                    ("without_verifier", "")])),
    Question("worth", "What makes a reflection good?", "worth",
             asked([("adds", "a reflection's worth, less asking again,"),
                    ("worth_by_leaks", "stating a passing answer is worth"),
                    ("worth_by_tokens", "ten more tokens")],
                   [("worth", "%"), ("again", "%"), ("adds", ""), ("spread_within", ""),
                    *((f"worth_by_{name}", "") for name in
                      ("leaks", "calculates", "names_numbers", "tokens", "cut_off", "likelihood",
                       "original_likelihood"))])),
    Question("reflections", "How do reflections change over training?", "reflections", over_steps),
    Question("long", "Does a long run level off, and does it fall again?", "curve", dev_curve),
    Question("transfer", "Trained on two and three numbers: does it help with four?",
             "findings_transfer", arm_against_base("two_and_three", ends=True), exploratory=True),
    Question("calls_method", "Function calling: what does the method do?", CALLS, planted(base_of)),
    Question("calls", "Function calling: does a reward for form explain the gain?", CALLS,
             planted(several(("format", "shuffled", "first_try", "retry")))),
    Question("calls_faults", "Function calling, without faults planted by the warm-up?", CALLS,
             arm_against_base("no_planted_faults", ends=True)),
)  # fmt: skip

HEAD = """# Findings

The questions that the authors' talk left open, on SmolLM2-135M, pooled over training runs with
seeds that nobody chose. Countdown and function calling with a model of this size: what holds here
need not hold for a larger one, and the same study files run on one (`model: ...` in the recipe).
The function-calling model was warmed up on faults that training then repairs; one arm plants none.

Intervals hold 95% over runs and problems ([how runs are pooled](studies.md)). "Undecided" gives the
interval, and the smallest effect that so many runs would find four times in five. Exploratory
questions have four seeds and no correction for their number. This page is written by
`python docs/findings.py` from the files in [results/findings](results/findings/README.md).
"""


def main() -> None:
    """Write the page and its figures."""
    write_atomically(DOCS / "findings.md", page(RESULTS))
    for name, svg in figures(RESULTS):
        write_atomically(RESULTS / name, svg)


def page(results: Path) -> str:
    """Return the page."""
    answers = {question.slug: found(question, results) for question in QUESTIONS}
    sentences = _read(results / "sentences.json") or {}
    rows = "\n".join(_row(question, answers[question.slug], sentences) for question in QUESTIONS)
    table = f"| question | answer | figure | seeds | command |\n|---|---|---|---|---|\n{rows}\n"
    parts = [_section(question, answers[question.slug], sentences) for question in QUESTIONS]
    return "\n".join([HEAD, table, *parts])


def found(question: Question, results: Path) -> Found | None:
    """Return what is known of a question; None where nothing has been measured."""
    content = _read(results / f"{question.source}.json")
    return None if content is None else question.read(content)


def figures(results: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each figure."""
    for question in QUESTIONS:
        known = found(question, results)
        drawing = _drawing(question, known) if known else None
        if drawing is not None:
            yield f"{question.slug}.svg", standing_alone(drawing)


def _drawing(question: Question, known: Found) -> Drawing | None:
    if known.figure is not None:
        return known.figure()
    return intervals_figure(question.asks, known.lines)


def _row(question: Question, known: Found | None, sentences: Mapping[str, str]) -> str:
    asks = f"[{question.asks}](#{_anchor(question)})"
    if question.exploratory:
        asks += " (exploratory)"
    if known is None:
        return f"| {asks} | not measured yet | | | `{question.command}` |"
    figure = f"[figure](results/findings/{question.slug}.svg)" if _drawing(question, known) else ""
    answer = sentences.get(question.slug, known.answer)
    return f"| {asks} | {answer} | {figure} | {known.runs} | `{question.command}` |"


def _section(question: Question, known: Found | None, sentences: Mapping[str, str]) -> str:
    head = f"## {question.asks}\n"
    command = f"    {question.command}\n"
    if known is None:
        return f"{head}\nNothing has been measured yet. This does:\n\n{command}"
    parts = [head, known.answer]
    if said := sentences.get(question.slug):
        parts.append(said)
    if known.lines:
        rows = "\n".join(f"| {each.title} | {each.text()} |" for each in known.lines)
        parts.append(f"| | mean [95% interval] |\n|---|---|\n{rows}")
    if drawing := _drawing(question, known):
        parts.append(f"![{drawing.caption}](results/findings/{question.slug}.svg)")
    parts += known.notes
    seeds = "1 seed" if known.runs == 1 else f"{known.runs} seeds"
    parts.append(f"{seeds}{', exploratory' if question.exploratory else ''}.")
    return "\n\n".join([*parts, command])


def _anchor(question: Question) -> str:
    """Return the address of a section, which GitHub and the site make of its heading."""
    return re.sub(r"[^\w\s-]", "", question.asks).lower().replace(" ", "-")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main()
