"""Weights of which each of several processes holds a shard (FSDP2), and the same weights whole."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_sharded(tensor: "Tensor") -> bool:
    """Whether this process holds a shard of a tensor only."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def has_shards(model: "nn.Module") -> bool:
    """Whether a model's weights are sharded."""
    return any(is_sharded(each) for each in model.parameters())


def whole(tensor: "Tensor") -> "Tensor":
    """Return a tensor's values in one piece; where they are sharded, all processes call this."""
    from torch.distributed.tensor import DTensor

    values = tensor.detach()
    return values.full_tensor() if isinstance(values, DTensor) else values


def cut_like(values: "Tensor", own: "Tensor") -> "Tensor":
    """Return whole values as this process holds its own: whole on its device, or a shard."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(own, DTensor):
        return values.to(own.device)
    # Every process has the whole values, so that none has to be sent.
    return distribute_tensor(values, own.device_mesh, own.placements, src_data_rank=None)


def take_over(own: "Mapping[str, Tensor]", saved: "Mapping[str, Tensor]") -> None:
    """Copy saved values, which are whole, into tensors of the same names.

    Tensors that are one and the same, as tied weights are, may be saved under any of their names.

    Raises:
        ValueError: a name is in one of the two only, or a shape differs.
    """
    taken = {id(own[name]) for name in saved if name in own}
    missing = [name for name, tensor in own.items() if id(tensor) not in taken]
    if lost := sorted(missing + [name for name in saved if name not in own]):
        raise ValueError(f"{lost[0]!r} is in the checkpoint or in the model, but not in both.")
    for name, values in saved.items():
        if values.shape != own[name].shape:
            raise ValueError(
                f"{name!r} has shape {tuple(values.shape)} in the checkpoint, and "
                f"{tuple(own[name].shape)} in the model."
            )
        own[name].detach().copy_(cut_like(values, own[name]))
