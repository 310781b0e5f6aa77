"""Operations and bytes of a tiny step, counted by hand."""

from dataclasses import replace

import pytest
from benchmarks.on_paper import SHAPES, Hardware, Layout, Shape, Work, step_times

TINY = Shape("tiny", 2, 3, 1, 1, 1, 5, tied=True)
"""34 weights in the layers (16 of attention, 18 of the rest) and 10 in the head."""
WORK = Work(failures=1, group_size=2, prompt=4, reflection=2, question=1, answer=1)
RATES = Hardware(
    flops=1000,
    memory=100,
    nvlink=44,
    network=22,
    disk=88,
    flops_reached=1,
    memory_reached=1,
    links_reached=1,
)


def times(link="nvlink", **layout):
    return step_times(TINY, Layout("here", 1, 1, 1, link, **layout), WORK, RATES)


@pytest.mark.parametrize(
    ("name", "published"),
    [("1.5B", 1_543_714_304), ("7B", 7_615_616_512), ("70B", 70_553_706_496)],
)
def test_shapes_have_the_published_number_of_weights(name, published):
    assert SHAPES[name].parameters == pytest.approx(published, rel=1e-3)


def test_a_rollout_reads_prompts_once_and_weights_for_every_token():
    read = 2 * 34 * (4 + 2 * 1) / 1000
    reflections = 2 * (88 + 2 * (4 + 1) * 8) / 100
    answers = 1 * (88 + 2 * (4 + 2 + 1 + 0.5) * 8) / 100
    assert times().rollout == pytest.approx(read + reflections + answers)


def test_rows_beyond_what_a_copy_generates_at_once_wait():
    read = 2 * 34 * (4 + 2 * 1) / 1000
    reflections = 2 * 2 * (88 + 1 * (4 + 1) * 8) / 100
    answers = 2 * 1 * (88 + 1 * (4 + 2 + 1 + 0.5) * 8) / 100
    assert times(rows_at_once=1).rollout == pytest.approx(read + reflections + answers)


def test_weights_travel_as_bfloat16_by_the_link_or_by_a_folder():
    assert times("nvlink").transfer == pytest.approx(88 / 44)
    assert times("network").transfer == pytest.approx(88 / 22)
    assert times("memory").transfer == pytest.approx((44 * 4 + 88) / 100)
    assert times().by_folder == pytest.approx((88 + 88) / 88)


def test_an_update_computes_a_prompt_once_or_once_for_each_reflection():
    once = 6 * 34 * 6 + 6 * 10 * 4 + 12 * 2 * 28
    apart = 2 * (6 * 34 * 5 + 6 * 10 * 2 + 12 * 2 * 18)
    assert times(reference=False).update == pytest.approx(once * 4 / 3 / 1000)
    assert times(shares_prompts=False, reference=False).update == pytest.approx(
        apart * 4 / 3 / 1000
    )


def test_a_reference_costs_a_forward_and_frozen_weights_get_no_gradient():
    plain, forward = times(reference=False), (6 * 34 * 6 + 6 * 10 * 4 + 12 * 2 * 28) / 3
    assert times().update - plain.update == pytest.approx(forward / 1000)
    saved = (2 * 34 * 6 + 2 * 10 * 4) / 1000
    assert plain.update - times(reference=False, frozen=True).update == pytest.approx(saved)


def test_twice_the_gpus_halve_the_update_and_the_rollout():
    one = step_times(TINY, Layout("one", 1, 1, 1, "memory"), WORK, RATES)
    two = step_times(TINY, Layout("two", 2, 1, 2, "memory"), WORK, RATES)
    assert two.update == pytest.approx(one.update / 2)
    assert two.rollout == pytest.approx(one.rollout / 2)


def test_shards_travel_in_every_pass_and_to_the_copy_that_generates():
    work = replace(WORK, failures=4, tokens_at_once=8)  # 4 * (4 + 2 * 2) tokens: 2 passes each
    whole, sharded = (
        step_times(TINY, Layout("here", 2, 2, 1, "nvlink", sharded=each), work, RATES)
        for each in (False, True)
    )
    assert sharded.update - whole.update == pytest.approx(2 * 4 * 44 * 4 / 2 / 44)
    assert sharded.transfer == pytest.approx(44 * 4 / 44)
