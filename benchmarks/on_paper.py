"""How a step's time divides on paper: ``python -m benchmarks.on_paper`` prints the table.

Nothing here is measured. Operations and bytes are counted, and divided by what a data sheet says a
GPU and its links do, times a share of it that is reached in practice. Lengths are means; what waits
for the longest completion, for a kernel to start or for another process is left out.
"""

import math
from dataclasses import dataclass

from benchmarks.models import Arithmetic

BYTES = 2
"""Of a weight, key or value while generating, and of a weight that travels: bfloat16."""
MASTER = 4
"""Of a weight that is trained: float32."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the data sheets of a GPU and its links say, a second, and the share that is reached."""

    flops: float = 989e12
    """Dense bfloat16 operations of an H100 SXM."""
    memory: float = 3.35e12
    """Bytes of its memory."""
    nvlink: float = 450e9
    """Bytes from GPU to GPU within a node, one way: NVLink 4."""
    network: float = 50e9
    """Bytes from a node to another, by one link for each GPU: InfiniBand NDR, 400 Gbit."""
    disk: float = 7e9
    """Bytes that an NVMe disk writes or reads: PCIe 4."""
    flops_reached: float = 0.4
    memory_reached: float = 0.6
    links_reached: float = 0.8


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's shape."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    @property
    def arithmetic(self) -> Arithmetic:
        """Count the weights in matrix products; norms and biases are left out."""
        keys = self.hidden // self.heads * self.kv_heads
        attention = 2 * self.hidden * (self.hidden + keys)
        backbone = self.layers * (attention + 3 * self.hidden * self.intermediate)
        return Arithmetic(backbone, self.vocabulary * self.hidden, self.layers, self.hidden)

    @property
    def parameters(self) -> int:
        """All weights, the embedding once where the head shares it."""
        counted = self.arithmetic
        return counted.backbone + counted.head * (1 if self.tied else 2)

    @property
    def key_bytes(self) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.hidden // self.heads * self.kv_heads * BYTES


@dataclass(frozen=True, slots=True)
class Work:
    """One step of the method; lengths are means, in tokens."""

    failures: int = 256
    group_size: int = 8
    prompt: int = 500
    """The conversation up to the reflection request."""
    reflection: int = 150
    question: int = 100
    """What the retry adds to it: the problem again."""
    answer: int = 100
    tokens_at_once: int = 16_384
    """In one pass through the policy."""

    @property
    def rows(self) -> int:
        """Episodes."""
        return self.failures * self.group_size


@dataclass(frozen=True, slots=True)
class Layout:
    """Who does what."""

    where: str
    trainers: int
    """GPUs that train."""
    replicas: int
    """Copies of the model that generate."""
    gpus: int
    """That share the work of one copy."""
    link: str
    """On which new weights reach a copy: ``memory``, ``nvlink`` or ``network``."""
    shares_prompts: bool = True
    """Whether training computes the prompt of a group once."""
    reference: bool = True
    """Whether a reference policy scores the tokens too."""
    frozen: bool = False
    """Whether the weights get no gradient, as under LoRA."""
    sharded: bool = False
    """Whether each of the GPUs that train holds a part of the weights."""
    rows_at_once: int = 256
    """That one copy generates together."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one step's parts."""

    rollout: float
    transfer: float
    by_folder: float
    """The transfer where weights are written to a disk and read from it."""
    update: float

    @property
    def total(self) -> float:
        """One after the other, with the faster transfer."""
        return self.rollout + self.transfer + self.update


def step_times(shape: Shape, layout: Layout, work: Work, hardware: Hardware) -> Times:
    """Return the seconds of a step's parts."""
    weights = shape.parameters * BYTES
    links = {
        "memory": hardware.memory * hardware.memory_reached,
        "nvlink": hardware.nvlink * hardware.links_reached,
        "network": hardware.network * hardware.links_reached,
    }
    # Within a GPU the float32 weights are read and a copy is written; shards are gathered as they
    # are; elsewhere the copy travels.
    trained = shape.parameters * MASTER
    moved = weights + trained if layout.link == "memory" else trained if layout.sharded else weights
    return Times(
        rollout=_rollout(shape, layout, work, hardware),
        transfer=moved / links[layout.link],
        by_folder=2 * weights / hardware.disk,
        update=_update(shape, layout, work, hardware) + _gathering(shape, layout, work, hardware),
    )


def _rollout(shape: Shape, layout: Layout, work: Work, hardware: Hardware) -> float:
    """Return the seconds of the reflections and the retries on every copy of the model."""
    flops = hardware.flops * hardware.flops_reached * layout.gpus
    rows = work.rows / layout.replicas
    read = rows / work.group_size * work.prompt + rows * work.question
    retry = work.prompt + work.reflection + work.question
    return (
        shape.arithmetic.generation(0, int(read)) / flops
        + _decode(shape, layout, hardware, rows, work.reflection, work.prompt)
        + _decode(shape, layout, hardware, rows, work.answer, retry)
    )


def _decode(
    shape: Shape, layout: Layout, hardware: Hardware, rows: float, length: int, before: int
) -> float:
    """Return the seconds in which a copy generates rows of some length after ``before`` tokens.

    Each token of a row needs all weights, and the keys of the row: the slower of reading these and
    computing with them counts.
    """
    together = min(rows, layout.rows_at_once)
    keys = together * (before + length / 2) * shape.key_bytes
    memory = hardware.memory * hardware.memory_reached * layout.gpus
    flops = hardware.flops * hardware.flops_reached * layout.gpus
    reading = (shape.arithmetic.weights * BYTES + keys) / memory
    computing = shape.arithmetic.generation(1) * together / flops
    return rows / together * length * max(reading, computing)


def _update(shape: Shape, layout: Layout, work: Work, hardware: Hardware) -> float:
    """Return the seconds of forward and backward, recomputed activations and the reference."""
    groups = work.failures if layout.shares_prompts else work.rows
    sizes = work.prompt, work.reflection, work.rows // groups
    counted = shape.arithmetic
    forward = counted.group(*sizes) / 3  # the backward is twice as much
    more = 2 if layout.reference else 1
    both = counted.group(*sizes, frozen=layout.frozen)
    flops = hardware.flops * hardware.flops_reached * layout.trainers
    return groups * (both + more * forward) / flops


def _gathering(shape: Shape, layout: Layout, work: Work, hardware: Hardware) -> float:
    """Return the seconds in which shards travel, none of it hidden behind computing.

    In each pass weights are gathered for the forward and for the backward, and for the reference,
    and gradients are summed into their parts.
    """
    if not layout.sharded:
        return 0.0
    tokens = work.failures * (work.prompt + work.group_size * work.reflection) / layout.trainers
    passes = math.ceil(tokens / work.tokens_at_once)
    others = (layout.trainers - 1) / layout.trainers
    sent = (4 if layout.reference else 3) * shape.parameters * MASTER * others
    return passes * sent / (hardware.nvlink * hardware.links_reached)


PRIME = (False, False)
"""prime-rl computes a prompt once for each of its reflections, and has no reference."""

SHAPES = {
    "1.5B": Shape("Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 151_936, tied=True),
    "7B": Shape("Qwen2.5-7B", 3584, 18_944, 28, 28, 4, 152_064, tied=False),
    "70B": Shape("Llama-3.3-70B", 8192, 28_672, 80, 64, 8, 128_256, tied=False),
}
LAYOUTS = (
    ("1.5B", Layout("one GPU", 1, 1, 1, "memory")),
    ("7B", Layout("one GPU, LoRA", 1, 1, 1, "memory", frozen=True)),
    ("1.5B", Layout("one node, 8 GPUs", 8, 8, 1, "memory")),
    ("7B", Layout("one node, 8 GPUs, LoRA", 8, 8, 1, "memory", frozen=True)),
    ("7B", Layout("one node, 8 GPUs, all weights in shards", 8, 8, 1, "nvlink", sharded=True)),
    ("7B", Layout("one node, 4 GPUs train and 4 generate: prime-rl", 4, 4, 1, "nvlink", *PRIME)),
    (
        "70B",
        Layout("8 nodes, 32 GPUs train and 32 generate: prime-rl", 32, 4, 8, "network", *PRIME),
    ),
)


def table(work: Work, hardware: Hardware) -> str:
    """Return the table in Markdown: seconds, and each part's share of their sum."""
    lines = [
        "| model | where | rollout | transfer | (by folder) | update | one after the other |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, layout in LAYOUTS:
        times = step_times(SHAPES[name], layout, work, hardware)
        parts = [
            f"{seconds(part)} ({part / times.total:.0%})"
            for part in (times.rollout, times.transfer, times.update)
        ]
        rollout, transfer, update = parts
        cells = [name, layout.where, rollout, transfer, f"({seconds(times.by_folder)})", update]
        lines.append(f"| {' | '.join([*cells, seconds(times.total)])} |")
    return "\n".join(lines)


def seconds(value: float) -> str:
    """Write a duration with two digits."""
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"


if __name__ == "__main__":
    print(table(Work(), Hardware()))
