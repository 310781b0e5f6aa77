"""The policy: the model that is trained, and what differs between training it whole and by LoRA.

What is trained, what the reference is, what a checkpoint holds. Scoring and generation know none
of this: they take ``policy.model``, whose forward pass is the policy as it is now.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mulligan.errors import MulliganError
from mulligan.models.shards import take_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"

logger = logging.getLogger("mulligan")


class Policy(Protocol):
    """A model in training."""

    @property
    def model(self) -> "PreTrainedModel":
        """What is scored, trained in place, and generated with."""
        ...

    def reference(self, dtype: "torch.dtype") -> "PreTrainedModel":
        """Return the model that scores as the policy did at first, within ``as_reference``.

        Args:
            dtype: of its weights, where they are a copy.
        """
        ...

    def as_reference(self) -> AbstractContextManager[None]:
        """While this lasts, the model of ``reference`` scores as the policy did at first."""
        ...

    def tensors(self) -> "dict[str, Tensor]":
        """Return what training changes of the policy, by names; maybe shards."""
        ...

    def save(self, folder: Path, tensors: "Mapping[str, Tensor]") -> None:
        """Write what training has made of the policy.

        Args:
            folder: gets it.
            tensors: those of ``tensors``, whole.
        """
        ...

    def load(self, folder: Path) -> None:
        """Take over what ``save`` wrote, bit for bit."""
        ...

    def finished(self) -> "PreTrainedModel":
        """Return the trained model as one that stands alone; the policy is used up."""
        ...


class FullPolicy:
    """Every weight is trained."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self.model = model

    def reference(self, dtype: "torch.dtype") -> "PreTrainedModel":
        """Return a frozen copy."""
        tied = {id(each): _frozen(each, dtype) for each in self.model.parameters()}
        copy = deepcopy(self.model, dict[int, Any](tied))
        copy.train(False)
        return copy

    def as_reference(self) -> AbstractContextManager[None]:
        """Change nothing: the copy is the reference."""
        return nullcontext()

    def tensors(self) -> "dict[str, Tensor]":
        """Return all weights and what is kept with them; tied ones are one tensor, twice."""
        return dict(self.model.state_dict(keep_vars=True))

    def save(self, folder: Path, tensors: "Mapping[str, Tensor]") -> None:
        """Write all weights, in one file."""
        self.model.save_pretrained(folder, state_dict=dict(tensors), max_shard_size="1000TB")

    def load(self, folder: Path) -> None:
        """Take over all weights."""
        from safetensors.torch import load_file

        take_over(self.tensors(), load_file(folder / WEIGHTS))

    def finished(self) -> "PreTrainedModel":
        """Return the model."""
        return self.model


class LoraPolicy:
    """Adapters of low rank are trained, the model itself is left alone (LoRA, arXiv 2106.09685).

    They are put into the model in place, and start as nothing: B is zero.

    Args:
        model: gets the adapters.
        rank: of the two matrices of each adapter.
        alpha: their product is scaled by ``alpha / rank``.
        targets: which linear layers get one: names, or ``all-linear`` for all but the head.
        base: the model's name, which the adapter's own configuration keeps.
        seed: of the matrices A.

    Raises:
        MulliganError: no layer has one of these names.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        rank: int,
        alpha: int,
        targets: str | Sequence[str],
        base: str,
        seed: int,
    ) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        names = targets if isinstance(targets, str) else list(targets)
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=names, task_type="CAUSAL_LM", bias="none"
        )
        model.name_or_path = base
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self._adapted: Any = get_peft_model(
                    model, config
                )  # adapters go into the model itself
            except ValueError as error:
                raise MulliganError(
                    f"No adapter can be put into this model: {str(error).partition(chr(10))[0]} "
                    "Give lora.targets=all-linear, or the names of linear layers."
                ) from error
        self.model: PreTrainedModel = model

    def reference(self, dtype: "torch.dtype") -> "PreTrainedModel":
        """Return the model itself: without its adapters it is the reference."""
        return self.model

    @contextmanager
    def as_reference(self) -> "Iterator[None]":
        """Switch the adapters off."""
        with self._adapted.disable_adapter():
            yield

    def tensors(self) -> "dict[str, Tensor]":
        """Return the adapters' weights."""
        every = self._adapted.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in every.items() if ".lora_" in name}

    def save(self, folder: Path, tensors: "Mapping[str, Tensor]") -> None:
        """Write the adapters alone, as peft does."""
        self._adapted.save_pretrained(folder, state_dict=dict(tensors), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card

    def load(self, folder: Path) -> None:
        """Take over the adapters' weights."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import load_file

        saved_as = get_peft_model_state_dict(
            self._adapted, state_dict=self.tensors(), save_embedding_layers=False
        )
        take_over(saved_as, load_file(folder / ADAPTER))

    def finished(self) -> "PreTrainedModel":
        """Return the model with its adapters merged in."""
        merged: PreTrainedModel = self._adapted.merge_and_unload()
        return merged


def _frozen(parameter: "torch.nn.Parameter", dtype: "torch.dtype") -> "torch.nn.Parameter":
    import torch

    data = parameter.detach()
    data = data.to(dtype, copy=True) if data.is_floating_point() else data.clone()
    return torch.nn.Parameter(data, requires_grad=False)
