import pytest
import torch
from benchmarks.models import SHAPES, Arithmetic, config_of
from benchmarks.workload import distinct_tokens
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM


def counted(name: str) -> Arithmetic:
    with torch.device("meta"):
        return Arithmetic.of(LlamaForCausalLM(config_of(name)))


def test_weights_are_counted_as_in_the_model():
    small = counted("135M")
    assert (small.backbone, small.head) == (106_203_456, 49_152 * 576)
    assert (small.layers, small.width) == (30, 9 * 64)


@pytest.mark.parametrize(
    ("name", "millions"), [("360M", 362), ("0.5B", 494), ("1.5B", 1544), ("14M", 14), ("47M", 47)]
)
def test_shapes_are_as_large_as_their_names_say(name, millions):
    assert name in SHAPES
    assert counted(name).weights / 1e6 == pytest.approx(millions, rel=0.02)


def test_operations_of_a_group_counted_by_hand():
    model = Arithmetic(backbone=100, head=10, layers=1, width=2)
    # A prompt of 4 and 2 completions of 3 tokens, whose last predicts nothing: 4 + 2 * 2 tokens.
    keys = 4 * 4 / 2 + 2 * 3 * (4 + 3 / 2)
    assert model.group(4, 3, 2) == 6 * 100 * 8 + 6 * 10 * 6 + 12 * 2 * keys
    assert model.group(4, 3, 2, frozen=True) == 4 * 100 * 8 + 4 * 10 * 6 + 12 * 2 * keys
    assert model.generation(5, 7) == 2 * 110 * 5 + 2 * 100 * 7
    assert model.rollout(4, 3, 2) == 2 * 110 * 6 + 2 * 100 * 4 + 4 * 2 * keys


@given(st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), max_size=8))
def test_distinct_tokens_are_the_beginnings_that_differ(sequences):
    beginnings = {each[: size + 1] for each in sequences for size in range(len(each))}
    assert distinct_tokens(sequences) == len(beginnings)
