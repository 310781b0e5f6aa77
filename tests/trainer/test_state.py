import random

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    get_cosine_schedule_with_warmup,
)

from mulligan.errors import MulliganError
from mulligan.models.policies import FullPolicy
from mulligan.storage.checkpoint import Checkpoints
from mulligan.trainer.distributed import ALONE
from mulligan.trainer.state import (
    TrainingState,
    load_training_state,
    save_training_state,
    trained_tensors,
)


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def tokenizer():
    from tokenizers import Tokenizer, models

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))


class Training:
    """A tiny run that uses every source of randomness there is."""

    def __init__(self, make_model, seed, dtype=torch.float32):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        self.model = make_model().to(dtype)
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in self.model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
        self.scheduler = get_cosine_schedule_with_warmup(self.optimizer, 2, 20)

    def steps(self, count):
        for _ in range(count):
            tokens = torch.randint(0, 64, (2, 8))
            loss = self.model(tokens, labels=tokens).loss * random.random() * np.random.normal()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()

    def save(self, folder, step=3):
        policy = FullPolicy(self.model)
        save_training_state(
            folder,
            ALONE.gathered(trained_tensors(policy, self.optimizer)),
            policy=policy,
            tokenizer=tokenizer(),
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            state=TrainingState(step, skipped=1),
        )

    def load(self, folder):
        return load_training_state(
            folder,
            policy=FullPolicy(self.model),
            optimizer=self.optimizer,
            scheduler=self.scheduler,
        )

    def state(self):
        """Everything that makes the future, as comparable bytes."""
        tensors = [*self.model.state_dict().values(), torch.get_rng_state()]
        for slots in self.optimizer.state_dict()["state"].values():
            tensors.extend(slots[name] for name in sorted(slots))
        return (
            [tensor.view(torch.uint8).numpy().tobytes() for tensor in map(at_least_1d, tensors)],
            self.optimizer.state_dict()["param_groups"],
            self.scheduler.state_dict(),
            random.getstate(),
            repr(np.random.get_state()),
        )


def at_least_1d(tensor):
    return tensor.detach().reshape(-1).contiguous()


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "llama with tied embeddings": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, tie_word_embeddings=True)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", MODELS)
def test_a_restored_run_goes_on_bit_for_bit(tmp_path, architecture, dtype):
    make_model = MODELS[architecture]
    never_stopped = Training(make_model, seed=0, dtype=dtype)
    never_stopped.steps(3)
    never_stopped.save(tmp_path)
    saved_state = never_stopped.state()
    never_stopped.steps(4)

    resumed = Training(make_model, seed=99, dtype=dtype)
    resumed.steps(1)
    state = resumed.load(tmp_path)
    assert state == TrainingState(3, skipped=1)
    assert resumed.state() == saved_state
    resumed.steps(4)
    assert resumed.state() == never_stopped.state()


def test_a_run_saved_before_its_first_step_is_restored_too(tmp_path):
    fresh = Training(MODELS["llama"], seed=0)
    fresh.save(tmp_path, step=0)
    fresh.steps(2)
    resumed = Training(MODELS["llama"], seed=5)
    resumed.load(tmp_path)
    resumed.steps(2)
    assert resumed.state() == fresh.state()


def test_the_same_state_makes_the_same_bytes(tmp_path):
    run = Training(MODELS["llama"], seed=0)
    run.steps(1)
    for name in ("a", "b"):
        run.save(tmp_path / name)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_checkpoint_is_a_model_folder_and_holds_no_pickle(tmp_path):
    run = Training(MODELS["llama"], seed=0)
    path = Checkpoints(tmp_path, keep=1).save(3, run.save)
    loaded = AutoModelForCausalLM.from_pretrained(path)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert {file.suffix for file in path.rglob("*")} <= {".json", ".safetensors", ".jinja"}


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    Training(MODELS["llama"], seed=0).save(tmp_path)
    with pytest.raises(MulliganError, match=r"does not fit this model.*Resume with the recipe"):
        Training(MODELS["qwen2"], seed=0).load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors"])
def test_tensors_that_cannot_be_read_are_named_not_loaded(tmp_path, name):
    run = Training(MODELS["llama"], seed=0)
    run.save(tmp_path)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(MulliganError, match="does not fit this model"):
        run.load(tmp_path)


def test_a_state_with_a_pickle_beside_it_is_refused(tmp_path):
    run = Training(MODELS["llama"], seed=0)
    run.save(tmp_path)
    (tmp_path / "optimizer.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(MulliganError, match="a pickle"):
        run.load(tmp_path)


class Quantised(torch.optim.AdamW):
    """Keeps its averages together, beside a table that all share, as bitsandbytes does."""

    table = torch.arange(4.0)

    def state_dict(self):
        whole = super().state_dict()
        state = {
            index: {
                "step": slots["step"],
                "averages": {
                    "exp_avg": slots["exp_avg"],
                    "exp_avg_sq": slots["exp_avg_sq"],
                    "table": self.table,
                },
            }
            for index, slots in whole["state"].items()
        }
        return {**whole, "state": state}

    def load_state_dict(self, saved):
        state = {
            index: {"step": slots["step"], **slots["averages"]}
            for index, slots in saved["state"].items()
        }
        assert all(torch.equal(slots.pop("table"), self.table) for slots in state.values())
        super().load_state_dict({**saved, "state": state})


def adamw_8bit(parameters, lr):
    return pytest.importorskip("bitsandbytes").optim.AdamW8bit(parameters, lr=lr)


@pytest.mark.parametrize("make", [Quantised, pytest.param(adamw_8bit, marks=pytest.mark.slow)])
def test_an_optimizer_that_keeps_its_averages_together_goes_on_bit_for_bit(tmp_path, make):
    def training(seed):
        wide = SMALL | {"hidden_size": 64, "intermediate_size": 128}
        made = Training(lambda: LlamaForCausalLM(LlamaConfig(**wide)), seed)
        made.optimizer = make(made.model.parameters(), lr=1e-2)
        made.scheduler = get_cosine_schedule_with_warmup(made.optimizer, 2, 20)
        return made

    never_stopped = training(seed=0)
    never_stopped.steps(3)
    never_stopped.save(tmp_path)
    never_stopped.steps(4)
    resumed = training(seed=1)
    resumed.load(tmp_path)
    resumed.steps(4)
    expected, found = never_stopped.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
