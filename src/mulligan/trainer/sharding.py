"""FSDP2 for a policy that is too large to be whole in every process.

Each process holds an equal part of every weight, of its gradient and of the optimiser's averages.
A layer's weights are gathered for the time that it computes, forward and backward, and its
gradient is summed into the parts. So every process must go through the model equally often: one
that has less to score than the others scores nothing in an empty pass.

The root is the scorer, for it goes past the model's own forward and reads the head's weight.
"""

from typing import cast

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from mulligan.errors import MulliganError
from mulligan.logprobs.shared_prompt import GroupScorer


def shard(scorer: GroupScorer, device_type: str, count: int) -> None:
    """Shard a scorer's model over all processes, layer by layer, in place.

    Args:
        scorer: whose model is the same in each process, on its device or still on the CPU.
        device_type: of the devices that the shards are put on.
        count: of the processes.

    Raises:
        MulliganError: transformers does not know what this model's layers are.
    """
    mesh = init_device_mesh(device_type, (count,))
    names = set(scorer.model._no_split_modules or ())
    layers = [each for each in scorer.modules() if type(each).__name__ in names]
    if not layers:
        raise MulliganError(
            f"{type(scorer.model).__name__} does not say which of its modules are its layers, so "
            "it cannot be sharded. Leave out train.shard: each process then holds it whole."
        )
    for module in (*reversed(layers), scorer):  # what is inside another comes first
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        _sum_gradients(cast(FSDPModule, module))
    for entered in ("score", "objection"):
        register_fsdp_forward_method(scorer, entered)


def _sum_gradients(module: FSDPModule) -> None:
    """Undo the averaging: losses are divided by a count over all processes already.

    ``SUM`` is forced, for on gloo an average is a sum that nobody divides, and a factor alone makes
    NCCL multiply before it sums.
    """
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)
