import pytest
import torch

from engine_models import greedy_by_transformers, logprobs_by_transformers
from mulligan.engines.local.engine import LocalEngine
from mulligan.models.load import DEFAULT_MODEL, load_model
from mulligan.types import Sampling

pytestmark = pytest.mark.slow

QUESTIONS = ("What is 3 + 4?", "Name a river in France.", "Use 2, 5 and 9 to make 16.")


@pytest.fixture(scope="module")
def smollm():
    return load_model(DEFAULT_MODEL, dtype="float32", device="cpu")


def prompts_for(tokenizer):
    return [
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_dict=True,
            )["input_ids"]
        )
        for question in QUESTIONS
    ]


def test_smollm2_gives_the_greedy_tokens_of_generate_and_goes_on_with_them(smollm):
    model, tokenizer = smollm
    engine = LocalEngine(model, tokenizer)
    prompts = prompts_for(tokenizer)
    sampling = Sampling(0.0, 24)
    groups = engine.generate(prompts, 2, sampling)
    turn = tuple(tokenizer.encode("\n<|im_start|>user\nTry again.<|im_end|>\n"))
    longer = [p + g[0].token_ids + turn for p, g in zip(prompts, groups, strict=True)]
    for prompt, group in zip(
        prompts + longer, groups + engine.generate(longer, 1, sampling), strict=True
    ):
        expected = greedy_by_transformers(model, prompt, sampling.max_tokens)
        assert [c.token_ids for c in group] == [expected] * len(group)


def test_smollm2_in_bfloat16_scores_its_tokens_nearly_as_in_float32(smollm):
    model, tokenizer = smollm
    engine = LocalEngine(model, tokenizer, dtype=torch.bfloat16)
    prompts = prompts_for(tokenizer)
    groups = engine.generate(prompts, 4, Sampling(0.9, 24))
    differences = [
        (torch.tensor(c.logprobs) - logprobs_by_transformers(model, prompt, c.token_ids, 0.9)).abs()
        for prompt, group in zip(prompts, groups, strict=True)
        for c in group
    ]
    assert torch.cat(differences).mean() < 0.05
