"""What a run needs of its device's memory, estimated from a model's configuration alone.

Weights, gradients and optimiser are counted exactly. Activations and caches are counted by what the
layers of a transformer with gated MLPs keep for the backward pass, in bytes per token; the rest of
the arithmetic (one layer's scores, buffers of the allocator) is small beside it, on a CPU only
because gradient checkpointing keeps large blocks out of the C library's heap (``models/heap.py``).
Checked against the measured peak of the 135M model (``tests/models/test_memory.py``).
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mulligan.config import LocalEngine, OptimizerKind, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30


def machine_memory() -> int:
    """Return the main memory of this machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def logits_at_once(device_type: str) -> int:
    """Return how many logits exist at once: 16 MiB of fp32 on a CPU, 256 MiB elsewhere.

    A slice should stay near a CPU's caches, and it should keep a GPU busy.
    """
    return 1 << 22 if device_type == "cpu" else 1 << 26


def logits_kept(device_type: str) -> int:
    """Return how many logits of half precision a pass keeps for its backward: 128 MiB on a CPU.

    They are little beside the activations of as many tokens, and computing them again takes a
    fourth of the head's operations. A GPU has those to spare, and larger vocabularies.
    """
    return 1 << 26 if device_type == "cpu" else 0


def tokens_that_fill(device_type: str) -> int:
    """Return up to how many tokens of several groups are worth computing in one pass.

    More take memory and save little. Measured on a CPU: groups of 212 tokens gain by half, four or
    eight at a time; two of 1,700 gain nothing, and four of them lose. Elsewhere it is a guess.
    """
    return 2048 if device_type == "cpu" else 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that its memory follows from."""

    parameters: int
    """Weights, tied ones once."""
    head: int
    """Weights of the vocabulary head."""
    tied: bool
    """Whether the head is the input embedding."""
    layers: int
    """Where they differ, the sizes below are their mean."""
    hidden: int
    intermediate: int
    queries: int
    """Query heads times head size; 0 without attention."""
    keys: int
    """Key heads times head size."""
    context: int | None

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Shape":
        """Read the sizes of a model, whose weights need not exist."""
        config: Any = model.config.get_text_config()
        layers = [*getattr(config, "per_layer_config", ())] or [config]  # Gemma 4's differ
        queries, keys = (
            sum(each) // len(layers) for each in zip(*map(_heads, layers), strict=True)
        )
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return cls(
            parameters=sum(each.numel() for each in model.parameters()),
            head=head.weight.numel(),
            tied=head.weight is model.get_input_embeddings().weight,
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=sum(map(_intermediate, layers)) // len(layers),
            queries=queries,
            keys=keys,
            context=getattr(config, "max_position_embeddings", None),
        )


def _heads(layer: Any) -> tuple[int, int]:
    """Return query heads and key heads of a layer's configuration, times the size of a head."""
    heads = getattr(layer, "num_attention_heads", None) or 0
    if not heads:  # a state-space model
        return 0, 0
    size = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    return heads * size, (getattr(layer, "num_key_value_heads", None) or heads) * size


def _intermediate(layer: Any) -> int:
    """Return the width of a layer's MLP, under the name that its configuration has for it."""
    for name in ("intermediate_size", "ffn_dim", "n_inner"):
        if isinstance(found := getattr(layer, name, None), int):
            return found
    return 4 * int(layer.hidden_size)  # what those do that do not say it


@dataclass(frozen=True, slots=True)
class StageMemory:
    """What a stage needs at its peak, in bytes, by what for."""

    stage: str
    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """The peak."""
        return sum(size for _, size in self.parts)


@dataclass(frozen=True, slots=True)
class Demands:
    """What a recipe needs by choices that are explained elsewhere: task, loss, controls."""

    prompt_tokens: int
    """Of a problem, as the model reads it."""
    reference: bool
    """Whether the loss compares with the policy as it was at first."""
    untrained: bool = False
    """Whether a control asks the model as it was, beside the trained one."""


def plan_stages(
    shape: Shape, recipe: Recipe, demands: Demands, *, adapter: int, on_cpu: bool
) -> list[StageMemory]:
    """Return what each stage that needs the device takes at its peak.

    Tokens are counted as the method trains them (``train.learn=reflection``), each completion as
    long as it may be.

    Args:
        shape: of the model.
        recipe: of the run.
        demands: what it needs besides.
        adapter: weights of the LoRA adapter; 0 where all weights are trained.
        on_cpu: whether the device is a CPU, whose engine lays bf16 weights out anew.
    """
    width = 2 if recipe.dtype == "bfloat16" else 4
    model = [
        ("model", width * shape.parameters),
        *_generating(shape, recipe, width, on_cpu, loaded=width),
    ]
    caches = [("caches", _caches(shape, recipe, width, demands.prompt_tokens))]
    before = [("model before training", sum(size for _, size in model))]
    stages = [
        StageMemory("collect", (*model, *caches)),
        _train_memory(shape, recipe, demands, adapter, on_cpu),
        StageMemory("evaluate", (*model, *(before if demands.untrained else ()), *caches)),
    ]
    if recipe.sft is None:
        return stages
    return [_warm_up_memory(shape, recipe, demands, adapter, on_cpu), *stages]


def _generating(
    shape: Shape, recipe: Recipe, width: int, on_cpu: bool, loaded: int
) -> list[tuple[str, int]]:
    """Return the engine's own weights, where it does not share the model's."""
    if recipe.engine.kind != "local" or (loaded == width and not (on_cpu and width == 2)):
        return []
    untied = shape.head if on_cpu and width == 2 and shape.tied else 0
    return [("engine's weights", width * (shape.parameters + untied))]


def _caches(shape: Shape, recipe: Recipe, width: int, prompt_tokens: int) -> int:
    """Return keys and values of the rows that generate together, within the engine's bound."""
    generate = recipe.generate
    rows = max(generate.problems_at_once, recipe.train.failures_per_step * recipe.train.group_size)
    longest = _longest_conversation(recipe, prompt_tokens)
    wanted = rows * longest * 2 * shape.layers * shape.keys * width
    if not isinstance(recipe.engine, LocalEngine):
        return 0
    return min(wanted, int(recipe.engine.memory_gib * GIB))


def _longest_conversation(recipe: Recipe, prompt_tokens: int) -> int:
    return prompt_tokens + 2 * recipe.generate.answer_tokens + recipe.generate.reflection_tokens


def _warm_up_memory(
    shape: Shape, recipe: Recipe, demands: Demands, adapter: int, on_cpu: bool
) -> StageMemory:
    """Return what supervised training takes: no engine, no reference, AdamW in full precision."""
    assert recipe.sft is not None
    longest = _longest_conversation(recipe, demands.prompt_tokens)
    tokens = min(recipe.sft.batch * longest, max(recipe.train.tokens_at_once, longest))
    averaged = recipe.sft.average_from is not None
    trained = _trained(shape, recipe, adapter, "adamw", averaged)
    return StageMemory("warmup", (*trained, *_update(shape, recipe, adapter, on_cpu, tokens)))


def _train_memory(
    shape: Shape, recipe: Recipe, demands: Demands, adapter: int, on_cpu: bool
) -> StageMemory:
    train, width = recipe.train, 2 if recipe.dtype == "bfloat16" else 4
    averaged = train.average_from is not None
    parts = _trained(shape, recipe, adapter, train.optimizer, averaged)
    if demands.reference and not adapter:
        each = 2 if train.reference_dtype == "bfloat16" else 4
        parts.append(("reference", each * shape.parameters))
    parts += _generating(shape, recipe, width, on_cpu, loaded=width if adapter else 4)
    tokens = _tokens_of_a_pass(recipe, "cpu" if on_cpu else "cuda", demands.prompt_tokens)
    update = _update(shape, recipe, adapter, on_cpu, tokens)
    # The engine's caches are dropped before the update, so the larger of the two counts.
    caches = _caches(shape, recipe, width, demands.prompt_tokens)
    if caches > sum(size for _, size in update):
        update = [("caches", caches)]
    return StageMemory("train", (*parts, *update))


def _trained(
    shape: Shape, recipe: Recipe, adapter: int, optimizer: OptimizerKind, averaged: bool
) -> list[tuple[str, int]]:
    """Return the weights in training, and what the optimiser keeps of them."""
    loaded = 2 if adapter and recipe.dtype == "bfloat16" else 4
    trained = adapter or shape.parameters
    parts = [
        ("weights", loaded * shape.parameters + 4 * adapter),
        ("optimiser", (2 if optimizer == "adamw_8bit" else 8) * trained),
    ]
    return [*parts, ("mean of the weights", 4 * trained)] if averaged else parts


def _update(
    shape: Shape, recipe: Recipe, adapter: int, on_cpu: bool, tokens: int
) -> list[tuple[str, int]]:
    """Return what an optimiser step takes on forwards of so many tokens."""
    width = 2 if recipe.dtype == "bfloat16" else 4
    trained = adapter or shape.parameters
    per_token = activation_bytes(
        shape, width, recipe.train.gradient_checkpointing, adapted=adapter > 0
    )
    device, logits = "cpu" if on_cpu else "cuda", tokens * shape.head // shape.hidden
    parts = [
        ("gradients", 4 * trained),
        ("activations", tokens * per_token),
        ("logits", 3 * 4 * min(logits, logits_at_once(device))),
    ]
    if width == 2:
        parts.append(("weights cast for the arithmetic", 2 * trained))
        parts.append(("logits kept for the backward", 2 * min(logits, logits_kept(device))))
    return parts


def _tokens_of_a_pass(recipe: Recipe, device_type: str, prompt_tokens: int) -> int:
    """Return the tokens of a training forward: those of a group, or of several small ones."""
    train, generate = recipe.train, recipe.generate
    prompt = prompt_tokens + generate.answer_tokens  # a reflection follows the failed answer
    group = prompt + train.group_size * generate.reflection_tokens
    alone = min(group, max(train.tokens_at_once, prompt + generate.reflection_tokens))
    if not recipe.groups_share_a_pass:
        return alone
    together = min(
        train.failures_per_step * group, train.tokens_at_once, tokens_that_fill(device_type)
    )
    return max(alone, together)


def activation_bytes(shape: Shape, width: int, twice: bool, *, adapted: bool) -> int:
    """Return what the layers keep of one token for the backward pass.

    Per layer: two norms, each with its input and its output in fp32; the inputs of five products
    cast to the arithmetic's type; queries and keys before, during and after their rotation, values
    and attention's output; and four tensors of the gated MLP. An adapter keeps its input besides,
    and all linear layers are taken to be ``adapted``, where any is. ``twice`` (gradient
    checkpointing) keeps the input of each layer and the insides of one.
    """
    cast = 5 * width * shape.hidden if width < 4 else 0
    inside = (
        4 * 4 * shape.hidden
        + cast
        + width * (5 * shape.queries + 4 * shape.keys)
        + width * 4 * shape.intermediate
    )
    if adapted:
        inside += width * (5 * shape.hidden + shape.queries + shape.intermediate)
    if twice:
        return shape.layers * 4 * shape.hidden + inside
    return shape.layers * inside


def advice(shape: Shape, recipe: Recipe, demands: Demands, too_much: int) -> list[str]:
    """Return settings that would save memory, the most first, for a plan that is too large."""
    train, saves = recipe.train, list[tuple[int, str]]()
    if recipe.lora is None:
        saves.append((13 * shape.parameters, "lora={rank: 32, alpha: 64}"))
        if train.optimizer == "adamw":
            saves.append((6 * shape.parameters, "train.optimizer=adamw_8bit"))
        if demands.reference and train.reference_dtype == "float32":
            saves.append((2 * shape.parameters, "train.reference_dtype=bfloat16"))
    if not train.gradient_checkpointing:
        saves.append((too_much, "train.gradient_checkpointing=true"))
    saves.append((0, f"train.tokens_at_once={max(train.tokens_at_once // 2, 1)}"))
    if isinstance(recipe.engine, LocalEngine):
        saves.append((0, f"engine.memory_gib={recipe.engine.memory_gib / 2:g}"))
    return [setting for _, setting in sorted(saves, key=lambda each: -each[0])]
