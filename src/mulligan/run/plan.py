"""What a recipe needs of its device, estimated before anything is loaded."""

from dataclasses import dataclass

from mulligan.config import Recipe
from mulligan.evaluation.controls import controls_of
from mulligan.models.load import load_config, pick_device
from mulligan.models.memory import (
    GIB,
    Demands,
    Shape,
    StageMemory,
    advice,
    machine_memory,
    plan_stages,
)
from mulligan.objectives.objective import make_objective

PROMPT_TOKENS = 400
"""Of a problem, where the task has not been asked: a question with its tools."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe's stages against the memory of a device."""

    device: str
    available: int | None
    """Bytes; ``None`` where the device is not known."""
    parameters: int
    trained: int
    stages: tuple[StageMemory, ...]
    advice: tuple[str, ...]
    """Settings to change, the most saving first; none where everything fits."""

    @property
    def peak(self) -> int:
        """The largest of the stages."""
        return max(stage.total for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether every stage fits; so where the device is not known."""
        return self.available is None or self.peak <= self.available


def make_plan(
    recipe: Recipe, gib: float | None = None, *, prompt_tokens: int = PROMPT_TOKENS
) -> Plan:
    """Estimate a recipe's memory from its model's configuration.

    Args:
        recipe: what will run.
        gib: memory of the device, in GiB; that of the recipe's device by default.
        prompt_tokens: of a problem, as the model reads it.

    Raises:
        MulliganError: there is no such model or device, or the recipe asks for a reward, loss or
            control that there is not.
    """
    import torch
    from transformers import AutoModelForCausalLM

    demands = Demands(
        prompt_tokens,
        reference=make_objective(recipe).loss.needs_reference,
        untrained=any(each.needs_untrained for each in controls_of(recipe.evaluate)),
    )
    place = "cuda" if gib is not None else pick_device(recipe.device)
    available = int(gib * GIB) if gib is not None else _memory_of(place)
    config = load_config(recipe.model)
    with torch.device("meta"):  # shapes without weights
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    shape = Shape.of(model)
    adapter = _adapter_weights(model, recipe)
    stages = plan_stages(shape, recipe, demands, adapter=adapter, on_cpu=place == "cpu")
    over = max(stage.total for stage in stages) - (available or 0)
    return Plan(
        place,
        available,
        shape.parameters,
        adapter or shape.parameters,
        tuple(stages),
        tuple(advice(shape, recipe, demands, over)) if available is not None and over > 0 else (),
    )


def _adapter_weights(model: object, recipe: Recipe) -> int:
    """Return how many weights a LoRA adapter of the recipe has."""
    if recipe.lora is None:
        return 0
    from mulligan.models.policies import LoraPolicy

    policy = LoraPolicy(model, **recipe.lora.model_dump(), base=recipe.model, seed=0)  # type: ignore[arg-type]
    return sum(each.numel() for each in policy.model.parameters() if each.requires_grad)


def _memory_of(device: str) -> int | None:
    """Return the memory of this machine, or of one of its devices, in bytes, where it is known."""
    import torch

    if device == "cpu":
        return machine_memory()
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return None
