import pytest

from engine_models import EOS, NumberTokenizer
from mulligan.engines.scripted import ScriptedEngine
from mulligan.errors import MulliganError
from mulligan.types import Sampling

SAMPLING = Sampling(0.9, 5)


def test_a_function_scripts_each_sample_of_each_prompt():
    engine = ScriptedEngine(lambda ids, i, j: f"{ids[0]} {i} {j}", NumberTokenizer())
    groups = engine.generate([(7,), (8,)], 2, SAMPLING)
    assert [[c.text for c in group] for group in groups] == [
        ["7 0 0", "7 0 1"],
        ["8 1 0", "8 1 1"],
    ]
    assert groups[1][0].token_ids == (8, 1, 0, EOS)
    assert groups[1][0].finish_reason == "stop"
    assert len(groups[1][0].logprobs) == 4


def test_a_list_is_used_up_in_order_and_its_end_is_an_error():
    engine = ScriptedEngine(["10", "11", "12"], NumberTokenizer())
    [[first, second]] = engine.generate([(7,)], 2, SAMPLING)
    assert (first.text, second.text) == ("10", "11")
    with pytest.raises(MulliganError, match="3 texts"):
        engine.generate([(7,)], 2, SAMPLING)


def test_a_text_longer_than_the_limit_is_cut():
    engine = ScriptedEngine(["10 11 12 13 14"], NumberTokenizer())
    [[completion]] = engine.generate([(7,)], 1, SAMPLING)
    assert completion.token_ids == (10, 11, 12, 13, 14)
    assert completion.finish_reason == "length"


def test_calls_and_versions_are_recorded():
    engine = ScriptedEngine(["10"], NumberTokenizer())
    engine.generate([(7, 8)], 1, SAMPLING)
    engine.update_weights(None, 3)
    engine.reset_cache()
    assert engine.calls[0].prompts == ((7, 8),)
    assert (engine.calls[0].n, engine.calls[0].sampling) == (1, SAMPLING)
    assert (engine.policy_version, engine.updates) == (3, [3])
