"""A second set of a model's weights, made for generation, that can follow the first.

Saves: on CPU, bfloat16 matrices are laid out once the way oneDNN multiplies them, instead of at
each product: a fifth of the time at 64 rows, half of it at 8.
Does not apply: when the model already has the engine's type (and needs no other layout) it is used
as it is, without a copy.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mulligan.errors import MulliganError
from mulligan.models.weights import effective_weights


class PackedLinear(nn.Module):
    """A linear layer whose weight is in oneDNN's own order."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None
        self.pack(linear.weight, dtype)
        if linear.bias is not None:
            self.bias = linear.bias.detach().to(dtype)

    def pack(self, weight: Tensor, dtype: torch.dtype) -> None:
        """Take over a weight of shape [out, in]."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply, shape [..., in] to [..., out]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self.packed, self.bias, "none", [], ""
        )
        return product


def packing_pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether this machine multiplies packed matrices of this type."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch._C._has_mkldnn
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class InferenceCopy:
    """The model to generate with, and how it takes over the policy's weights."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._pack = packing_pays(model.device, dtype)
        self._is_policy = dtype == model.dtype and not self._pack
        self.model = model if self._is_policy else self._copy(model)
        self.kind = "the model itself" if self._is_policy else "a copy that follows the policy"

    def update_weights(self, policy: nn.Module) -> None:
        """Take over the policy's weights.

        Raises:
            MulliganError: the policy is not of the same shape as the model.
        """
        if policy is self.model:
            return
        targets = dict(self._targets())
        sources = effective_weights(policy)
        if missing := sorted(targets.keys() - sources.keys()):
            raise MulliganError(
                f"The policy has no parameter {missing[0]!r}, which the engine's model has. "
                "An engine follows the model it was made with, or one of the same architecture."
            )
        with torch.no_grad():
            for name, target in targets.items():
                if isinstance(target, PackedLinear):
                    target.pack(sources[name](), self._dtype)
                else:
                    target.copy_(sources[name]())

    def _copy(self, model: PreTrainedModel) -> PreTrainedModel:
        """Copy a model with converted weights; buffers keep their type, as when it is loaded."""
        tied = {id(p): self._converted(p) for p in model.parameters()}
        twin = copy.deepcopy(model, dict(tied))
        twin.train(False).requires_grad_(False)
        if self._pack:
            for parent in list(twin.modules()):
                for name, child in list(parent.named_children()):
                    if type(child) is nn.Linear:
                        setattr(parent, name, PackedLinear(child, self._dtype))
        return twin

    def _converted(self, parameter: nn.Parameter) -> nn.Parameter:
        data = parameter.detach()
        data = data.to(self._dtype, copy=True) if data.is_floating_point() else data.clone()
        return nn.Parameter(data, requires_grad=False)

    def _targets(self) -> Iterator[tuple[str, "Tensor | PackedLinear"]]:
        """Name everything that follows, by the policy's names."""
        yield from self.model.named_parameters()
        for name, module in self.model.named_modules():
            if isinstance(module, PackedLinear):
                yield f"{name}.weight", module
                if module.bias is not None:
                    yield f"{name}.bias", module.bias
