import pytest

from hand_made import completion, make_group
from mulligan.config import Generate
from mulligan.objectives.base import Learn
from mulligan.objectives.registry import find
from mulligan.objectives.spans import by_prompt
from mulligan.types import Episode, Group, Verdict

THOUGHTS = [completion(5, 6, logprobs=(-1.0, -2.0)), completion(8, logprobs=(-3.0,), cut=True)]
RETRIES = [completion(7, logprobs=(-4.0,)), completion(7, 7, logprobs=(-5.0, -6.0))]
GROUP = make_group([True, False], reflections=THOUGHTS, retries=RETRIES)
# make_group puts token 9 between a reflection and its retry.


def spans(learn, group=GROUP, mask_truncated=False):
    return find(Learn, learn)().spans(group, [0.5, -0.5], mask_truncated)


@pytest.mark.parametrize(
    ("learn", "tokens", "learns", "logprobs"),
    [
        (
            "reflection",
            [(5, 6), (8,)],
            [(True, True), (True,)],
            [(-1.0, -2.0), (-3.0,)],
        ),
        (
            "retry",
            [(5, 6, 9, 7), (8, 9, 7, 7)],
            [(False, False, False, True), (False, False, True, True)],
            [(-1.0, -2.0, 0.0, -4.0), (-3.0, 0.0, -5.0, -6.0)],
        ),
        (
            "both",
            [(5, 6, 9, 7), (8, 9, 7, 7)],
            [(True, True, False, True), (True, False, True, True)],
            [(-1.0, -2.0, 0.0, -4.0), (-3.0, 0.0, -5.0, -6.0)],
        ),
    ],
)
def test_a_span_holds_what_was_sampled_and_the_request_between_never_learns(
    learn, tokens, learns, logprobs
):
    found = spans(learn)
    assert [span.token_ids for span in found] == tokens
    assert [span.learns for span in found] == learns
    assert [span.logprobs for span in found] == logprobs
    assert [span.advantage for span in found] == [0.5, -0.5]
    assert len(by_prompt(found)) == 1


@pytest.mark.parametrize(
    ("learn", "learns"),
    [
        ("reflection", [(True, True), (False,)]),
        ("retry", [(False, False, False, True), (False, False, True, True)]),
        ("both", [(True, True, False, True), (False, False, True, True)]),
    ],
)
def test_what_the_token_limit_cut_off_can_be_masked_alone(learn, learns):
    assert [span.learns for span in spans(learn, mask_truncated=True)] == learns


def test_a_first_try_learns_after_the_problem_alone():
    episodes = [
        Episode("f", number, None, tried, Verdict.right()) for number, tried in enumerate(RETRIES)
    ]
    found = spans("first_try", Group(GROUP.failure, (1, 2), tuple(episodes)))
    assert [(span.prompt_ids, span.token_ids) for span in found] == [
        ((1, 2), (7,)),
        ((1, 2), (7, 7)),
    ]
    assert all(all(span.learns) for span in found)


@pytest.mark.parametrize(
    ("learn", "expected"),
    [
        ("retry", [((4, 4), (7,)), ((3, 3), (7, 7))]),
        ("both", [((1, 2, 3, 4), (5, 6)), ((4, 4), (7,)), ((1, 2, 3, 4), (8,)), ((3, 3), (7, 7))]),
    ],
)
def test_where_the_template_rewrites_earlier_turns_each_part_is_a_span_of_its_own(learn, expected):
    rewritten = Group(GROUP.failure, GROUP.prompt_ids, GROUP.episodes, ((4, 4), (3, 3)))
    found = spans(learn, rewritten)
    assert [(span.prompt_ids, span.token_ids) for span in found] == expected
    assert all(all(span.learns) for span in found)


@pytest.mark.parametrize(
    ("learn", "longest"), [("reflection", 48), ("retry", 20), ("both", 68), ("first_try", 20)]
)
def test_the_longest_that_can_learn_is_what_the_recipe_allows(learn, longest):
    generate = Generate(answer_tokens=20, reflection_tokens=48)
    assert find(Learn, learn)().longest(generate) == longest
