import ast
import json
import random
import re
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import islice
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.errors import MulliganError
from mulligan.tasks.countdown.arithmetic import parse
from mulligan.tasks.countdown.expressions import Term, join, random_term, solve
from mulligan.tasks.countdown.options import LARGEST
from mulligan.tasks.countdown.task import Countdown
from mulligan.types import Problem
from timing import cpu_seconds

TASK = Countdown(operators="+-*/")
PAPER = {
    "counts": [3, 4],
    "largest_number": 99,
    "smallest_target": 10,
    "largest_target": 100,
    "operators": "+-*/",
}


def puzzle(numbers, target):
    return Problem.create("question", {"numbers": list(numbers), "target": target})


NINETEEN = puzzle([3, 4, 5], 19)


@st.composite
def solved(draw):
    """Numbers, operators joined anyhow, and what they come to: a target that may be asked."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    numbers = draw(st.lists(st.integers(1, 99), min_size=2, max_size=5))
    term = None
    while term is None or term.value > LARGEST:
        term = random_term(numbers, "+-*/", rng)
    return numbers, term


# Verdicts


@pytest.mark.parametrize(
    "answer",
    [
        "3 * 5 + 4 = 19",
        "3*5+4",
        "19 = 4 + 5 * 3",
        "4 - -3 * 5",
        "3 × 5 + 4 = 19",
        "3 x 5 + 4 = 19",
        "(3 * 5) + 4 = 15 + 4 = 19",
        "(3 * 5 + 4 = 19)",
        "Answer: 3 * 5 + 4",
        "**Answer:** 3 * 5 + 4 = 19",
        "<answer>3 * 5 + 4</answer>",
        "Is it 3 + 4 + 5? <answer>\n3 * 5 + 4 = 19\n</answer> because 3 * 5 = 15",
        r"$\boxed{3 \times 5 + 4}$",
        "`3*5+4`",
        "First 3 * 5 = 15, and 15 + 4 = 19.\nSo 3 * 5 + 4 = 19.",
        "The answer is:\n\n**3 * 5 + 4 = 19**\n",
        r"The answer is \(3 \times 5 + 4\).",
        "<think>3 + 4 + 5 = 12, no. 3 * 5 + 4?</think>\n3 * 5 + 4 = 19",
        "<think>no</think> <answer>3 * 5 + 4</answer>",
    ],
)
def test_a_right_equation_passes_however_it_is_put(answer):
    verdict = TASK.verify(NINETEEN, answer)
    assert (verdict.status, verdict.reason) == ("passed", "passed")


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ("", "unparseable", "no_answer"),
        ("I do not know (sorry).", "unparseable", "no_answer"),
        ("3 * 5 + 4 = 19 <answer>I give up</answer>", "unparseable", "no_answer"),
        ("19", "unparseable", "not_an_equation"),
        ("3 * 5 + (4 = 19", "unparseable", "not_an_equation"),
        ("3 * 5 + 4 / 0", "unparseable", "not_an_equation"),
        ("3 * 5 + 4 = 19.0", "unparseable", "not_an_equation"),
        ("3 * 5 = 15", "failed", "wrong_numbers"),
        ("3 * 5 = 15, 15 + 4 = 19", "unparseable", "not_an_equation"),
        ("3 * 5 + 4 + 3 - 3 = 19", "failed", "wrong_numbers"),
        ("15 + 4 = 19", "failed", "wrong_numbers"),
        ("3 * 5 - 4 = 11", "failed", "missed_target"),
        ("3 * 5 - 4 = 19", "failed", "missed_target"),
        ("3 * 5 + 4 = 20", "failed", "missed_target"),
        ("3 * 5 + 4 = 19. No:\n3 + 4 + 5 = 12", "failed", "missed_target"),
    ],
)
def test_every_way_to_fail_has_its_reason(answer, status, reason):
    verdict = TASK.verify(NINETEEN, answer)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert reason in TASK.reasons


@pytest.mark.parametrize(
    "answer",
    [
        "<think>2+5=7</think> I do not know",
        "<think>I should answer\n2 + 5 = 7",
        "2+5=7 is wrong, so I give up.",
        "I do not believe that 2+5=7",
        "2 + 5 = 7\nNo, that is wrong.",
        "2 + 5 = 7? 2 * 5 = 7?",
        "<answer>[2+5][0]</answer>",
        "<answer>2+5;print(1)</answer>",
        "<answer>2+5=7 or not</answer>",
        "<answer>2 + 5\n= 7</answer>",
        "<answer>no</answer> 2 + 5 = 7",
        "2 + 5 *",
        "2 + 5 = 7 = x",
    ],
)
def test_what_only_contains_a_right_equation_is_no_answer(answer):
    verdict = TASK.verify(puzzle([2, 5], 7), answer)
    assert verdict.status == "unparseable"
    assert verdict.reason in ("no_answer", "not_an_equation")


def test_an_operator_that_the_question_does_not_offer_makes_no_equation():
    problem = puzzle([12, 4], 3)
    assert TASK.verify(problem, "12 / 4 = 3").passed
    verdict = Countdown(operators="+-*").verify(problem, "12 / 4 = 3")
    assert (verdict.status, verdict.reason) == ("unparseable", "not_an_equation")


HOSTILE = [
    *(
        "9**9**9",
        "1e999",
        "().__class__",
        "٣ * ٥ + ٤",
        "３*５+４",
        "\0",
        "3 * 5\0 + 4",
        "1e999 + 3",
    ),
    *("(" * 10_000, "(" * 10_000 + ")" * 10_000, "(" * 10_000 + "3*5+4" + ")" * 10_000),
    *("__import__('os').system('true')", "-" * 10_000 + "3+5+4", "1+" * 10**6, "9" * 10**6),
    *("1-" + " " * 10**6 + "=", "9*" * 10_000 + "9", "3 * 5 + 4 ** 1", "1/(3-3)", "\0" * 10**6),
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_string_is_no_equation_within_100_ms(answer):
    verdict = TASK.verify(NINETEEN, answer)
    assert cpu_seconds(lambda: (TASK.verify(NINETEEN, answer), TASK.leaks(NINETEEN, answer))) < 0.1
    assert (verdict.status, verdict.reason) == ("unparseable", "not_an_equation")


@pytest.mark.parametrize(
    "piece", ["3+4 a ", "answer ", "answer: 1+1 ", "<answer>", "3*5+4-3 ,", "1 ", "a ", "\\boxed{"]
)
def test_no_long_text_takes_100_ms(piece):
    text = piece * 20_000
    assert cpu_seconds(lambda: TASK.verify(NINETEEN, text)) < 0.1
    assert cpu_seconds(lambda: TASK.leaks(NINETEEN, text)) < 0.1


@settings(deadline=None)
@given(solved(), st.booleans())
def test_a_generated_solution_always_passes(solution, claims):
    numbers, term = solution
    answer = term.equation if claims else term.text
    assert TASK.verify(puzzle(numbers, term.value), answer).passed
    assert TASK.leaks(puzzle(numbers, term.value), f"I should have said {answer}, of course.")


@settings(deadline=None)
@given(solved(), st.integers(1, 1000), st.booleans())
def test_with_another_target_it_never_does(solution, difference, claims):
    numbers, term = solution
    other = puzzle(numbers, term.value + difference)
    answer = f"{term.text} = {term.value + difference}" if claims else term.text
    assert TASK.verify(other, answer).reason == "missed_target"
    assert not TASK.leaks(other, answer)


def test_a_result_beyond_every_target_is_no_equation():
    product = "69 * 75 * 63 * 31 * 99"
    verdict = TASK.verify(puzzle([69, 75, 63, 31, 99], 1_000_577_026), f"{product} = 1000577026")
    assert verdict.reason == "not_an_equation"


@settings(deadline=None)
@given(solved(), st.integers(1, 99), st.data())
def test_with_another_number_it_never_does(solution, difference, data):
    numbers, term = solution
    index = data.draw(st.integers(0, len(numbers) - 1))
    other = [n + difference * (i == index) for i, n in enumerate(numbers)]
    for changed in (other, numbers[:index] + numbers[index + 1 :], [*numbers, difference]):
        assert TASK.verify(puzzle(changed, term.value), term.equation).reason == "wrong_numbers"


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_text_raises(text):
    assert TASK.verify(NINETEEN, text).reason in TASK.reasons
    TASK.leaks(NINETEEN, text)


PIECES = [
    *"0123456789+-*/()=.,%^ \n\t\0x×÷−³٣√",
    *("<answer>", "</answer>", "Answer:", "\\boxed{", "}", "**", " = 19", "3 * 5 + 4", "so "),
]


def test_ten_thousand_fuzzed_strings_never_raise():
    rng = random.Random(0)
    reasons = Counter()
    for _ in range(10_000):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 30)))
        reasons[TASK.verify(NINETEEN, text).reason] += 1
        TASK.leaks(NINETEEN, text)
    assert sum(reasons.values()) == 10_000
    assert set(reasons) == set(TASK.reasons)


def by_python(text, numbers, target):
    """Judge one bare expression with Python's own grammar, as an independent check."""
    used = []

    def value(node):
        match node:
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Sub(), right):
                return value(left) - value(right)
            case ast.BinOp(left, ast.Mult(), right):
                return value(left) * value(right)
            case ast.BinOp(left, ast.Div(), right):
                return value(left) / value(right)
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.Constant(int() as number):
                used.append(number)
                return Fraction(number)
        raise ValueError(node)

    try:
        result = value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return sorted(used) == sorted(numbers) and result == target


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # "3(5)" is a strange call to Python
def test_ten_thousand_edited_answers_are_judged_as_python_reads_them():
    rng = random.Random(1)
    judged = Counter()
    while judged.total() < 10_000:
        numbers = [rng.randint(1, 9) for _ in range(rng.randint(2, 4))]
        term = random_term(numbers, "+-*/", rng)
        if term is None:
            continue
        characters = list(term.text.replace(" ", ""))
        for _ in range(rng.randint(0, 2)):
            index = rng.randrange(len(characters))
            characters[index : index + rng.randint(0, 1)] = rng.choices("123456789+-*/()", k=1)
        text = "".join(characters)
        if text.startswith("*") or text.endswith("*"):
            continue  # Markdown's emphasis to us
        expected = by_python(text, numbers, term.value)
        assert TASK.verify(puzzle(numbers, term.value), text).passed == expected, text
        judged[expected] += 1
    assert min(judged[True], judged[False]) > 2_000


# Against reasoning-gym


@pytest.fixture(scope="module")
def gym_passes():
    from reasoning_gym.games.countdown import CountdownConfig, CountdownDataset

    scorer = CountdownDataset(CountdownConfig(seed=0, size=1))

    def passes(problem, answer):
        return scorer.score_answer(answer, {"metadata": dict(problem.given)}) == 1.0

    return passes


def any_expression(numbers, rng):
    """Write an expression with broken and negative intermediate results, signs, spare brackets."""
    texts = [f"-{n}" if rng.random() < 0.1 else str(n) for n in numbers]
    while len(texts) > 1:
        left, right = (texts.pop(rng.randrange(len(texts))) for _ in range(2))
        joined = f"{left} {rng.choice('+-*/')} {right}"
        texts.append(f"({joined})" if rng.random() < 0.5 else joined)
    return texts[0]


def exact_value(text):
    """Compute a trusted expression of this test with Python's grammar and exact fractions."""

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        left, right = value(node.left), value(node.right)
        return {
            ast.Add: lambda: left + right,
            ast.Sub: lambda: left - right,
            ast.Mult: lambda: left * right,
            ast.Div: lambda: left / right,
        }[type(node.op)]()

    return value(ast.parse(text, mode="eval").body)


def test_reasoning_gym_gives_the_same_verdicts(gym_passes):
    rng = random.Random(2)
    verdicts = Counter()
    for _ in range(1_000):
        numbers = [rng.randint(1, 12) for _ in range(rng.randint(2, 4))]
        used = numbers if rng.random() < 0.8 else [*numbers[1:], rng.randint(1, 12)]
        text = any_expression(used, rng)
        try:
            target = round(exact_value(text)) + (rng.random() < 0.2)
        except ZeroDivisionError:
            target = 1
        problem = puzzle(numbers, target)
        passed = TASK.verify(problem, text).passed
        assert passed == gym_passes(problem, text), (text, problem.given)
        verdicts[passed] += 1
    assert min(verdicts.values()) > 200


@pytest.mark.parametrize(
    ("numbers", "target", "answer", "ours"),
    [
        ([3, 4], 7, "3 + 4 = 7", True),  # the gym asks for an expression without "="
        ([3, 4], 7, "So 3 + 4", True),  # and for nothing else
        ([3, 4], 12, "3 × 4", True),  # and for ASCII
        ([2, 3], 8, "2 ** 3", False),  # it lets sympy's powers pass
        ([3, 4], 10, "3! + 4", False),  # and its factorials
        ([3, 4], 7, "+3 + 4", False),  # and unary plus
        ([9, 4], 7, "sqrt(9) + 4", False),  # and its functions
        ([1001, 1, 200], 1001, "1001 + 1 / 200", False),  # and what misses by less than 0.001%
    ],
)
def test_reasoning_gym_differs_only_where_we_decided_so(gym_passes, numbers, target, answer, ours):
    problem = puzzle(numbers, target)
    assert TASK.verify(problem, answer).passed is ours
    assert gym_passes(problem, answer) is not ours


# Leaks


@pytest.mark.parametrize(
    ("reflection", "leaks"),
    [
        ("I did not check my result.", False),
        ("3 + 4 + 5 = 12, but I need 19. That is too small.", False),
        ("3 + 4 + 5 = 12, no. 3 * 5 + 4 = 19, yes.", True),
        ("3 * 5 + 4 = 19, no. 3 + 4 + 5 = 12, yes.", True),
        ("It was 3 * 5 + 4 = 20.", True),
        ("I forgot the right one (4 + 3 * 5 = 19).", True),
        ("((4 + 3 * 5) is right", True),
        ("3 * 5 = 15, and 15 + 4 = 19.", False),
        ("I must reach 19 with 3, 4 and 5.", False),
    ],
)
def test_a_reflection_leaks_when_any_expression_in_it_solves_the_problem(reflection, leaks):
    assert TASK.leaks(NINETEEN, reflection) is leaks


# Answers that say the same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 * 5 + 4 = 19", "4 + 5 × 3", True),
        ("3 * 5 + 4 = 19", "4 + 5 × 3 = 19", True),
        ("3 * 5 + 4 = 19", "<answer>4 + 3 * 5 = 19</answer>", True),
        ("3 + 4 + 5 = 19", "5 + 4 + 3 = 19", True),  # both wrong, and alike
        ("3 + 4 + 5 = 19", "3 * 5 + 4 = 19", False),
        ("3 + 4 + 5 = 12", "3 + 4 + 5 = 19", False),
        ("3 * 4 = 12", "3 * 5 + 4 = 19", False),
        ("I do not know", "I do not know", False),
    ],
)
def test_answers_are_the_same_when_they_join_the_same_numbers_to_the_same_value(one, other, same):
    assert TASK.same_answer(NINETEEN, one, other) is same
    assert TASK.same_answer(NINETEEN, other, one) is same


# Problems


@pytest.mark.parametrize("options", [{}, {**PAPER, "test_size": 500}, {"operators": "+-"}])
def test_every_generated_problem_has_a_passing_reference_and_keeps_the_bounds(options):
    task = Countdown(**options)
    problems = [*task.problems("test"), *islice(task.problems("train"), 500)]
    for problem in problems:
        assert task.verify(problem, problem.reference).passed
        numbers, target = problem.given["numbers"], problem.given["target"]
        assert len(numbers) in options.get("counts", (2, 3))
        assert all(1 <= n <= options.get("largest_number", 20) for n in numbers)
        low, high = options.get("smallest_target", 1), options.get("largest_target", 60)
        assert low <= target <= high


def test_the_question_is_short_and_the_system_message_an_option():
    problem = next(Countdown(counts=[3]).problems("test"))
    numbers = ", ".join(map(str, problem.given["numbers"]))
    question = (
        f"Make {problem.given['target']} from {numbers}: use each number once with + - *. "
        "Answer with one equation."
    )
    assert problem.messages == ({"role": "user", "content": question},)
    with_system = next(Countdown(counts=[3], system="You calculate.").problems("test"))
    assert [m["role"] for m in with_system.messages] == ["system", "user"]
    assert with_system.messages[0]["content"] == "You calculate."


def key(problem):
    return (*sorted(problem.given["numbers"]), problem.given["target"])


def test_no_training_problem_is_a_test_problem_in_another_order():
    task = Countdown(counts=[2], largest_number=9, test_size=30, test_share=0.3)
    test, train = list(task.problems("test")), list(task.problems("train"))
    assert len(test) == len({key(p) for p in test}) == 30
    assert len(train) == len({p.id for p in train}) > 100
    assert not {key(p) for p in test} & {key(p) for p in train}


def test_the_same_seed_gives_the_same_problems_and_another_seed_others():
    def ids(seed):
        task = Countdown(seed=seed, test_size=50)
        return [p.id for p in [*task.problems("test"), *islice(task.problems("train"), 50)]]

    assert ids(1) == ids(1)
    assert len(set(ids(1)) & set(ids(2))) < 20


def test_problem_ids_stay_the_same_between_versions():
    assert next(Countdown().problems("test")).id == "3a4b1b13ee212bc2"


def test_counts_are_drawn_by_their_weights():
    problems = list(Countdown(counts={2: 0.25, 3: 0.75}, test_size=400).problems("test"))
    share = sum(len(p.given["numbers"]) == 2 for p in problems) / 400
    assert share == pytest.approx(0.25, abs=0.07)


def test_a_thousand_problems_take_less_than_a_second():
    assert cpu_seconds(lambda: list(islice(Countdown(**PAPER).problems("train"), 1000))) < 1


def test_more_problems_than_there_are_is_refused_with_their_number():
    task = Countdown(counts=[2], largest_number=5, test_size=200)
    with pytest.raises(MulliganError, match=r"only \d+ different test problems .* asks for 200"):
        task.problems("test")


# Rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows_become_problems_in_disjoint_seeded_splits(tmp_path):
    generated = islice(Countdown(**PAPER, seed=7).problems("train"), 300)
    rows = [{"nums": p.given["numbers"], "target": p.given["target"]} for p in generated]
    source = write_rows(tmp_path / "rows.jsonl", [*rows, rows[0]])
    task = Countdown(rows=source, operators="+-*/", test_share=0.4, test_size=80)
    test, train = list(task.problems("test")), list(task.problems("train"))
    assert len(test) == 80
    assert 140 < len(train) < 220
    assert not {key(p) for p in test} & {key(p) for p in train}
    assert {key(p) for p in [*test, *train]} <= {(*sorted(r["nums"]), r["target"]) for r in rows}
    again = Countdown(rows=source, operators="+-*/", test_share=0.4, test_size=80)
    assert [p.id for p in again.problems("test")] == [p.id for p in test]
    for shown in task.demonstrations(40, seed=0):
        assert shown.retry or task.verify(shown.problem, shown.attempt).passed
        assert key(shown.problem) in {key(p) for p in train}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"nums": [3, 4]}, "line 2: the row has no field 'target'"),
        ({"target": 7}, "line 2: the row has no field 'nums'"),
        ({"nums": "3 4", "target": 7}, "line 2: 'nums' should be a list .* is '3 4'"),
        ({"nums": [3, "4"], "target": 7}, "line 2: 'nums'"),
        ({"nums": [3, True], "target": 7}, "line 2: 'nums'"),
        ({"nums": [3], "target": 3}, "line 2: 'nums'"),
        ({"nums": [3, -4], "target": 7}, "line 2: 'nums'"),
        ({"nums": [3, 4], "target": 7.5}, "line 2: 'target' should be a whole number .* is 7.5"),
        ({"nums": [3, 4], "target": None}, "line 2: 'target'"),
    ],
)
def test_a_row_that_is_no_problem_is_refused_by_name(tmp_path, row, message):
    source = write_rows(tmp_path / "rows.jsonl", [{"nums": [3, 4], "target": 7}, row])
    with pytest.raises(MulliganError, match=message):
        Countdown(rows=source)


def test_a_file_without_rows_is_refused(tmp_path):
    with pytest.raises(MulliganError, match="has no rows"):
        Countdown(rows=write_rows(tmp_path / "rows.jsonl", []))


# Demonstrations


@pytest.fixture(scope="module")
def shown():
    return list(Countdown().demonstrations(1500, seed=3))


def test_demonstrations_come_in_the_mix_asked_for(shown):
    tags = Counter(d.tags[0] for d in shown)
    expected = {
        "answer": 0.4,
        "vague": 0.2,
        "diagnosing": 0.2,
        "searching": 0.1,
        "searching_right": 0.1,
    }
    assert {tag: n / 1500 for tag, n in tags.items()} == pytest.approx(expected, abs=0.04)
    only = Countdown(answer_share=0, reflection_shares={"vague": 1}).demonstrations(50, seed=0)
    assert {d.tags for d in only} == {("vague",)}


def test_a_mended_conversation_fails_first(shown):
    task = Countdown()
    reasons = Counter()
    for d in shown:
        first = task.verify(d.problem, d.attempt)
        if d.tags == ("answer",):
            assert first.passed
            assert d.reflection is d.retry is None
        else:
            assert first.status == "failed"
            reasons[first.reason] += 1
    assert set(reasons) == {"missed_target", "wrong_numbers"}


def test_a_demonstrated_retry_does_what_its_reflection_says(shown):
    task = Countdown()
    passed = defaultdict(list)
    for d in shown:
        if d.reflection:
            verdict = task.verify(d.problem, d.retry)
            assert verdict.reason in ("passed", "missed_target")
            passed[d.tags[0]].append(verdict.passed)
    assert all(passed["searching_right"])
    assert fmean(passed["vague"]) == pytest.approx(0.15, abs=0.06)
    assert 0.3 < fmean(passed["diagnosing"]) < 0.6


def test_only_a_search_that_succeeds_gives_the_answer_away(shown):
    task = Countdown()
    for d in shown:
        if d.reflection:
            leaks = task.leaks(d.problem, d.reflection)
            assert leaks == (d.tags == ("searching_right",)), d.reflection


def test_reflections_are_short_varied_sentences(shown):
    reflections = [d.reflection for d in shown if d.reflection]
    assert all(text.endswith(".") and len(text) < 95 for text in reflections)
    assert len(set(reflections)) > 0.7 * len(reflections)


TRIED = re.compile(r"([\d(].*?) is (\d+), (yes|no)\.")


def test_a_search_calculates_right_and_says_yes_to_the_target_only(shown):
    searches = [d for d in shown if d.tags[0].startswith("searching")]
    for d in searches:
        tried = TRIED.findall(d.reflection)
        assert " ".join(f"{term} is {value}, {word}." for term, value, word in tried) == (
            d.reflection
        )
        for term, value, word in tried:
            assert parse(term).value == int(value)
            assert (word == "yes") == (int(value) == d.problem.given["target"])
        assert [word for *_, word in tried[:-1]] == ["no"] * (len(tried) - 1)


def test_a_search_goes_through_two_numbers_in_one_order():
    task = Countdown(counts=[2], answer_share=0, reflection_shares={"searching_right": 1})
    for d in task.demonstrations(200, seed=0):
        low, high = sorted(d.problem.given["numbers"])
        ways = [f"{high} {operator} {low}" for operator in "+-*"]
        tried = [term for term, *_ in TRIED.findall(d.reflection)]
        assert tried == [way for way in ways if way in tried]


def test_demonstrations_never_touch_the_test_split():
    task = Countdown(counts=[2], largest_number=9, test_size=30)
    test = {key(p) for p in task.problems("test")}
    many = list(task.demonstrations(2000, seed=0))
    assert len(many) == 2000
    assert not test & {key(d.problem) for d in many}


def test_demonstrations_follow_their_seed():
    task = Countdown()
    first, again, other = (list(task.demonstrations(20, seed)) for seed in (1, 1, 2))
    assert first == again != other


# Expressions


def test_joined_expressions_have_only_the_parentheses_they_need():
    three, four, five = map(Term.number, (3, 4, 5))
    total, product = join(three, "+", four), join(three, "*", four)
    assert join(total, "*", five) == Term(35, "(3 + 4) * 5", 1)
    assert join(product, "+", five).equation == "3 * 4 + 5 = 17"
    assert join(Term.number(9), "-", total).equation == "9 - (3 + 4) = 2"
    assert join(Term.number(24), "/", product).equation == "24 / (3 * 4) = 2"
    assert join(three, "-", four) is None
    assert join(five, "/", three) is None


@settings(deadline=None, max_examples=30)
@given(solved())
def test_solving_finds_a_solution_where_one_was_made(solution):
    numbers, term = solution
    found = solve(numbers, term.value, "+-*/")
    if len(numbers) > 4:
        assert found is None
    else:
        assert TASK.verify(puzzle(numbers, term.value), found.equation).passed


def test_solving_says_when_there_is_no_solution():
    assert solve([1, 1], 50, "+-*/") is None


def test_an_answer_may_be_thought_about_first():
    task = Countdown(answer_share=1.0, think_first_share=0.5)
    shown = list(task.demonstrations(200, seed=0))
    tags = Counter(d.tags[0] for d in shown)
    assert set(tags) == {"answer", "think_first"}
    assert 70 < tags["think_first"] < 130
    for d in shown:
        assert d.reflection is None
        assert task.verify(d.problem, d.attempt).passed
        assert ("\n" in d.attempt) == (d.tags == ("think_first",))
    thought = next(d.attempt for d in shown if d.tags == ("think_first",)).split("\n")[0]
    assert TRIED.findall(thought)
