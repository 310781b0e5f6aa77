"""A rollout of the method: reflections on failures, then the retries, against two peers.

The work is described in ``workload``. What counts is tokens kept a second: those up to and
including the token that ended a completion. Three cases: the method's own rollout, the same with
reflections of 512 tokens that never stop early, and 48 tokens for each of 64 rows on 8 prompts of
200 tokens. The limit that a case is compared with is 2N floating-point operations for every token
that has to be computed, prompts once, at the measured rate of a large matrix product.

The peers:
- transformers ``generate``: two calls, every prompt repeated for each of its samples, left-padded,
  which is what TRL does.
- vLLM, in its own environment (``--vllm-python FILE``), ``n=8``, prefix caching on, cleared before
  each repeat; eager and compiled.

Ours combines two things, and each is also measured alone: *sharing alone* is our engine on weights
as torch lays them out; *packing alone* is ``generate`` on the weights that our engine packs for the
processor. On a GPU nothing is packed, and these two are left out.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

from benchmarks.cases import OURS, Case, Opener, Play, Settings, Turn
from benchmarks.groups import TEMPERATURE
from benchmarks.machine import seconds
from benchmarks.models import Arithmetic, model_folder
from benchmarks.side import Side
from benchmarks.workload import Generate, Rollout, Sizes, Workload
from mulligan.engines.local import inference_copy
from mulligan.engines.local.engine import LocalEngine
from mulligan.engines.local.inference_copy import InferenceCopy, packing_pays
from mulligan.models.load import load_model
from mulligan.types import Sampling, TokenIds

DTYPE = torch.bfloat16
WORK: Mapping[str, Mapping[str, Sizes]] = {
    "full": {
        "method": Sizes(),
        "512 new tokens": Sizes(failures=4, reflection=512, stops=False),
    },
    "quick": {"method": Sizes()},
    "tiny": {
        "method": Sizes(2, 2, 6, 4),
        "longer": Sizes(2, 2, 12, 4, stops=False),
    },
}
FIXED = {"full": (8, 8, 200, 48), "quick": (8, 8, 200, 48), "tiny": (2, 2, 8, 4)}
"""Prompts, samples of each, tokens of a prompt, tokens generated."""


def cases(settings: Settings) -> list[Case]:
    """Return the cases of a size."""
    found = [case_of(name, sizes, settings) for name, sizes in WORK[settings.size].items()]
    if settings.vllm_python is None:
        print("vLLM is left out: give --vllm-python.")
    fixed = FIXED[settings.size]
    about = dict(zip(("prompts", "samples", "prompt", "tokens"), fixed, strict=True))
    sides = {OURS: partial(_fixed, settings.model, *fixed)}
    return [*found, Case("fixed length", sides, about)]


def case_of(name: str, sizes: Sizes, settings: Settings) -> Case:
    """Return one case, with every side that this machine can run."""
    model = settings.model
    sides: dict[str, Opener] = {OURS: partial(ours, model, sizes)}
    if packing_pays(settings.device, DTYPE):
        sides["sharing alone"] = partial(ours, model, sizes, packed=False)
        sides["packing alone"] = partial(by_generate, model, sizes, packed=True)
    sides["transformers"] = partial(by_generate, model, sizes)
    if settings.vllm_python is not None:
        # A quick run goes without the compiled one: its start takes minutes.
        modes = {"vllm eager": True} | ({"vllm compiled": False} if settings.size == "full" else {})
        for title, eager in modes.items():
            sides[title] = partial(by_vllm, settings.vllm_python, model, sizes, eager=eager)
    return Case(name, sides, {"sizes": asdict(sizes)})


@contextmanager
def ours(model: str, sizes: Sizes, *, packed: bool = True) -> Iterator[Play]:
    """Generate with our engine."""
    loaded, tokenizer = load_model(model_folder(model), DTYPE)
    work = Workload(tokenizer, model, sizes)
    engine = _engine(loaded, tokenizer, work.stops, packed=packed)

    def generate(
        prompts: Sequence[TokenIds], n: int, limit: int, seed: int
    ) -> list[list[TokenIds]]:
        groups = engine.generate(prompts, n, Sampling(TEMPERATURE, limit, seed))
        return [[completion.token_ids for completion in group] for group in groups]

    def play(number: int) -> Turn:
        engine.reset_cache()  # between two rollouts the weights change
        return _turn(work, generate, number, loaded)

    yield play


@contextmanager
def by_generate(model: str, sizes: Sizes, *, packed: bool = False) -> Iterator[Play]:
    """Generate as TRL does, with transformers."""
    loaded, tokenizer = load_model(model_folder(model), DTYPE)
    work = Workload(tokenizer, model, sizes)
    generating = InferenceCopy(loaded, DTYPE).model if packed else loaded
    generate = partial(work.by_transformers, generating)
    yield lambda number: _turn(work, generate, number, loaded)


@contextmanager
def by_vllm(python: Path, model: str, sizes: Sizes, *, eager: bool) -> Iterator[Play]:
    """Generate with vLLM, in a process of its own environment."""
    folder = model_folder(model)
    loaded, tokenizer = load_model(folder, DTYPE, "cpu")  # to count its weights: vLLM loads its own
    work = Workload(tokenizer, model, sizes)
    how = {
        "model": folder,
        "eager": eager,
        "stops": sorted(work.stops),
        "temperature": TEMPERATURE,
        "gpu": torch.cuda.is_available(),
        "context": max(map(len, work.prompts)) + sizes.reflection + sizes.retry + 256,
    }
    environment = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "4"}
    command = [str(python), str(Path(__file__).with_name("vllm_side.py"))]
    with Side(command, environment, pause=True) as side:
        side.ask(how)

        def generate(
            prompts: Sequence[TokenIds], n: int, limit: int, seed: int
        ) -> list[list[TokenIds]]:
            del seed  # see vllm_side
            # Its prefix cache is cleared before reflections and kept for retries.
            job = {"prompts": prompts, "samples": n, "limit": limit, "clear": n > 1}
            return [[tuple(ids) for ids in group] for group in side.ask(job)]

        yield lambda number: _turn(work, generate, number, loaded)


def _engine(
    model: PreTrainedModel, tokenizer: object, stops: frozenset[int], *, packed: bool
) -> LocalEngine:
    """Return our engine; unpacked, it takes the weights as they are, as on another processor."""
    if packed:
        return LocalEngine(model, tokenizer, eos_ids=stops)  # type: ignore[arg-type]
    with patch.object(inference_copy, "packing_pays", return_value=False):
        return LocalEngine(model, tokenizer, eos_ids=stops)  # type: ignore[arg-type]


def _turn(work: Workload, generate: Generate, number: int, model: PreTrainedModel) -> Turn:
    """Let a side do one rollout; the seed differs from round to round."""
    rollouts: list[Rollout] = []
    taken = seconds(lambda: rollouts.append(work.rollout(generate, 100 + 2 * number)), model.device)
    [rollout] = rollouts
    flops = Arithmetic.of(model).generation(rollout.kept, rollout.prompts)
    kept = {"reflected": rollout.reflected, "retried": rollout.retried}
    return Turn(taken, rollout.kept, flops, details=kept)


@contextmanager
def _fixed(name: str, prompts: int, samples: int, prompt: int, tokens: int) -> Iterator[Play]:
    """Generate as many tokens for every row, prompts included in the time."""
    model, tokenizer = load_model(model_folder(name), DTYPE)
    engine = _engine(model, tokenizer, frozenset(), packed=True)
    flops = Arithmetic.of(model).generation(prompts * samples * tokens, prompts * prompt)
    vocabulary = range(3, model.config.vocab_size)

    def play(number: int) -> Turn:
        draw = random.Random(number)
        asked = [tuple(draw.choices(vocabulary, k=prompt)) for _ in range(prompts)]
        sampling = Sampling(TEMPERATURE, tokens, number)
        engine.reset_cache()
        taken = seconds(lambda: engine.generate(asked, samples, sampling), model.device)
        return Turn(taken, prompts * samples * tokens, flops)

    yield play
