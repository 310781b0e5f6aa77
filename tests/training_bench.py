"""Trains a tiny model from the same failures, into folders of its own."""

from mulligan.config import override_recipe
from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.interrupt import StopRequest
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy, LoraPolicy
from mulligan.storage.run_folder import RunFolder
from mulligan.trainer.distributed import ALONE
from mulligan.trainer.failure_sources import StoredFailures
from mulligan.trainer.loop import Look, train
from mulligan.types import Attempt, Failure, Sampling, Verdict
from mulligan.verifiers.pool import InProcessVerifier
from parity_task import Parity
from tiny import lines, said, tiny_recipe

WRITTEN = ("metrics.jsonl", "episodes.jsonl", "checkpoints/step-4/model.safetensors")


class Bench:
    """Trains a tiny model in folders of its own, from the same six failures."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model

    def train(
        self,
        name,
        *overrides,
        verify=None,
        stop=None,
        engine=LocalEngine,
        look=None,
        processes=ALONE,
    ):
        """Train into a folder; go on where it has a checkpoint."""
        recipe = override_recipe(tiny_recipe(self.model), overrides, name)
        model, tokenizer = load_model(str(self.model), "float32", "cpu")
        sharded = recipe.train.shard and processes.count > 1
        generating = load_model(str(self.model), "float32", "cpu")[0] if sharded else model
        policy = FullPolicy(model)
        speak = Conversations(tokenizer, recipe.prompts.reflect)
        run = RunFolder(self.folder / name)
        run.path.mkdir(exist_ok=True)
        if processes.leads:
            with FailureStore(run.failures) as store:
                for failure in failures(tokenizer, speak):
                    store.append(failure)
        processes.gather(0, int)  # the others read what the first has written
        generator = engine(generating, tokenizer)
        if recipe.lora is not None:
            settings = recipe.lora.model_dump() | {"base": str(self.model), "seed": 1}
            policy = LoraPolicy(model, **settings)
        with FailureStore(run.failures) as store:
            train(
                policy=policy,
                tokenizer=tokenizer,
                engine=generator,
                failures=StoredFailures(
                    store, recipe.seed_of("train"), recipe.train.failures_per_step
                ),
                conversations=speak,
                verify=verify or InProcessVerifier(Parity()).verify_many,
                verifier=InProcessVerifier(Parity()),
                recipe=recipe,
                run=run,
                stop=stop or StopRequest(),
                progress=lambda metrics: None,
                look=look or (lambda step: Look()),
                processes=processes,
            )
        return model

    def metrics(self, name):
        return lines(self.folder / name / "metrics.jsonl")

    def episodes(self, name):
        return lines(self.folder / name / "episodes.jsonl")

    def written(self, name):
        return [(self.folder / name / file).read_bytes() for file in WRITTEN]


def failures(tokenizer, speak, count=6):
    sampling = Sampling(0.9, 5, 0)
    for number, problem in enumerate(Parity().problems("train")):
        if number == count:
            return
        tried = Attempt(problem, speak.attempt(problem), said(tokenizer, "a"), Verdict.wrong("odd"))
        yield Failure(f"failure-{number}", tried, "tiny", sampling)
