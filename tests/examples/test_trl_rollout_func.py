"""The example in real TRL, with a tiny random model: what it trains on, and that it trains."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy
from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.objective import make_objective
from mulligan.trainer.update import make_updater
from mulligan.types import Completion, Episode, Group, Verdict
from tiny import tiny_recipe
from tiny_models import gradients, largest_difference
from training_bench import failures

pytest.importorskip("trl")

SCRIPT = Path(__file__).parents[2] / "examples" / "trl_rollout_func" / "train.py"
VERDICTS = {"yes": Verdict.right(), "no": Verdict.wrong(), "crash": Verdict.error("broke")}
RETRIES = [["yes", "no", "crash", "no"], ["no", "yes", "yes", "no"], ["crash", "no", "yes", "no"]]
"""What is answered after each reflection on each of three failures."""


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("trl_rollout_func", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_trainer(example, tiny_llama, tmp_path):
    """Makes TRL's trainer for three failures, whose reflections and retries are scripted."""

    def make(**train):
        settings = {"loss": "dapo", "steps": 1, "failures_per_step": 3, "group_size": 4}
        settings |= {"kl_beta": 0.0, "learning_rate": 1e-3, "max_grad_norm": 1e9}
        recipe = tiny_recipe(tiny_llama, train=settings | train)
        model, tokenizer = load_model(str(tiny_llama), "float32", "cpu")
        conversations = Conversations(tokenizer, recipe.prompts.reflect)
        store = list(failures(tokenizer, conversations, 3))
        number = {each.attempt.problem.messages[0]["content"]: i for i, each in enumerate(store)}
        thoughts = [[f"r{i}{j}" * (j + 1) for j in range(4)] for i in range(3)]

        def script(prompt, i, j):
            said = tokenizer.decode(prompt)
            [failure] = [n for words, n in number.items() if f"user\n{words}<" in said]
            after = [n for n, each in enumerate(thoughts[failure]) if f"\n{each[:6]}<" in said]
            return RETRIES[failure][after[0]] if after else thoughts[failure][j]

        def verify(pairs):
            return [VERDICTS[text] for _, text in pairs]

        engine = ScriptedEngine(script, tokenizer)
        rollout = example.ReflectAndRetry(engine, conversations, verify, store, recipe, 0)
        return example.make_trainer(model, tokenizer, rollout, tmp_path / "out")

    return make


def scored(trainer):
    """TRL's batch of all rows, in the order of the failures."""
    trainer.model.train()
    rows = [{"prompt": str(i)} for i in range(3) for _ in range(4)]
    return trainer._generate_and_score_completions(rows)


def trained_tokens(batch):
    """Of each row, what stands before the tokens that TRL trains on, and those."""
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    return [
        (prompt[there.bool()].tolist(), completion[row].tolist())
        for prompt, there, completion, row in zip(
            batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], mask, strict=True
        )
    ]


def test_trl_trains_on_the_reflections_tokens_and_on_no_others(make_trainer):
    trainer = make_trainer()
    rollout = trainer.rollout_func
    encode, stop = rollout.engine.tokenizer.encode, rollout.engine.tokenizer.eos_token_id
    expected = []
    for i, failure in enumerate(rollout.store):
        tried = failure.attempt
        prompt = list(rollout.conversations.reflection(tried.problem, tried.completion))
        for j, retry in enumerate(RETRIES[i]):
            reflection = [*encode(f"r{i}{j}" * (j + 1)), stop][:6]
            expected.append((prompt, [] if retry == "crash" else reflection))
    assert trained_tokens(scored(trainer)) == expected


def test_an_unjudged_retry_is_left_out_of_its_groups_advantages(make_trainer):
    advantages = scored(make_trainer())["advantages"].view(3, 4).tolist()
    for found, retries in zip(advantages, RETRIES, strict=True):
        judged = [j for j, retry in enumerate(retries) if retry != "crash"]
        expected = group_advantages([float(retries[j] == "yes") for j in judged])
        assert [found[j] for j in judged] == pytest.approx(expected, abs=1e-6)
        assert all(found[j] == 0.0 for j in range(4) if j not in judged)


def test_a_step_of_trl_has_the_gradient_of_a_step_of_mulligans_own(make_trainer, tiny_llama):
    trainer = make_trainer()
    rollout, recipe, taken = trainer.rollout_func, trainer.rollout_func.recipe, {}
    policy, _ = load_model(str(tiny_llama), "float32", "cpu")
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: taken.update(
            {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
        )
    )
    trainer.train()
    updater = make_updater(FullPolicy(policy), make_objective(recipe).loss, recipe)
    own = {}
    updater.optimizer.optimizer.register_step_pre_hook(lambda *_: own.update(gradients(policy)))
    updater.update(make_objective(recipe).score(list(groups_of(rollout)), None))
    assert max(gradient.abs().max().item() for gradient in own.values()) > 1e-2
    assert largest_difference(taken, own) < 1e-5


def groups_of(rollout):
    """The groups that the scripted rollout is made of, without the episodes left out."""
    encode, stop = rollout.engine.tokenizer.encode, rollout.engine.tokenizer.eos_token_id
    for i, failure in enumerate(rollout.store):
        tried = failure.attempt
        prompt = rollout.conversations.reflection(tried.problem, tried.completion)
        reflections = [tuple([*encode(f"r{i}{j}" * (j + 1)), stop][:6]) for j in range(4)]
        yield Group(
            failure,
            prompt,
            tuple(
                Episode(
                    failure.id,
                    j,
                    Completion(reflections[j], "", "stop"),
                    Completion((1,), retry, "stop"),
                    VERDICTS[retry],
                )
                for j, retry in enumerate(RETRIES[i])
                if retry != "crash"
            ),
        )


def test_parts_of_groups_are_refused(make_trainer):
    trainer = make_trainer()
    with pytest.raises(MulliganError, match=r"groups of \[1, 4\]"):
        trainer.rollout_func(["0", "0", "0", "0", "1"], trainer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"failures_per_step": 4}, "at most the 3 failures"),
        ({"loss": "raft"}, "train.loss=dapo, grpo or dr_grpo"),
        ({"learn": "both"}, "train.learn=reflection"),
    ],
)
def test_what_the_example_does_not_do_is_refused(make_trainer, settings, message):
    with pytest.raises(MulliganError, match=message):
        make_trainer(**settings)


def test_the_command_trains_on_a_runs_failures(example, tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    monkeypatch.setattr(sys, "argv", ["train.py", str(run)])
    example.main()
    trained, _ = load_model(str(run / "trl"), "float32", "cpu")
    before, _ = load_model(str(run / "warmed_up"), "float32", "cpu")
    moved = largest_difference(dict(trained.named_parameters()), dict(before.named_parameters()))
    assert 0 < moved < 0.1
    assert all(torch.isfinite(p).all() for p in trained.parameters())
