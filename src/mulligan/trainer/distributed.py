"""Several processes that train one policy, started by torchrun or ``accelerate launch``.

Each process holds the whole policy, or a shard of it (``sharding.py``). All of them know every
group of a step; each generates a share of the completions, and differentiates a share of the
losses. The sum of the gradients goes to all, so that every process takes the same optimiser step
and stays equal to the others bit for bit. The first process alone judges, rewards and writes. What
one process does on its own is unchanged: alone, everything here hands back what it is given.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar, cast

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from mulligan.engines.base import Abilities, DivisibleEngine, Engine
from mulligan.errors import MulliganError
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.models.shards import is_sharded, whole
from mulligan.objectives.base import Evidence, Reward
from mulligan.objectives.objective import Objective
from mulligan.randomness import derive_seed
from mulligan.storage.records import decode, encode
from mulligan.trainer.failure_sources import FailureSource
from mulligan.trainer.launch import Launch
from mulligan.trainer.sharding import shard
from mulligan.types import Completion, Failure, Group, Sampling, TokenIds

A = TypeVar("A")
T = TypeVar("T")

_BUCKET = 2**26
"""Elements of gradients that travel at once: 256 MiB in float32."""


class Processes:
    """The processes of a run, as one of them sees them; without a launch, it is the only one."""

    def __init__(self, launch: Launch | None = None) -> None:
        self._launch = launch
        self.rank = launch.rank if launch else 0
        self.count = launch.count if launch else 1

    @property
    def leads(self) -> bool:
        """Whether this process judges, rewards and writes."""
        return self.rank == 0

    def first(self, make: Callable[[], T], kind: Any) -> T:
        """Return what the first process makes; the others make nothing and wait for it.

        Args:
            make: called in the first process only.
            kind: the type of what it returns, which travels as JSON.
        """
        if self._launch is None:
            return make()
        line = self._launch.broadcast(_encoded(make()) if self.leads else b"")
        return cast(T, _decoded(line, kind))

    def gather(self, value: T, kind: Any) -> list[T]:
        """Return every process's value, in order of the processes."""
        if self._launch is None:
            return [value]
        return [_decoded(line, kind) for line in self._launch.gather(_encoded(value))]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes, to the bit the same everywhere."""
        if self._launch is None:
            return list(values)
        return [sum(each) for each in zip(*self.gather(list(values), list[float]), strict=True)]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's share of a list: every n-th of it."""
        return items[self.rank :: self.count]

    def share_equally(self, items: Sequence[T], filler: T) -> Sequence[T]:
        """Return this process's share of a list, as long as every other's: filled up at its end."""
        own = self.share(items)
        return [*own, *[filler] * (-(-len(items) // self.count) - len(own))]

    def shard(self, scorer: GroupScorer, device_type: str) -> None:
        """Let each process keep an equal part of a scorer's model."""
        if self._launch is not None:
            shard(scorer, device_type, self.count)

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whole; those that are sharded only in the first process, on its CPU."""
        made: dict[int, Tensor] = {}  # tied weights are one tensor
        for tensor in tensors.values():
            if id(tensor) not in made:
                values = whole(tensor)
                if is_sharded(tensor):
                    values = values.cpu() if self.leads else values.new_empty(0)
                made[id(tensor)] = values
        return {name: made[id(tensor)] for name, tensor in tensors.items()}

    def answered(self) -> AbstractContextManager[None]:
        """Say which process has ended, where messages within a computation get no answer."""
        return nullcontext() if self._launch is None else self._launch.naming_who_ended()

    def agree(self, objection: str | None) -> str | None:
        """Return the first objection that any process has."""
        return next(filter(None, self.gather(objection, str | None)), None)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients.

        A parameter has a gradient afterwards where it had one in any process. Those of shards are
        sums already.
        """
        if self._launch is None:
            return
        kept = [each for each in parameters if each.requires_grad and not is_sharded(each)]
        if not kept:
            return
        there = torch.tensor([each.grad is not None for each in kept], dtype=torch.int32)
        self._launch.all_reduce(there)
        with_gradient = [each for each, count in zip(kept, there.tolist(), strict=True) if count]
        for bucket in _buckets(with_gradient):
            flat = torch.cat([_gradient(each) for each in bucket])
            self._launch.all_reduce(flat)
            sizes = [each.numel() for each in bucket]
            for parameter, summed in zip(bucket, torch.split(flat, sizes), strict=True):
                parameter.grad = summed.view_as(parameter).to(parameter.dtype)

    def require_equal(self, parameters: Iterable[nn.Parameter]) -> None:
        """Check that all processes have the same weights, bit for bit, where they are not sharded.

        Raises:
            MulliganError: naming a process whose weights are not the first one's.
        """
        if self._launch is None:
            return
        equal = [each for each in parameters if not is_sharded(each)]
        sums = self.gather([_checksum(each) for each in equal], list[int])
        for rank, found in enumerate(sums):
            if found != sums[0]:
                raise MulliganError(
                    f"The weights of {self._launch.names[rank]} are not those of "
                    f"{self._launch.names[0]}. Nothing is saved of this step. Start all processes "
                    "on the same hardware with the same packages, and go on with --resume."
                )

    def seed(self, *parts: int | str) -> None:
        """Seed what a model draws while it is trained, such as dropout, otherwise in each process.

        So that a run which goes on from the first process's state repeats every process's draws.
        """
        if self._launch is not None:
            torch.manual_seed(derive_seed(*parts, self.rank))

    def engine(self, engine: Engine) -> Engine:
        """Return an engine of which each process generates a share, and all know everything.

        Args:
            engine: of this process, whose abilities say that it is divisible.
        """
        if self._launch is None:
            return engine
        return _DividedEngine(cast(DivisibleEngine, engine), self)

    def led(self, function: Callable[[A], T], kind: Any) -> Callable[[A], T]:
        """Return a function that the first process computes, and that all call together.

        Args:
            function: called in the first process only.
            kind: the type of what it returns, which travels as JSON.
        """
        if self._launch is None:
            return function
        return lambda given: self.first(lambda: function(given), kind)

    def failures(self, source: FailureSource) -> FailureSource:
        """Return a source of which the first process takes the failures of a step."""
        return source if self._launch is None else _FirstsFailures(source, self)

    def objective(self, objective: Objective) -> Objective:
        """Return an objective whose reward the first process gives."""
        if self._launch is None:
            return objective
        return replace(objective, reward=_FirstsReward(objective.reward, self))

    def any(self, question: Callable[[], bool]) -> Callable[[], bool]:
        """Return a question whose answer is yes where it is yes in any process."""
        return lambda: any(self.gather(question(), bool))


ALONE = Processes()
"""The one process of a run that was not launched as several."""


class _DividedEngine:
    """Generates a share of each call's completions, and returns those of all processes."""

    def __init__(self, engine: DivisibleEngine, processes: Processes) -> None:
        self._engine = engine
        self._processes = processes

    @property
    def abilities(self) -> Abilities:
        return self._engine.abilities

    @property
    def policy_version(self) -> int:
        return self._engine.policy_version

    @property
    def context(self) -> int | None:
        return self._engine.context

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Generate neighbouring prompts in one process: they share prefixes, as retries do."""
        rank, count = self._processes.rank, self._processes.count
        low, high = (len(prompts) * each // count for each in (rank, rank + 1))
        own = self._engine.generate(prompts[low:high], n, sampling, first=low)
        shares = self._processes.gather(own, list[list[Completion]])
        return [row for share in shares for row in share]

    def update_weights(self, policy: nn.Module, version: int) -> None:
        with self._processes.answered():
            self._engine.update_weights(policy, version)

    def reset_cache(self) -> None:
        self._engine.reset_cache()

    def close(self) -> None:
        self._engine.close()


class _FirstsFailures:
    """The failures that the first process finds."""

    def __init__(self, source: FailureSource, processes: Processes) -> None:
        self._source = source
        self._processes = processes

    def batch(self, step: int) -> list[Failure]:
        return self._processes.first(lambda: self._source.batch(step), list[Failure])

    def others(self, seen: Sequence[Failure], wanted: int, step: int, refill: int) -> list[Failure]:
        return self._processes.first(
            lambda: self._source.others(seen, wanted, step, refill), list[Failure]
        )


class _FirstsReward(Reward):
    """What the first process says an episode is worth."""

    def __init__(self, reward: Reward, processes: Processes) -> None:
        self._reward = reward
        self._processes = processes
        self.range = reward.range
        self.needs_retry = reward.needs_retry
        self.needs_reflection = reward.needs_reflection
        self.has_passes = reward.has_passes
        self.asks_policy = reward.asks_policy

    def score(
        self, groups: Sequence[Group], evidence: Evidence
    ) -> Sequence[Sequence[float | None]]:
        return self._processes.first(
            lambda: self._reward.score(groups, evidence), list[list[float | None]]
        )

    def close(self) -> None:
        self._reward.close()


@cache
def _adapter(kind: Any) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(dict[str, kind])


def _encoded(value: object) -> bytes:
    return encode({"value": value})


def _decoded(line: bytes, kind: Any) -> Any:
    return decode(line, _adapter(kind), "a message between processes")["value"]


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient as a flat float32 tensor, zeros where there is none."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.detach().reshape(-1).float()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(each.numel() for each in bucket) + parameter.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _checksum(parameter: nn.Parameter) -> int:
    """Return a sum over the bits of a tensor, whatever the order in which it is added up."""
    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    data = parameter.detach().contiguous()
    return int(data.view(sizes[data.element_size()]).sum(dtype=torch.int64))
