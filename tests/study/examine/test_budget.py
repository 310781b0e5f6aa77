from itertools import permutations
from statistics import fmean

import pytest
from bench import PROBLEMS, make_bench

from mulligan.study.examine.budget import (
    BudgetRow,
    ask,
    solved_within,
    summarise,
    tokens_within,
)

TRIES = ((False, 3), (True, 7), (False, 5), (True, 2), (False, 11))


def by_hand(k):
    """Every order of the tries, stopped at the first pass."""
    solved, tokens = [], []
    for order in permutations(TRIES):
        spent, passed = 0, False
        for passes, length in order[:k]:
            spent += length
            if passes:
                passed = True
                break
        solved.append(passed)
        tokens.append(spent)
    return fmean(solved), fmean(tokens)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_what_k_tries_solve_and_cost_is_the_mean_over_all_their_orders(k):
    assert (solved_within(TRIES, k), tokens_within(TRIES, k)) == pytest.approx(by_hand(k))


def script(asked, turn, reflecting, text, j):
    if turn == 1:
        return "yes" if asked == 0 else "no"
    if reflecting:
        return "hm"
    if "hm" in text:
        return "yes" if asked == 1 and text.count("hm") == 2 else "no"
    return "crash" if asked == 2 else "no"


def test_rounds_follow_the_first_try_until_one_passes(tiny_tokenizer):
    rows = list(ask(make_bench(tiny_tokenizer, script), PROBLEMS, 0))
    assert [row.problem_id for row in rows] == [PROBLEMS[at].id for at in (0, 1, 3)]
    solved, second, never = rows
    # A token a letter, and one that ends the turn: no 3, yes 4, hm 3.
    assert (solved.tries, solved.reflecting) == (((True, 4),) * 16, ())
    assert second.reflecting == ((False, 6), (True, 7))
    assert never.reflecting == ((False, 6),) * 3
    assert never.again == ((False, 3),) * 3


def test_a_second_reflection_is_asked_for_in_the_same_conversation(tiny_tokenizer):
    bench = make_bench(tiny_tokenizer, script)
    list(ask(bench, PROBLEMS[1:2], 0))
    second = [tiny_tokenizer.decode(call.prompts[0]) for call in bench.engine.calls][3]
    assert second.endswith("Why?<|im_end|>\n<|im_start|>assistant\n")
    assert second.count("hm") == 1
    assert second.count("question 1") == 2


def test_rounds_are_compared_with_as_many_fresh_tries_as_their_tokens_buy():
    # Of two problems half of the tries pass. One is solved at once, one by a round of 30 tokens.
    tries = ((True, 10),) * 8 + ((False, 10),) * 8
    rows = [
        BudgetRow("after", "a", tries, (), ()),
        BudgetRow("after", "b", tries[::-1], ((True, 30),), ((False, 5), (False, 5), (False, 5))),
    ]
    found = {each.name: each.mean for each in summarise({"run": rows}, "after")}
    assert (found["solved_reflecting_1"], found["tokens_reflecting_1"]) == (1.0, 25.0)
    # All 16 tries cost 10 E[tries until a pass] = 10 * 17/9 < 25 tokens, and solve everything.
    assert found["reflecting_1_at_equal_tokens"] == pytest.approx(0.0)
    # Asked again once: 12.5 tokens. One try costs 10, two 15: half-way, (1/2 + 23/30) / 2.
    assert found["again_1_at_equal_tokens"] == pytest.approx(0.5 - (0.5 + 23 / 30) / 2)
    assert (found["reflecting_2_adds"], found["again_3_adds"]) == (0.0, 0.0)
