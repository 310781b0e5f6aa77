"""Tokens to a right answer: reflecting, once and again, against sampling the answer again.

Everything stops at the first answer that passes, and costs the tokens that were generated up to
there. A round is a reflection and a retry, or the problem asked again with nothing in between; all
rounds follow the first of the fresh tries, in one conversation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

from mulligan.study.examine.bench import Bench
from mulligan.study.examine.pooling import Quantity, Weighed, mean_of, pool, present
from mulligan.types import Attempt, Completion, Problem, TokenIds, Verdict

SAYS = "tokens to a right answer: rounds of reflection against sampling again"

TRIES = 16
"""Fresh tries at each problem."""
ROUNDS = 3
SHOWN = (1, 2, 4, 8, 16)
WAYS = {"reflecting": "reflection", "again": "asking again"}
"""What a round is, by the column that holds the rounds."""

Round = tuple[bool, int]
"""Whether it passed, and the tokens that it took."""


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One problem; rounds end with the first that passes."""

    when: str
    problem_id: str
    tries: tuple[Round, ...]
    reflecting: tuple[Round, ...]
    """Rounds of reflection and retry after the first try; none where it passed."""
    again: tuple[Round, ...]
    """Rounds of being asked again."""


def ask(bench: Bench, problems: Sequence[Problem], chunk: int) -> Iterator[BudgetRow]:
    """Try each problem many times, and go on from the first try in rounds.

    Problems with an answer that the verifier could not judge are left out.
    """
    attempts = bench.first_tries(problems, TRIES, chunk)
    groups = [attempts[at : at + TRIES] for at in range(0, len(attempts), TRIES)]
    groups = [group for group in groups if all(a.verdict.status != "error" for a in group)]
    firsts = [group[0] for group in groups]
    reflecting = _rounds(bench, firsts, chunk, reflect=True)
    again = _rounds(bench, firsts, chunk, reflect=False)
    for group, reflected, repeated in zip(groups, reflecting, again, strict=True):
        if reflected is not None and repeated is not None:
            tries = tuple((a.verdict.passed, a.completion.length) for a in group)
            yield BudgetRow(bench.when, group[0].problem.id, tries, reflected, repeated)


_Cost = Callable[[BudgetRow], tuple[float, float]]
"""What is solved of a problem, and the tokens that it takes."""


@dataclass
class _Talk:
    """A conversation that goes on until an answer passes."""

    first: Attempt
    said: list[Completion]
    verdicts: list[Verdict]
    rounds: list[Round]

    @property
    def goes_on(self) -> bool:
        return self.verdicts[-1].status in ("failed", "unparseable")


def _rounds(
    bench: Bench, firsts: Sequence[Attempt], chunk: int, *, reflect: bool
) -> list[tuple[Round, ...] | None]:
    """Return the rounds after each first try; None where the verifier broke in one."""
    talks = [_Talk(first, [first.completion], [first.verdict], []) for first in firsts]
    for number in range(ROUNDS):
        going = [talk for talk in talks if talk.goes_on]
        if not going:
            break
        purpose = f"{'reflecting' if reflect else 'again'}-{number}"
        thoughts = _reflections(bench, going, purpose, chunk) if reflect else [None] * len(going)
        prompts = [_prompt(bench, talk, z) for talk, z in zip(going, thoughts, strict=True)]
        problems = [talk.first.problem for talk in going]
        answers = bench.answers(problems, prompts, 1, f"{purpose}-retry", chunk)
        for talk, z, [(answer, verdict)] in zip(going, thoughts, answers, strict=True):
            talk.said += [answer] if z is None else [z, answer]
            talk.verdicts.append(verdict)
            talk.rounds.append((verdict.passed, answer.length + (z.length if z else 0)))
    return [
        None if any(v.status == "error" for v in talk.verdicts) else tuple(talk.rounds)
        for talk in talks
    ]


def _reflections(
    bench: Bench, talks: Sequence[_Talk], purpose: str, chunk: int
) -> list[Completion | None]:
    prompts = [
        bench.conversations.about(*talk.verdicts).reflection(talk.first.problem, *talk.said)
        for talk in talks
    ]
    return [row[0] for row in bench.reflections(prompts, 1, purpose, chunk)]


def _prompt(bench: Bench, talk: _Talk, reflection: Completion | None) -> TokenIds:
    speak, problem = bench.conversations.about(*talk.verdicts), talk.first.problem
    if reflection is None:
        return speak.retry_without_reflection(problem, *talk.said)
    return speak.retry(problem, *talk.said, reflection)


def solved_within(tries: Sequence[Round], k: int) -> float:
    """Return the unbiased estimate of pass@k from n tries of which c pass.

    ``1 - C(n-c, k) / C(n, k)`` (Chen et al., 2021, arXiv 2107.03374).
    """
    n, c = len(tries), sum(passed for passed, _ in tries)
    return 1 - comb(n - c, k) / comb(n, k)


def tokens_within(tries: Sequence[Round], k: int) -> float:
    """Return the expected tokens of up to k tries that stop at the first pass.

    The tries are drawn without replacement from those there are: j of them fail first with
    probability ``C(n-c, j) / C(n, j)``.
    """
    n, c = len(tries), sum(passed for passed, _ in tries)
    begun = sum(comb(n - c, j) / comb(n, j) for j in range(k))
    passing = solved_within(tries, k)
    wrong = [tokens for passed, tokens in tries if not passed]
    right = [tokens for passed, tokens in tries if passed]
    return (begun - passing) * _mean(wrong) + passing * _mean(right)


def _mean(values: Sequence[int]) -> float:
    return fmean(values) if values else 0.0


def in_rounds(row: BudgetRow, column: str, depth: int) -> Round:
    """Return whether a first try and so many rounds solve a problem, and their tokens."""
    rounds: tuple[Round, ...] = getattr(row, column)[:depth]
    done = [row.tries[0], *rounds]
    return any(passed for passed, _ in done), sum(tokens for _, tokens in done)


def summarise(rows: Mapping[str, Sequence[BudgetRow]], when: str) -> list[Quantity]:
    """Return what is solved for how many tokens, and rounds against sampling at equal tokens."""
    found: list[Quantity | None] = []
    for k in SHOWN:
        tries = "one fresh try" if k == 1 else f"{k} fresh tries"
        found += _pair(rows, when, f"sampled_{k}", tries, _cost_of_tries(k))
    for column in WAYS:
        for depth in range(1, ROUNDS + 1):
            title = f"the first try and {_phrase(column, depth)}"
            found += _pair(rows, when, f"{column}_{depth}", title, _cost_of_rounds(column, depth))
            found.append(_at_equal_tokens(rows, when, column, depth))
            if depth > 1:
                found.append(_one_more(rows, when, column, depth))
    return present(found)


def _phrase(column: str, depth: int) -> str:
    return f"{depth} round{'s' if depth > 1 else ''} of {WAYS[column]}"


def _cost_of_tries(k: int) -> _Cost:
    return lambda row: (solved_within(row.tries, k), tokens_within(row.tries, k))


def _cost_of_rounds(column: str, depth: int) -> _Cost:
    return lambda row: in_rounds(row, column, depth)


def _pair(
    rows: Mapping[str, Sequence[BudgetRow]], when: str, name: str, what: str, cost: _Cost
) -> list[Quantity | None]:
    """Return what something solves, and the tokens that it takes on the mean."""
    both = {run: [(row.problem_id, *cost(row)) for row in found] for run, found in rows.items()}
    solved = {run: mean_of((p, passed) for p, passed, _ in each) for run, each in both.items()}
    tokens = {run: mean_of((p, spent) for p, _, spent in each) for run, each in both.items()}
    return [
        pool(f"solved_{name}", when, f"solved by {what}", solved),
        pool(f"tokens_{name}", when, f"tokens of {what}, up to the first pass", tokens),
    ]


def _at_equal_tokens(
    rows: Mapping[str, Sequence[BudgetRow]], when: str, column: str, depth: int
) -> Quantity | None:
    says = f"solved with {_phrase(column, depth)}, less fresh tries at as many tokens"
    differences = {run: _less_sampling(found, column, depth) for run, found in rows.items()}
    return pool(f"{column}_{depth}_at_equal_tokens", when, says, differences)


def _less_sampling(rows: Sequence[BudgetRow], column: str, depth: int) -> list[Weighed]:
    """Return for each problem what rounds solve, less fresh tries at the same mean tokens.

    How many tries that is depends on the whole run and is seldom a whole number: between two, what
    they solve is interpolated. Where all tries together take less, they are what is compared with.
    """
    if not rows:
        return []
    spent = fmean(in_rounds(row, column, depth)[1] for row in rows)
    costs = [fmean(tokens_within(row.tries, k) for row in rows) for k in range(1, TRIES + 1)]
    fewer = max((k for k, cost in enumerate(costs, 1) if cost <= spent), default=1)
    more = min(fewer + 1, TRIES)
    step = costs[more - 1] - costs[fewer - 1]
    share = min(max((spent - costs[fewer - 1]) / step, 0.0), 1.0) if step else 0.0
    return mean_of(
        (
            row.problem_id,
            in_rounds(row, column, depth)[0]
            - (1 - share) * solved_within(row.tries, fewer)
            - share * solved_within(row.tries, more),
        )
        for row in rows
    )


def _one_more(
    rows: Mapping[str, Sequence[BudgetRow]], when: str, column: str, depth: int
) -> Quantity | None:
    says = f"what round {depth} of {WAYS[column]} adds to what is solved"
    gains = {
        run: mean_of(
            (
                row.problem_id,
                in_rounds(row, column, depth)[0] - in_rounds(row, column, depth - 1)[0],
            )
            for row in found
        )
        for run, found in rows.items()
    }
    return pool(f"{column}_{depth}_adds", when, says, gains)
