"""A rollout of the method: reflections on failures, then the retries, against two peers.

The work is described in ``workload``. What counts is tokens kept per second: those up to and
including the token that ended a completion.

The peers:
- transformers ``generate``: two calls, every prompt repeated for each of its samples, left-padded,
  which is what TRL does.
- vLLM on CPU, in its own environment (``--vllm-python FILE``), ``n=8``, prefix caching on, cleared
  before each repeat; eager and compiled, the better one counts.

A second case has a limit to compare with: 48 tokens for each of 64 rows (8 prompts of 200 tokens),
no stops. The limit is 2N floating-point operations for every token that has to be computed, at the
measured matrix-product rate: the 3,072 that are generated, and the 1,600 of the prompts, once.
``generated_share_of_limit`` counts the generated ones alone, though the time includes the prompts.
"""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.machine import measure, middle, seconds
from benchmarks.workload import FAILURES, MODEL, SAMPLES, TEMPERATURE, WARMED_UP, Workload
from mulligan.engines.local.engine import LocalEngine
from mulligan.models.load import load_model, resolve_model
from mulligan.types import Sampling, TokenIds

FIXED_PROMPT, FIXED_TOKENS = 200, 48
Rollout = Callable[[int], tuple[int, int]]
"""Seed to the tokens kept of the reflections and of the retries."""


def run(quick: bool) -> dict[str, Any]:
    """Run both cases and print a table."""
    model, tokenizer = load_model(MODEL, dtype="bfloat16")
    machine = measure(model.device, torch.bfloat16)
    print(machine)
    work = Workload(tokenizer)
    engine = LocalEngine(model, tokenizer, eos_ids=work.stops)
    peers: dict[str, Rollout] = {
        "mulligan": partial(work.rollout, partial(_by_engine, engine)),
        "transformers": partial(work.rollout, partial(work.by_transformers, model)),
    }
    servers = _vllm_peers(work, eager_only=quick)
    peers |= {name: partial(work.rollout, server.generate) for name, server in servers.items()}
    try:
        rates, kept = _interleaved(peers, 1 if quick else 3, model.device)
    finally:
        for server in servers.values():
            server.close()
    fixed = _fixed(model, tokenizer, 2 if quick else 3)
    parameters = sum(p.numel() for p in model.parameters())
    generated_share = 2 * parameters * median(fixed) / machine.matmul_flops
    share = generated_share * (1 + FIXED_PROMPT / (SAMPLES * FIXED_TOKENS))
    ours = median(rates["mulligan"])
    ratios = {name: ours / median(r) for name, r in rates.items() if name != "mulligan"}
    vllm = [ratio for name, ratio in ratios.items() if name.startswith("vllm")]
    if vllm:
        ratios["vllm"] = min(vllm)
    for name, values in rates.items():
        print(f"{name:>20}: {_line(values)} kept tokens/s, {kept[name]} tokens")
    print(
        f"{'fixed length':>20}: {_line(fixed)} tokens/s, {share:.0%} of the limit "
        f"({generated_share:.0%} without the prompts' tokens)"
    )
    print("  ".join(f"{ratio:.2f}x {name}" for name, ratio in ratios.items()))
    return {
        "benchmark": "rollouts",
        "device": machine.device,
        "ratios": ratios,
        "share_of_limit": share,
        "generated_share_of_limit": generated_share,
        "matmul_gflops": machine.matmul_flops / 1e9,
        "copy_gb_per_s": machine.copy_bandwidth / 1e9,
        "stops": "the model's own" if WARMED_UP else "end of sentence",
        "prompt_tokens": [len(prompt) for prompt in work.prompts],
        "cases": [
            {"case": "rollout", "kept_tokens_per_s": {n: middle(r) for n, r in rates.items()}}
            | {"kept_tokens": kept},
            {"case": "fixed", "tokens_per_s": middle(fixed), "rows": FAILURES * SAMPLES}
            | {"prompt": FIXED_PROMPT, "tokens": FIXED_TOKENS},
        ],
    }


def _by_engine(
    engine: LocalEngine, prompts: Sequence[TokenIds], n: int, limit: int, seed: int
) -> list[list[TokenIds]]:
    groups = engine.generate(prompts, n, Sampling(TEMPERATURE, limit, seed))
    if n == 1:
        engine.reset_cache()  # the retries end a rollout; after it comes an update of the weights
    return [[completion.token_ids for completion in group] for group in groups]


class _VllmPeer:
    """vLLM in an environment of its own, one server for all repeats.

    It is paused while it has nothing to do: its processes poll while others are being timed.
    """

    def __init__(self, python: Path, model: str, work: Workload, eager: bool) -> None:
        script = Path(__file__).with_name("vllm_peer.py")
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that its own processes pause with it
            env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "4"},
        )
        stops = sorted(work.stops)
        self._ask({"model": model, "eager": eager, "stops": stops, "temperature": TEMPERATURE})
        work.rollout(self.generate, 0)

    def generate(
        self, prompts: Sequence[TokenIds], n: int, limit: int, seed: int
    ) -> list[list[TokenIds]]:
        """Let it sample; its prefix cache is cleared before reflections and kept for retries."""
        del seed  # see vllm_peer
        job = {"prompts": prompts, "samples": n, "limit": limit, "clear": n > 1}
        return [[tuple(ids) for ids in group] for group in self._ask(job)]

    def close(self) -> None:
        """End the process."""
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.communicate()

    def _ask(self, question: Any) -> Any:
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                os.killpg(self._process.pid, signal.SIGSTOP)
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"vLLM ended with code {self._process.wait()}; its errors are above.")


def _vllm_peers(work: Workload, eager_only: bool) -> dict[str, _VllmPeer]:
    """Start vLLM where an environment for it is named."""
    python = os.environ.get("MULLIGAN_VLLM_PYTHON")
    if not python:
        print("vLLM is left out: give --vllm-python, or set MULLIGAN_VLLM_PYTHON.")
        return {}
    folder = resolve_model(MODEL)
    modes = {"vllm eager": True} if eager_only else {"vllm eager": True, "vllm compiled": False}
    return {name: _VllmPeer(Path(python), folder, work, eager) for name, eager in modes.items()}


def _interleaved(
    peers: dict[str, Rollout], repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[tuple[int, int]]]]:
    """Run the peers in turn; return kept tokens per second, and how many were kept."""
    rates: dict[str, list[float]] = {name: [] for name in peers}
    kept: dict[str, list[tuple[int, int]]] = {name: [] for name in peers}
    peers["mulligan"](0)
    for repeat in range(repeats):
        for name, rollout in peers.items():
            # The seed differs from repeat to repeat; nothing is kept between them.
            work = partial(rollout, 100 + 2 * repeat)
            taken = seconds(lambda work=work, name=name: kept[name].append(work()), device)
            rates[name].append(sum(kept[name][-1]) / taken)
            print(f"{name}: {rates[name][-1]:.0f} kept tokens/s", flush=True)
    return rates, kept


def _fixed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, repeats: int) -> list[float]:
    """Return tokens per second without stops, prompts included in the time."""
    engine = LocalEngine(model, tokenizer, eos_ids=())
    rng = random.Random(0)
    vocabulary = range(3, model.config.vocab_size)
    rates = []
    for repeat in range(repeats + 1):
        prompts = [tuple(rng.choices(vocabulary, k=FIXED_PROMPT)) for _ in range(FAILURES)]
        sampling = Sampling(TEMPERATURE, FIXED_TOKENS, repeat)
        engine.reset_cache()
        work = partial(engine.generate, prompts, SAMPLES, sampling)
        taken = seconds(work, model.device)
        rates.append(FAILURES * SAMPLES * FIXED_TOKENS / taken)
    return rates[1:]


def _line(values: list[float]) -> str:
    spread = middle(values)
    return f"{spread['median']:.0f} ({spread['low']:.0f} to {spread['high']:.0f})"
