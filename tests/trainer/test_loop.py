import math
from dataclasses import replace

import pytest
import torch

from mulligan.engines.local.engine import LocalEngine
from mulligan.errors import MulliganError
from mulligan.interrupt import StoppedEarly, StopRequest
from mulligan.models.load import load_model
from mulligan.objectives.losses.grpo import Grpo
from mulligan.trainer.loop import Look
from mulligan.trainer.optimizer import PolicyOptimizer
from mulligan.types import Verdict
from mulligan.verifiers.pool import InProcessVerifier
from parity_task import Parity
from training_bench import Bench


@pytest.fixture(scope="module")
def bench(tiny_llama, tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("training"), tiny_llama)


@pytest.fixture(scope="module")
def uninterrupted(bench):
    bench.train("uninterrupted")
    return "uninterrupted"


@pytest.fixture
def start(tiny_llama):
    """The weights before training."""
    return dict(load_model(str(tiny_llama), "float32", "cpu")[0].named_parameters())


def changed(policy, start):
    return any(not torch.equal(p, start[name]) for name, p in policy.named_parameters())


def test_the_same_seed_trains_to_the_same_bits(bench, uninterrupted):
    bench.train("again")
    assert bench.written("again") == bench.written(uninterrupted)


def test_another_seed_trains_otherwise(bench, uninterrupted):
    bench.train("other-seed", "seed=1", "train.steps=1")
    assert bench.episodes("other-seed")[0] != bench.episodes(uninterrupted)[0]


def test_a_seed_of_its_own_draws_a_training_as_a_run_of_that_seed_would(bench, uninterrupted):
    bench.train("own-seed", "train.seed=1", "train.steps=1")
    bench.train("run-seed", "seed=1", "train.steps=1")
    assert bench.episodes("own-seed") == bench.episodes("run-seed")
    assert bench.episodes("own-seed")[0] != bench.episodes(uninterrupted)[0]


def test_training_ends_with_the_mean_of_its_last_weights(bench, tiny_llama):
    ends = [
        dict(
            bench.train(
                f"steps-{steps}",
                f"train.steps={steps}",
                "train.schedule=constant",
                "train.warmup_ratio=0",
            ).named_parameters()
        )
        for steps in (3, 4)
    ]
    mean = bench.train(
        "mean", "train.schedule=constant", "train.warmup_ratio=0", "train.average_from=0.5"
    )
    for name, weight in mean.named_parameters():
        torch.testing.assert_close(weight, (ends[0][name] + ends[1][name]) / 2)


@pytest.mark.parametrize("stop_after", [2, 3])
def test_a_mean_of_weights_goes_on_bit_for_bit_where_a_run_stopped(bench, stop_after):
    bench.train("mean-in-one-go", "train.average_from=0.25")
    name = f"mean-stopped-{stop_after}"
    with pytest.raises(StoppedEarly):
        bench.train(name, "train.average_from=0.25", f"train.stop_after={stop_after}")
    bench.train(name, "train.average_from=0.25")
    assert bench.written(name) == bench.written("mean-in-one-go")


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not_bit_for_bit(
    bench, uninterrupted, stop_after
):
    name = f"stopped-{stop_after}"
    with pytest.raises(StoppedEarly, match=f"step {stop_after} of 4"):
        bench.train(name, f"train.stop_after={stop_after}")
    assert len(bench.metrics(name)) == stop_after
    bench.train(name)
    assert bench.written(name) == bench.written(uninterrupted)


def test_a_run_that_died_between_checkpoints_repeats_the_lost_steps_the_same(bench, uninterrupted):
    calls = []

    def power_cut(pairs):
        calls.append(pairs)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return InProcessVerifier(Parity()).verify_many(pairs)

    with pytest.raises(KeyboardInterrupt):
        bench.train("died", verify=power_cut)
    assert len(bench.metrics("died")) == 3  # and the last checkpoint is of step 2
    bench.train("died")
    assert bench.written("died") == bench.written(uninterrupted)


def test_a_run_that_has_stopped_where_it_should_is_not_taken_for_finished(bench):
    for _ in range(2):
        with pytest.raises(StoppedEarly, match="step 1 of 4"):
            bench.train("stays", "train.stop_after=1")
    assert len(bench.metrics("stays")) == 1


def test_a_stop_that_is_asked_for_finishes_the_step_and_saves_it(bench):
    class AfterTwo(StopRequest):
        asked = 0

        def __call__(self):
            self.asked += 1
            return self.asked == 2

    with pytest.raises(StoppedEarly, match="step 2 of 4"):
        bench.train("asked", "train.checkpoint_every=100", stop=AfterTwo())
    assert [path.name for path in (bench.folder / "asked" / "checkpoints").iterdir()] == ["step-2"]


def test_a_look_is_taken_before_the_first_step_and_after_each_and_again_on_resume(bench):
    looks = []

    def look(step):
        looks.append(step)
        return Look()

    with pytest.raises(StoppedEarly):
        bench.train("looked-at", "train.stop_after=2", look=look)
    bench.train("looked-at", look=look)
    assert looks == [0, 1, 2, 2, 3, 4]


def test_the_best_step_keeps_its_checkpoint_and_enough_ends_training_early(bench, uninterrupted):
    looks = {1: Look(best=True), 3: Look(enough=True)}
    bench.train("enough", "train.keep_checkpoints=1", look=lambda step: looks.get(step, Look()))
    assert bench.metrics("enough") == bench.metrics(uninterrupted)[:3]
    checkpoints = bench.folder / "enough" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.json", "step-1", "step-3"]
    assert (checkpoints / "best.json").read_text() == '{"step": 1}\n'
    bench.train("enough", look=lambda step: looks.get(step, Look()))  # nothing is done again
    assert len(bench.metrics("enough")) == 3


def test_a_kill_between_the_best_checkpoint_and_its_mark_is_made_good(bench):
    best_at_2 = {2: Look(best=True)}
    with pytest.raises(StoppedEarly):
        bench.train("unmarked", "train.stop_after=2", look=lambda step: best_at_2.get(step, Look()))
    mark = bench.folder / "unmarked" / "checkpoints" / "best.json"
    mark.unlink()
    bench.train("unmarked", look=lambda step: best_at_2.get(step, Look()))
    assert mark.read_text() == '{"step": 2}\n'


def test_every_step_has_its_line_and_its_episodes(bench, uninterrupted):
    metrics, episodes = bench.metrics(uninterrupted), bench.episodes(uninterrupted)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    for line in metrics:
        own = [e for e in episodes if e["step"] == line["step"]]
        assert len(own) == 3 * 4
        assert line["reward"] == pytest.approx(sum(e["reward"] for e in own) / 12)
        lengths = [e["reflection"]["tokens"] for e in own]
        assert line["reflection_tokens"] == pytest.approx(sum(lengths) / 12)
        assert line["distinct"] == len({e["reflection"]["text"] for e in own}) / 12
        assert line["live_groups"] + line["dead_groups"] == 3
        assert line["unjudged"] == 0
        assert not line["skipped"]


def test_rewards_are_the_verdicts_and_advantages_add_up_to_nothing(bench, uninterrupted):
    groups = {}
    for line in bench.episodes(uninterrupted):
        assert line["reward"] == float(line["verdict"]["status"] == "passed")
        groups.setdefault((line["step"], line["failure_id"]), []).append(line["advantage"])
    assert {len(advantages) for advantages in groups.values()} == {4}
    assert all(sum(advantages) == pytest.approx(0, abs=1e-6) for advantages in groups.values())


def test_every_failure_is_seen_once_an_epoch(bench, uninterrupted):
    seen = [
        {e["failure_id"] for e in bench.episodes(uninterrupted) if e["step"] == step}
        for step in (1, 2, 3, 4)
    ]
    everything = {f"failure-{number}" for number in range(6)}
    assert seen[0] | seen[1] == seen[2] | seen[3] == everything


def test_the_trainer_scores_what_the_engine_drew(bench, uninterrupted):
    assert all(line["logprob_mismatch"] < 1e-5 for line in bench.metrics(uninterrupted))


def test_training_changes_the_weights(bench, start):
    assert changed(bench.train("moves", "train.steps=2"), start)


def always(status):
    return lambda pairs: [Verdict(status, status) for _ in pairs]


def test_a_step_whose_groups_are_all_dead_changes_nothing_and_a_run_of_them_says_so(bench, start):
    with pytest.raises(MulliganError, match=r"nothing was learned.*warm it up first"):
        bench.train("dead", verify=always("failed"))
    lines_of_run = bench.metrics("dead")
    assert [(m["live_groups"], m["dead_groups"]) for m in lines_of_run] == [(0, 3)] * 4
    assert {m["loss"] for m in lines_of_run} == {m["gradient_norm"] for m in lines_of_run} == {0.0}
    assert {m["reward"] for m in lines_of_run} == {0.0}
    from safetensors.torch import load_file

    trained = load_file(bench.folder / "dead" / "checkpoints" / "step-4" / "model.safetensors")
    assert all(torch.equal(tensor, start[name]) for name, tensor in trained.items())


def test_a_verifier_that_breaks_leaves_episodes_out_and_rewards_none_of_them(bench):
    def broken_for_half(pairs):
        verdicts = InProcessVerifier(Parity()).verify_many(pairs)
        return [Verdict.error("broke") if i % 2 else v for i, v in enumerate(verdicts)]

    bench.train("half", "train.steps=2", verify=broken_for_half)
    assert [m["unjudged"] for m in bench.metrics("half")] == [6, 6]
    assert len(bench.episodes("half")) == 2 * 6
    assert {e["verdict"]["status"] for e in bench.episodes("half")} == {"passed", "failed"}


def test_a_step_in_which_nothing_could_be_judged_is_still_a_step(bench):
    with pytest.raises(MulliganError, match="nothing was learned"):
        bench.train("unjudged", "train.steps=1", verify=always("error"))
    [line] = bench.metrics("unjudged")
    assert (line["unjudged"], line["live_groups"], line["dead_groups"]) == (12, 0, 0)


@pytest.fixture
def broken_loss(monkeypatch):
    """Makes the loss of chosen steps NaN; a step has a loss a live group."""

    def make(bad_steps):
        true_loss, true_step, number = Grpo.__call__, PolicyOptimizer.step, [0]

        def step(self, losses):
            number[0] += 1
            return true_step(self, losses)

        def loss(self, scores, normaliser):
            value, sums = true_loss(self, scores, normaliser)
            return (value * math.nan if number[0] in bad_steps else value), sums

        monkeypatch.setattr(PolicyOptimizer, "step", step)
        monkeypatch.setattr(Grpo, "__call__", loss)

    return make


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(bench, broken_loss, start):
    broken_loss({2})
    bench.train("nan-once")
    metrics = bench.metrics("nan-once")
    assert [m["skipped"] for m in metrics] == [False, True, False, False]
    assert metrics[1]["loss"] is metrics[1]["gradient_norm"] is None
    assert all(math.isfinite(m["loss"]) for m in metrics if not m["skipped"])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_too_many_skipped_steps_stop_the_run_and_leave_the_weights(bench, broken_loss):
    broken_loss({1, 2, 3})
    with pytest.raises(MulliganError, match=r"3 steps had .*max_skipped_steps=2.*Lower"):
        bench.train("nan-often", "train.max_skipped_steps=2")
    assert [m["skipped"] for m in bench.metrics("nan-often")] == [True] * 3


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_skipped_steps_are_remembered_across_a_stop(bench, broken_loss):
    broken_loss({1, 2, 3})  # the steps of both parts are counted through
    with pytest.raises(StoppedEarly):
        bench.train("nan-stop", "train.max_skipped_steps=2", "train.stop_after=2")
    with pytest.raises(MulliganError, match=r"3 steps had"):
        bench.train("nan-stop", "train.max_skipped_steps=2")


def test_the_kl_term_is_nothing_at_first_and_grows_as_the_policy_leaves_its_reference(bench):
    bench.train("kl", "train.kl_beta=0.1")
    first, *later = bench.metrics("kl")
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert later[0]["kl"] > 1e-6
    assert max(m["kl"] for m in later) > 1e-5
    assert all(m["kl"] > 0 for m in later if m["live_groups"])


def test_a_resumed_run_keeps_its_reference(bench):
    bench.train("kl-whole", "train.kl_beta=0.1")
    with pytest.raises(StoppedEarly):
        bench.train("kl-stopped", "train.kl_beta=0.1", "train.stop_after=3")
    bench.train("kl-stopped", "train.kl_beta=0.1")
    assert bench.written("kl-stopped") == bench.written("kl-whole")


@pytest.mark.parametrize(("dead_groups", "differs"), [("skip", False), ("keep", True)])
def test_the_kl_term_of_dead_groups_is_kept_or_not_as_the_recipe_says(bench, dead_groups, differs):
    """Step 3 sees dead groups only, far from the reference: their KL term alone can move it."""
    calls = []

    def dead_at_last(pairs):
        calls.append(pairs)
        if len(calls) == 3:
            return always("failed")(pairs)
        return InProcessVerifier(Parity()).verify_many(pairs)

    name = f"dead-{dead_groups}"
    overrides = ["train.kl_beta=0.5", "train.steps=3", f"train.dead_groups={dead_groups}"]
    bench.train(name, *overrides, verify=dead_at_last)
    last = bench.metrics(name)[-1]
    assert last["live_groups"] == 0
    assert (last["gradient_norm"] > 0) == differs
    assert (last["kl"] > 0) == differs


def test_dead_groups_count_in_the_normaliser(bench):
    """The gradient is the same whether a dead group is left out or adds next to nothing."""

    def first_group_dies(pairs):
        judged = InProcessVerifier(Parity()).verify_many(pairs)
        return [Verdict.wrong()] * 4 + judged[4:]

    norms = []
    for name, *overrides in (
        ("left-out", "train.dead_groups=skip", "train.kl_beta=0"),
        ("kept", "train.dead_groups=keep", "train.kl_beta=1e-9"),
    ):
        bench.train(name, "train.steps=1", *overrides, verify=first_group_dies)
        [line] = bench.metrics(name)
        assert line["dead_groups"] == 1
        norms.append(line["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0] > 0


def test_splitting_the_work_to_fit_changes_nothing_that_matters(bench, uninterrupted):
    bench.train("split", "train.tokens_at_once=80", "train.steps=1")
    whole, split = bench.metrics(uninterrupted)[0], bench.metrics("split")[0]
    assert split["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo"])
def test_the_other_losses_train_too(bench, start, loss):
    policy = bench.train(f"loss-{loss}", f"train.loss={loss}", "train.steps=2")
    assert changed(policy, start)


def test_too_few_failures_for_a_batch_are_refused(bench):
    with pytest.raises(MulliganError, match=r"holds 6, and a batch takes 7"):
        bench.train("few", "train.failures_per_step=7")


def test_another_architecture_trains_to_the_same_bits_too(tiny_qwen2, tmp_path):
    bench = Bench(tmp_path, tiny_qwen2)
    for name in ("one", "two"):
        bench.train(name)
    assert bench.written("one") == bench.written("two")


def passing_on(bench, wanted):
    """A verifier that tells retries apart on some failures only; on the others all of them fail."""
    names = [f"train-{number}" for number in wanted]

    def verify(pairs):
        judged = InProcessVerifier(Parity()).verify_many(pairs)
        return [
            verdict if problem.messages[0]["content"] in names else Verdict.wrong()
            for (problem, _), verdict in zip(pairs, judged, strict=True)
        ]

    return verify


REFILLING = ["train.dead_groups=refill", "train.steps=1", "train.group_size=8"]


def test_a_step_is_refilled_until_it_has_its_number_of_groups_that_teach(bench):
    verify = passing_on(bench, [0, 1, 2])
    bench.train("refilled", *REFILLING, "train.max_refills=6", verify=verify)
    [line] = bench.metrics("refilled")
    assert line["live_groups"] == 3
    assert line["refills"] >= 1
    assert line["dead_groups"] >= 1
    seen = [(e["failure_id"], e["sample"]) for e in bench.episodes("refilled")]
    assert len(seen) == len(set(seen)) == 8 * (line["live_groups"] + line["dead_groups"])
    assert line["unjudged"] == 0


def test_a_step_is_refilled_at_most_as_often_as_the_recipe_says(bench):
    verify = passing_on(bench, [])
    with pytest.raises(MulliganError, match="nothing was learned"):
        bench.train("in-vain", *REFILLING, "train.max_refills=1", verify=verify)
    [line] = bench.metrics("in-vain")
    assert (line["refills"], line["live_groups"], line["dead_groups"]) == (1, 0, 6)


def test_a_step_that_teaches_everywhere_is_not_refilled(bench):
    bench.train("full", *REFILLING, "train.group_size=16")
    [line] = bench.metrics("full")
    assert (line["refills"], line["live_groups"], line["dead_groups"]) == (0, 3, 0)


def test_a_second_step_on_a_rollout_meets_ratios_that_are_clipped(bench):
    bench.train("one-epoch", "train.steps=2")
    bench.train("epochs", "train.steps=2", "train.rollout_epochs=4", "train.learning_rate=1e-2")
    assert all(m["clipped"] == 0 for m in bench.metrics("one-epoch"))
    assert all(0 < m["clipped"] < 1 for m in bench.metrics("epochs"))
    assert bench.metrics("epochs")[0]["logprob_mismatch"] < 1e-5


def test_several_epochs_go_on_after_a_stop_bit_for_bit(bench):
    epochs = ["train.rollout_epochs=3"]
    bench.train("epochs-whole", *epochs)
    with pytest.raises(StoppedEarly):
        bench.train("epochs-stopped", *epochs, "train.stop_after=2")
    bench.train("epochs-stopped", *epochs)
    assert bench.written("epochs-stopped") == bench.written("epochs-whole")


class Drifting(LocalEngine):
    """Gives log-probs that are off by one nat, as an engine with other arithmetic would."""

    @property
    def abilities(self):
        return replace(super().abilities, exact=False)

    def generate(self, prompts, n, sampling):
        rows = super().generate(prompts, n, sampling)
        return [[self._off(each) for each in row] for row in rows]

    def _off(self, completion):
        return replace(completion, logprobs=tuple(each - 1 for each in completion.logprobs))


def test_an_engine_whose_logprobs_differ_gets_importance_weights_and_the_share_that_was_cut(bench):
    recipe = ["train.steps=1", "train.max_grad_norm=1e9"]
    bench.train("exact", *recipe)
    bench.train("drifting", *recipe, engine=Drifting)
    bench.train("unweighed", *recipe, "train.importance_weights=false", engine=Drifting)
    exact, drifting, unweighed = (
        bench.metrics(name)[0] for name in ("exact", "drifting", "unweighed")
    )
    assert (exact["capped"], drifting["capped"], unweighed["capped"]) == (0.0, 1.0, 0.0)
    assert drifting["logprob_mismatch"] == pytest.approx(1.0, abs=1e-5)
    assert unweighed["gradient_norm"] == pytest.approx(exact["gradient_norm"], rel=1e-6)
    # Every weight is e, cut to 2.
    assert drifting["gradient_norm"] == pytest.approx(2 * exact["gradient_norm"], rel=1e-5)


class Silent(Drifting):
    """Gives no log-probs at all."""

    def _off(self, completion):
        return replace(completion, logprobs=None)


def test_a_mismatch_with_log_probs_that_an_engine_does_not_give_is_unknown_rather_than_zero(bench):
    recipe = ["train.steps=1", "train.importance_weights=false"]
    bench.train("silent", *recipe, engine=Silent)
    assert bench.metrics("silent")[0]["logprob_mismatch"] is None


def test_the_engines_caches_are_dropped_before_the_weights_change(bench, monkeypatch):
    happened = []

    def noted(name, method):
        def call(*arguments, **named):
            happened.append(name)
            return method(*arguments, **named)

        return call

    for owner, name in (
        (LocalEngine, "generate"),
        (LocalEngine, "reset_cache"),
        (PolicyOptimizer, "step"),
    ):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    bench.train("caches", "train.steps=2")
    before = [happened[at - 1] for at, name in enumerate(happened) if name == "step"]
    assert before == ["reset_cache"] * 2
