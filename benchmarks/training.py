"""Log-probs, loss and backward of groups: Mulligan against TRL's GRPOTrainer, same tokens.

TRL runs its own ``_compute_loss`` on a batch as its own generation would leave it. It computes
entropies there, for its log; a second TRL goes without them. Its gradient checkpointing, on by
default, is off unless a case says otherwise: without it TRL is faster. Each side works in a process
of its own. Peak memory is what a step adds to a process that has loaded the model, gradients
included.

Shapes are prompt tokens, completion tokens, completions. The shared prompt saves most where the
prompt is long and completions are short, and least at 400, 2048, 8, where a reasoning model's
completions are five times as long as the prompt; both ends are here.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.cases import OURS, Case, Play, Settings, Turn
from benchmarks.groups import Shape
from benchmarks.models import model_folder
from benchmarks.side import own

PEERS = ("trl", "trl without entropies")


@dataclass(frozen=True, slots=True)
class Work:
    """What is trained on in a case, and how."""

    shape: Shape
    groups: int = 1
    """How many of such groups make the batch; TRL takes them one after the other."""
    lora: bool = False
    checkpointing: bool = False
    rows: int | None = None
    """Rows that TRL forwards together; all by default. Ours cuts what exceeds its own limit of
    16,384 tokens by itself."""

    @property
    def name(self) -> str:
        """Return what it is called in the results."""
        named = "x".join(map(str, self.shape))
        return (
            named
            + (f", {self.groups} groups" if self.groups > 1 else "")
            + (", LoRA" if self.lora else "")
            + (", gradient checkpointing" if self.checkpointing else "")
        )


FULL: Sequence[Work] = (
    Work((500, 150, 8)),
    Work((1000, 50, 14)),
    Work((1000, 150, 8)),
    Work((1000, 150, 8), checkpointing=True),
    Work((700, 512, 8)),
    Work((300, 1024, 8)),
    Work((500, 150, 8), groups=4),
    Work((700, 512, 8), groups=2),
    Work((500, 150, 8), lora=True),
    Work((700, 512, 8), lora=True),
    # TRL takes two rows at a time: its eight of 2,448 tokens together need more than 24 GiB.
    Work((400, 2048, 8), rows=2),
)
QUICK: Sequence[Work] = (Work((500, 150, 8)),)
TINY: Sequence[Work] = (
    Work((12, 6, 4), groups=2),
    Work((12, 6, 4), lora=True),
    Work((6, 12, 4), checkpointing=True, rows=2),
)
WORK = {"full": FULL, "quick": QUICK, "tiny": TINY}


def cases(settings: Settings) -> list[Case]:
    """Return the cases of a size."""
    return [case_of(work, settings.model) for work in WORK[settings.size]]


def case_of(work: Work, model: str) -> Case:
    """Return one case, for a model."""
    about = {
        "shape": work.shape,
        "groups": work.groups,
        "lora": work.lora,
        "gradient_checkpointing": work.checkpointing,
        "rows_of_trl": work.rows or work.shape[2],
    }
    sides = {name: partial(_side, name, work, model) for name in (OURS, *PEERS)}
    return Case(work.name, sides, about)


@contextmanager
def _side(name: str, work: Work, model: str) -> Iterator[Play]:
    options = {
        "folder": model_folder(model),
        "shape": work.shape,
        "groups": work.groups,
        "lora": work.lora,
        "checkpointing": work.checkpointing,
        "rows": work.rows or work.shape[2],
    }
    with own("training_side", name, json.dumps(options)) as side:

        def play(number: int) -> Turn:
            return Turn(**side.ask(number))

        yield play
