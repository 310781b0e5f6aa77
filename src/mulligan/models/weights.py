"""A model's weights as another copy of it takes them over: plain names, adapters merged, whole."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_BASE = ".base_layer."
"""Stands in the name of a parameter that peft has wrapped."""


def effective_weights(model: "nn.Module") -> "dict[str, Callable[[], Tensor]]":
    """Return what makes each parameter, by its name in the model without adapters.

    A weight with an adapter is ``W + (alpha / rank) B A``, made when it is asked for, so that no
    second model exists at once. Sharded weights are gathered then, so all processes ask together.
    """
    return {
        name.replace(_BASE, "."): _merged(model, name, parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }


def _merged(model: "nn.Module", name: str, parameter: "Tensor") -> "Callable[[], Tensor]":
    from mulligan.models.shards import whole

    module_name, wrapped, leaf = name.rpartition(_BASE)
    if not wrapped or leaf != "weight":
        return lambda: whole(parameter)
    layer: Any = model.get_submodule(module_name)

    def merge() -> "Tensor":
        delta: Tensor = sum(layer.get_delta_weight(each) for each in layer.active_adapters)
        return whole(parameter.detach() + delta.detach().to(parameter.dtype))

    return merge
