"""Every setting of a run, in its section, with its default and what it means."""

import logging
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from mulligan.randomness import derive_seed

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
AverageFrom = Annotated[float, Field(ge=0, lt=1)] | None
Dtype = Literal["float32", "bfloat16"]
OptimizerKind = Literal["adamw", "adamw_8bit"]

FORMAT = 2
"""Version of a run's rules and files; raised when older code would misread a run, and when a fix
changes the numbers that a recipe gives. Format 1 is that of version 0.1.0; in it the learning rate
of a schedule with a warm-up is 0 in the first step."""


@cache
def _say_once(message: str) -> None:
    logging.getLogger("mulligan").info(message)


def _iso_date(value: Any) -> str:
    return date.fromisoformat(str(value)).isoformat()


class Section(BaseModel):
    """A group of settings: frozen, and closed to names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Prompts(Section):
    """What the model is told after a failure, and before the retry."""

    reflect: str = (
        "Your answer was wrong. In a sentence or two, reflect on what went wrong, "
        "so that you can do better next time."
    )
    """The reflection request; ``{reason}`` and ``{detail}`` stand for the verifier's, which the
    method does not tell. A detail may give the answer away."""
    retry: str = "{question}"
    """The retry request; ``{question}`` stands for the problem's own words."""
    thoughts: tuple[str, str] | None = None
    """What opens and closes a thought, for models with marks other than ``<think>`` and those of
    Mistral, Seed, Gemma 4 and gpt-oss, which are known."""
    date: Annotated[str, BeforeValidator(_iso_date)] = "2026-01-01"
    """The date for chat templates that state one, fixed so that a resumed run sends the same."""


class Sft(Section):
    """Supervised fine-tuning before the method, as a warm-up for models below its reach."""

    examples: PositiveInt = 900
    """Demonstrations to train on, once each."""
    learning_rate: PositiveFloat = 5e-5
    batch: PositiveInt = 16
    """Demonstrations in an optimiser step."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    train_on_failed_attempt: bool = False
    """Whether the wrong first answers of the demonstrations are trained on too."""
    average_from: AverageFrom = None
    """As ``train.average_from``: the warm-up ends with the mean of its last steps' weights."""
    seed: int | None = None
    """Seed of the demonstrations and their order; left out: the run's seed."""


class Collect(Section):
    """Where the failures come from that the model learns from."""

    problems: PositiveInt
    """Problems of the training split to try; of a store, how many of its newest failures are
    taken at most."""
    attempts: PositiveInt = 1
    """Attempts at each; the failed ones are kept."""
    store: str | None = None
    """Folder of failures from production (``mulligan import``), taken instead of trying problems.
    """
    failures: Literal["stored", "each_round", "online"] = "each_round"
    """``each_round``: before each round the policy as it is then tries problems that no earlier
    round has tried. ``stored``: they are tried before the first round alone, which is the same
    where there is one round. ``online``: every step draws problems, tries them with the policy as
    it is then, and trains on what failed."""

    @model_validator(mode="after")
    def _stored_or_online(self) -> Self:
        if self.store is not None and self.failures == "online":
            raise ValueError(
                "collect.store gives failures, and collect.failures: online finds them"
            )
        return self


class Generate(Section):
    """How the model writes, the same in collecting, training and evaluation."""

    temperature: NonNegative = 0.9
    answer_tokens: PositiveInt
    """The longest answer, in tokens: first tries and retries."""
    reflection_tokens: PositiveInt
    """The longest reflection, in tokens."""
    problems_at_once: PositiveInt = 64
    """How many problems collecting and evaluating send to the engine together."""


class LocalEngine(Section):
    """The policy itself generates, on this machine."""

    kind: Literal["local"] = "local"
    memory_gib: PositiveFloat = 4.0
    """Bound on the engine's key-value caches; larger work is split into waves that fit."""


class ServerEngine(Section):
    """A server that speaks OpenAI's protocol generates; it can collect and evaluate, not train."""

    kind: Literal["server"]
    url: str
    """Address, up to and including ``/v1``."""
    model: str
    """The server's name for the model."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key; left out: none is sent."""
    timeout_seconds: PositiveFloat = 600.0
    """How long one request may take."""
    parallel: PositiveInt = 16
    """How many requests are in flight at once."""


class VllmEngine(Section):
    """A vLLM server generates with the newest weights: a running one, or one the run starts."""

    kind: Literal["vllm"]
    url: str | None = None
    """Address of a running server, including ``/v1``; no other run may use it."""
    model: str | None = None
    """What that server calls the model."""
    python: str | None = None
    """Python of vLLM's own environment: the run starts a server with it, and ends it."""
    arguments: tuple[str, ...] = ()
    """Further arguments of ``vllm serve`` for a server that the run starts."""
    weights: Literal["folder", "adapter", "nccl"] = "folder"
    """How weights travel: model folders, LoRA adapters, or from GPU to GPU."""
    api_key_env: str | None = None
    """Environment variable that holds the server's key; left out: none is sent."""
    timeout_seconds: PositiveFloat = 600.0
    """How long one request may take."""
    start_seconds: PositiveFloat = 600.0
    """How long a server may take to start."""
    parallel: PositiveInt = 64
    """How many requests are in flight at once."""

    @model_validator(mode="after")
    def _reached_or_started(self) -> "VllmEngine":
        if (self.url is None) == (self.python is None) or (self.url and not self.model):
            raise ValueError(
                "give either `python` (the run starts the server) or `url` and `model` (it runs)"
            )
        return self


class OtherEngine(Section):
    """An engine that another package brings."""

    kind: str
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Settings of that engine's own."""


ENGINES: Mapping[str, type[Section]] = {
    "local": LocalEngine,
    "server": ServerEngine,
    "vllm": VllmEngine,
    "other": OtherEngine,
}
"""Sections of the engines' kinds; ``other`` stands for every kind that is not listed here."""


def _kind_of_engine(settings: Any) -> str:
    """Return the tag of the engine's section: its kind where that is listed, else ``other``."""
    if isinstance(settings, Section):
        return next(tag for tag, section in ENGINES.items() if type(settings) is section)
    kind = settings.get("kind", "local") if isinstance(settings, Mapping) else "local"
    return kind if isinstance(kind, str) and kind in ENGINES else "other"


EngineSettings = Annotated[
    Annotated[LocalEngine, Tag("local")]
    | Annotated[ServerEngine, Tag("server")]
    | Annotated[VllmEngine, Tag("vllm")]
    | Annotated[OtherEngine, Tag("other")],
    Discriminator(_kind_of_engine),
]


class Lora(Section):
    """Adapters of low rank are trained instead of the weights, which take the recipe's dtype."""

    rank: PositiveInt = 32
    alpha: PositiveInt = 64
    """The adapters are scaled by alpha / rank."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of linear layers; ``all-linear`` is all but the head."""


class Train(Section):
    """Which reward, which tokens, which loss, and how the steps are made.

    The method is the reward ``verdict`` on the tokens of the ``reflection``.
    """

    reward: str = "verdict"
    """What an episode is worth; ``mulligan objectives`` lists what there is."""
    learn: str = "reflection"
    """The tokens that get the gradient."""
    loss: str = "grpo"
    """How rewards become a gradient."""
    reward_options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of the reward."""

    steps: PositiveInt
    """Rollouts, each with an optimiser step; the learning rate's schedule spans them all."""
    stop_after: PositiveInt | None = None
    """Stop after this step, to resume later; the schedule stays that of ``steps``."""
    patience: PositiveInt | None = None
    """Training ends early after this many evaluations on dev in a row without a new best."""
    failures_per_step: PositiveInt = 256
    """Failures in an optimiser step."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Reflections for each failure, G."""
    learning_rate: PositiveFloat = 5e-7
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: Share = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = 1.0
    """Bound on the gradient's norm."""
    kl_beta: NonNegative = 0.001
    """Weight of the KL divergence from the reference policy; 0 switches the reference off."""
    kl_form: Literal["k3", "unbiased"] = "k3"
    """The KL term as published with GRPO, or weighted by the ratio, for an unbiased gradient."""
    epsilon_low: Share = 0.2
    """How far the ratio to the policy that sampled may fall below 1 before it is clipped."""
    epsilon_high: NonNegative = 0.2
    """How far that ratio may rise above 1 before it is clipped."""
    scale_advantages: bool = True
    """Whether advantages are divided by the standard deviation of the group's rewards."""
    positive_only: bool = False
    """Whether only advantages above 0 count, so that nothing is made less likely."""
    dpo_beta: PositiveFloat = 0.1
    """How far the loss ``dpo`` lets the policy leave its reference: the larger, the less."""
    rollout_epochs: PositiveInt = 1
    """Optimiser steps on each rollout; from the second on, ratios leave 1 and are clipped."""
    importance_weights: bool | None = None
    """Whether tokens are weighted by how the trainer's probability of them differs from the
    engine's; left out: where the engine's log-probs are not the trainer's own."""
    importance_cap: PositiveFloat = 2.0
    """The largest of these weights; larger ones are cut to it."""
    mask_truncated: bool = False
    """Whether completions that the token limit cut off learn nothing."""
    dead_groups: Literal["skip", "keep", "refill"] = "keep"
    """Groups that teach nothing, because their rewards are all equal: ``keep`` their KL term, as
    published; ``skip`` them; or ``refill`` the step with other failures in their place."""
    max_refills: PositiveInt = 3
    """How often one step is refilled at most; after that it makes do with fewer groups."""
    tokens_at_once: PositiveInt = 16384
    """Bound on the tokens of one training forward: larger groups are split, smaller ones go
    together."""
    optimizer: OptimizerKind = "adamw"
    """``adamw_8bit`` needs bitsandbytes and takes 6 bytes per trained weight less."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them; in the warm-up too."""
    reference_dtype: Dtype = "float32"
    """Precision of the reference's weights; with LoRA the reference needs none of its own."""
    shard: bool = False
    """Of several processes (torchrun), each holds a part of the weights, gradients and optimiser,
    instead of all (FSDP2); one process holds everything as ever."""
    checkpoint_every: PositiveInt = 10
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    max_skipped_steps: PositiveInt = 5
    """The run stops after this many steps whose loss or gradient was not finite."""
    average_from: AverageFrom = None
    """Share of the steps after which weights are averaged: training ends with the mean over the
    rest (0.5: the second half). Left out: it ends with the weights of the last step."""
    seed: int | None = None
    """Seed of each step's failures and of what is generated; left out: the run's seed."""


class Consolidate(Section):
    """After the training of a round, the policy is trained on the bare question with what it found.

    It tries the round's problems, tries those that it fails again, and learns what passed.
    """

    method: Literal["sft", "distill"] = "sft"
    """``sft``: the answers that passed. ``distill``: the distribution that it has after the
    reflection, on its own first tries (context distillation)."""
    search: Literal["reflection", "nothing", "fresh"] = "reflection"
    """What stands before a second try at a failed problem: a ``reflection``, as the method has it;
    ``nothing``: it is asked again in the same conversation; ``fresh``: in a new one."""
    tries: PositiveInt = 4
    """Second tries at each failed problem."""
    solved_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the problems trained on that it solves at the first try, so that they stay so."""
    epochs: PositiveInt = 1
    batch: PositiveInt = 16
    """Answers in an optimiser step."""
    learning_rate: PositiveFloat = 1e-5
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    average_from: AverageFrom = None
    """As ``train.average_from``."""

    @model_validator(mode="after")
    def _distills_from_a_context(self) -> Self:
        if self.method == "distill" and self.search == "fresh":
            raise ValueError(
                "consolidate.method: distill learns what an answer was after its conversation, and "
                "consolidate.search: fresh has none: use method: sft, or another search"
            )
        return self


class Endpoints(Section):
    """Which changes a run is made to measure, declared before it starts.

    Names are those of the report's differences: ``reflection_over_nothing``, ``after_reflection``,
    ``first_try``, ``greedy``, ``after_nothing`` and so on.
    """

    primary: str = "reflection_over_nothing"
    """The one change that is tested as it is."""
    secondary: tuple[str, ...] = ("after_reflection", "first_try")
    """Changes whose p-values are adjusted for their number (Holm)."""


class Evaluate(Section):
    """The table and its controls, on problems that training never sees."""

    problems: PositiveInt
    """Problems of the split."""
    split: Literal["dev", "test"] = "test"
    """Settings are tuned on ``dev``; what is published is measured on ``test``."""
    every: PositiveInt | None = None
    """Training steps between evaluations on dev: first try, after reflection, asked again. The
    trained model is then the checkpoint that solves most after reflection, not the last one."""
    dev_problems: PositiveInt = 64
    """Problems of the dev split for those."""
    samples: PositiveInt = 1
    """First tries at each problem, each with its second tries."""
    greedy: bool = False
    """Whether each problem is also tried once at temperature 0, which tells learning from mere
    sharpening of the distribution."""
    temperature: NonNegative | None = None
    """How the evaluation samples; left out: as all else, at ``generate.temperature``."""
    controls: tuple[str, ...] = ("nothing", "other_reflection")
    """Names of the second tries that the reflection is compared with."""
    constant: str | None = None
    """The sentence of the control ``constant``: the one that helps most on the dev split."""
    think: str = "Think about this in a sentence or two first. Do not answer yet."
    """What the control ``think_first`` adds to the question."""
    seed: int | None = None
    """Seed of what is generated in an evaluation; left out: the run's seed."""
    endpoints: Endpoints = Endpoints()
    equivalence_margin: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """A change is called none only where it is shown to be smaller than this fraction."""

    def is_due(self, step: int) -> bool:
        """Whether the policy is evaluated on dev after a training step."""
        return self.every is not None and step % self.every == 0

    @field_validator("controls", mode="before")
    @classmethod
    def _read_older_switch(cls, value: Any) -> Any:
        """Read version 0.1.0's switch for the only two controls there were."""
        if isinstance(value, bool):
            controls = ["nothing", "other_reflection"] if value else []
            _say_once(f"evaluate.controls: {str(value).lower()} is now a list: {controls}")
            return controls
        return value


class Verify(Section):
    """How verifiers run: safe built-in ones in this process, all others in worker processes."""

    workers: PositiveInt = 2
    """Processes that verify at once."""
    deadline_seconds: PositiveFloat = 5.0
    """Longest time that one call of the verifier may take."""
    memory_mib: PositiveInt = 1024
    """Memory that a verifier may allocate."""
    file_mib: PositiveInt = 64
    """The largest file that it may write."""
    processes: PositiveInt = 32
    """How many processes it may start."""
    environment: tuple[str, ...] = ()
    """Environment variables that it needs besides the usual ones; it sees no others."""
    max_error_share: Share = 0.1
    """The run stops when a larger share of verdicts are verifier errors."""


class Recipe(Section):
    """Everything that defines a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run's folder under ``runs/``."""
    task: str
    """An installed task's name, ``file.py``, ``file.jsonl``, or ``reasoning_gym:NAME``."""
    task_options: Mapping[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the task."""
    model: str = "smollm2-135m"
    """Hub id, folder, or ``smollm2-135m``, which needs no hub."""
    dtype: Dtype = "bfloat16"
    """Precision of the arithmetic; what is trained is kept in float32."""
    device: str = "auto"
    """``auto`` takes a GPU where there is one."""
    seed: int = 0
    """Every random choice derives from it."""
    probe: bool = True
    """Before collecting, ``mulligan run`` tries 32 problems and says what to expect: how many pass,
    tokens, time, memory. No number of the run depends on it."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where else training steps are sent; each needs its package."""
    prompts: Prompts = Prompts()
    generate: Generate
    engine: EngineSettings = LocalEngine()
    """Who generates."""
    verify: Verify = Verify()
    sft: Sft | None = None
    """Left out: the model is used as it is."""
    lora: Lora | None = None
    """Left out: all weights are trained."""
    rounds: PositiveInt = 1
    """How often failures are collected and trained on, each time by the policy that the round
    before left; with several, each round is evaluated on ``evaluate.dev_problems`` dev problems."""
    collect: Collect
    train: Train
    consolidate: Consolidate | None = None
    """Left out: a round ends with its training."""
    evaluate: Evaluate
    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    """Format whose rules the run follows: that of the version which started it."""

    @model_validator(mode="before")
    @classmethod
    def _one_round_collects_once(cls, settings: Any) -> Any:
        """With one round ``stored`` and ``each_round`` are the same, so they get the same name."""
        collect = settings.get("collect") if isinstance(settings, Mapping) else None
        if not isinstance(collect, Mapping) or collect.get("failures") != "stored":
            return settings
        if settings.get("rounds", 1) != 1:
            return settings
        return {**settings, "collect": {**collect, "failures": "each_round"}}

    @model_validator(mode="after")
    def _shards_fit(self) -> Self:
        if self.train.shard and self.train.optimizer == "adamw_8bit":
            raise ValueError(
                "train.optimizer: adamw_8bit cannot be divided; with train.shard use adamw"
            )
        return self

    @model_validator(mode="after")
    def _patience_fits(self) -> Self:
        if self.train.patience is not None and self.evaluate.every is None:
            raise ValueError("train.patience counts evaluations on dev: set evaluate.every too")
        if self.train.patience is not None and self.train.average_from is not None:
            raise ValueError(
                "train.patience may end training before its last step, and train.average_from "
                "puts the mean of the weights in at the last step: use one of them"
            )
        return self

    @model_validator(mode="after")
    def _rounds_have_failures(self) -> Self:
        if self.rounds > 1 and self.collect.store and self.collect.failures == "each_round":
            raise ValueError(
                "collect.store holds one collection, so later rounds have none of their own: "
                "set collect.failures: stored, which trains on it in each round, or rounds: 1"
            )
        return self

    def of_round(self, number: int) -> "Recipe":
        """Return the recipe with the seeds of a round; the first has the recipe's own.

        What is evaluated keeps its seeds, so that rounds are compared on the same luck.
        """
        if number == 1:
            return self
        drawn = derive_seed(self.seed_of("train"), "round", number)
        return self.model_copy(
            update={
                "name": f"{self.name}-round-{number}",
                "seed": derive_seed(self.seed, "round", number),
                "train": self.train.model_copy(update={"seed": drawn}),
                "evaluate": self.evaluate.model_copy(update={"seed": self.seed_of("evaluate")}),
            }
        )

    def seed_of(self, section: Literal["sft", "train", "evaluate"]) -> int:
        """Return the seed of a section: its own where it has one, else the run's."""
        settings: Sft | Train | Evaluate | None = getattr(self, section)
        return self.seed if settings is None or settings.seed is None else settings.seed

    @property
    def training_problems(self) -> int:
        """How many training problems all rounds try together."""
        rounds = 1 if self.collect.failures == "stored" else self.rounds
        return self.collect.problems * rounds

    @property
    def looks_at_dev(self) -> bool:
        """Whether it is evaluated on dev while it is trained, or between rounds."""
        return self.evaluate.every is not None or self.rounds > 1

    @property
    def first_step_learns(self) -> bool:
        """Whether the first step of a rising learning rate has one above 0."""
        return self.format > 1

    @property
    def groups_share_a_pass(self) -> bool:
        """Whether several groups go through the policy in one pass of training."""
        return self.format > 1

    @property
    def lone_failures_borrow(self) -> bool:
        """Whether a failure alone in its chunk of an evaluation gets another's reflection too."""
        return self.format > 1
