"""A rollout of the method: reflections on failures, then the retries, against two peers.

The work: 8 failures x 8 reflections, at most 48 tokens, then one retry each, at most 24, at
temperature 0.9 in bfloat16. Prompts have 150 to 250 tokens, and each retry's prompt is its
reflection's prompt and tokens and the question again. What counts is tokens kept a second: those up
to and including the token that ended a completion.

Where completions end: with a warmed-up model (``--model FOLDER``) at its own stop token. The model
as it is shipped hardly ever stops within the cap, so without ``--model`` a completion ends with its
first sentence, at any token whose text ends in a full stop, question or exclamation mark, or a line
break. Every peer gets the same stop tokens. Peers draw with random numbers of their own, so their
completions differ, but not in how their lengths are distributed; lengths are reported.

The peers:
- transformers ``generate``: two calls, every prompt repeated for each of its samples, left-padded,
  which is what TRL does.
- vLLM on CPU, in its own environment (``--vllm-python FILE``), ``n=8``, prefix caching on, cleared
  before each repeat; eager and compiled, the better one counts.

A second case has a limit to compare with: 48 tokens for each of 64 rows (8 prompts of 200 tokens),
no stops. The limit is 2N floating-point operations a token at the measured matrix-product rate.
"""

import json
import os
import random
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.machine import measure, middle, seconds
from mulligan.engines.local import LocalEngine
from mulligan.models import DEFAULT_MODEL, load_model, resolve_model
from mulligan.types import Sampling, TokenIds

FAILURES, SAMPLES = 8, 8
REFLECTION, RETRY = 48, 24
TEMPERATURE = 0.9
FIXED_PROMPT, FIXED_TOKENS = 200, 48
Rollout = tuple[int, int]
"""Tokens kept of the reflections and of the retries."""


def run(quick: bool) -> dict[str, Any]:
    """Run both cases and print a table."""
    torch.manual_seed(0)
    given = os.environ.get("MULLIGAN_BENCHMARK_MODEL")
    model, tokenizer = load_model(given or DEFAULT_MODEL, dtype="bfloat16")
    machine = measure(model.device, torch.bfloat16)
    print(machine)
    stops = _stops(tokenizer, warmed_up=given is not None)
    prompts, turn = _prompts(tokenizer)
    work = _Work(prompts, turn, stops)
    engine = LocalEngine(model, tokenizer, eos_ids=stops)
    peers: dict[str, Callable[[int], Rollout]] = {
        "mulligan": lambda seed: work.by_engine(engine, seed),
        "transformers": lambda seed: work.by_transformers(model, seed),
    }
    servers = _vllm_peers(given or DEFAULT_MODEL, work, eager_only=quick)
    peers |= {name: server.rollout for name, server in servers.items()}
    try:
        rates, kept = _interleaved(peers, 2 if quick else 5, model.device)
    finally:
        for server in servers.values():
            server.close()
    fixed = _fixed(model, tokenizer, 2 if quick else 5)
    parameters = sum(p.numel() for p in model.parameters())
    share = 2 * parameters * median(fixed) / machine.matmul_flops
    ours = median(rates["mulligan"])
    ratios = {name: ours / median(r) for name, r in rates.items() if name != "mulligan"}
    vllm = [ratio for name, ratio in ratios.items() if name.startswith("vllm")]
    if vllm:
        ratios["vllm"] = min(vllm)
    for name, values in rates.items():
        print(f"{name:>20}: {_line(values)} kept tokens/s, {kept[name]} tokens")
    print(f"{'fixed length':>20}: {_line(fixed)} tokens/s, {share:.0%} of the limit")
    print("  ".join(f"{ratio:.2f}x {name}" for name, ratio in ratios.items()))
    return {
        "benchmark": "rollouts",
        "device": machine.device,
        "ratios": ratios,
        "share_of_limit": share,
        "matmul_gflops": machine.matmul_flops / 1e9,
        "copy_gb_per_s": machine.copy_bandwidth / 1e9,
        "stops": "the model's own" if given else "end of sentence",
        "cases": [
            {"case": "rollout", "kept_tokens_per_s": {n: middle(r) for n, r in rates.items()}}
            | {"kept_tokens": kept},
            {"case": "fixed", "tokens_per_s": middle(fixed), "rows": FAILURES * SAMPLES}
            | {"prompt": FIXED_PROMPT, "tokens": FIXED_TOKENS},
        ],
    }


class _Work:
    """The prompts of a rollout, and how each peer in this process does it."""

    def __init__(self, prompts: Sequence[TokenIds], turn: TokenIds, stops: frozenset[int]) -> None:
        self.prompts, self.turn, self.stops = prompts, turn, stops

    def by_engine(self, engine: LocalEngine, seed: int) -> Rollout:
        """Reflect and retry with Mulligan's engine, from an empty cache as after an update."""
        engine.forget()
        groups = engine.generate(self.prompts, SAMPLES, Sampling(TEMPERATURE, REFLECTION, seed))
        reflections = [c.token_ids for group in groups for c in group]
        retries = engine.generate(
            self._retry_prompts(reflections), 1, Sampling(TEMPERATURE, RETRY, seed + 1)
        )
        return sum(map(len, reflections)), sum(len(c.token_ids) for [c] in retries)

    def by_transformers(self, model: PreTrainedModel, seed: int) -> Rollout:
        """Reflect and retry with two calls of ``generate``, as TRL makes them."""
        torch.manual_seed(seed)
        repeated = [prompt for prompt in self.prompts for _ in range(SAMPLES)]
        reflections = self._generate(model, repeated, REFLECTION)
        retries = self._generate(model, self._retry_prompts(reflections), RETRY)
        return sum(map(len, reflections)), sum(map(len, retries))

    def _retry_prompts(self, reflections: Sequence[TokenIds]) -> list[TokenIds]:
        repeated = (prompt for prompt in self.prompts for _ in range(SAMPLES))
        return [p + r + self.turn for p, r in zip(repeated, reflections, strict=True)]

    def _generate(
        self, model: PreTrainedModel, prompts: Sequence[TokenIds], limit: int
    ) -> list[TokenIds]:
        width = max(map(len, prompts))
        ids = torch.tensor([(0,) * (width - len(p)) + p for p in prompts], device=model.device)
        lengths = torch.tensor([len(p) for p in prompts], device=model.device)
        mask = torch.arange(width, device=model.device) >= width - lengths[:, None]
        output: Any = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=mask.long(),
            max_new_tokens=limit,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            eos_token_id=sorted(self.stops),
            pad_token_id=0,
        )
        return [self._kept(row[width:]) for row in output.tolist()]

    def _kept(self, tokens: Sequence[int]) -> TokenIds:
        """Return the tokens up to and including the first that stops."""
        end = next((at for at, token in enumerate(tokens) if token in self.stops), len(tokens))
        return tuple(tokens[: end + 1])


class _VllmPeer:
    """vLLM in an environment of its own, one process for all repeats."""

    def __init__(self, python: Path, model: str, work: _Work, eager: bool) -> None:
        script = Path(__file__).with_name("vllm_peer.py")
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "4"},
        )
        job = {
            "model": model,
            "eager": eager,
            "prompts": work.prompts,
            "turn": work.turn,
            "stops": sorted(work.stops),
            "samples": SAMPLES,
            "limits": [REFLECTION, RETRY],
            "temperature": TEMPERATURE,
        }
        self._ask(job)

    def rollout(self, seed: int) -> Rollout:
        """Let it reflect and retry once."""
        reflections, retries = self._ask({"seed": seed})
        return int(reflections), int(retries)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"vLLM ended with code {self._process.wait()}; its errors are above.")


def _vllm_peers(model: str, work: _Work, eager_only: bool) -> dict[str, _VllmPeer]:
    """Start vLLM where an environment for it is named."""
    python = os.environ.get("MULLIGAN_VLLM_PYTHON")
    if not python:
        print("vLLM is left out: give --vllm-python, or set MULLIGAN_VLLM_PYTHON.")
        return {}
    folder = resolve_model(model)
    modes = {"vllm eager": True} if eager_only else {"vllm eager": True, "vllm compiled": False}
    return {name: _VllmPeer(Path(python), folder, work, eager) for name, eager in modes.items()}


def _interleaved(
    peers: dict[str, Callable[[int], Rollout]], repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[Rollout]]]:
    """Run the peers by turns; return kept tokens a second, and how many were kept."""
    rates: dict[str, list[float]] = {name: [] for name in peers}
    kept: dict[str, list[Rollout]] = {name: [] for name in peers}
    peers["mulligan"](0)
    for repeat in range(repeats):
        for name, rollout in peers.items():
            # The seed differs from repeat to repeat; nothing is kept between them.
            taken, tokens = _timed(rollout, 100 + 2 * repeat, device)
            rates[name].append(sum(tokens) / taken)
            kept[name].append(tokens)
            print(f"{name}: {rates[name][-1]:.0f} kept tokens/s", flush=True)
    return rates, kept


def _timed(
    rollout: Callable[[int], Rollout], seed: int, device: torch.device
) -> tuple[float, Rollout]:
    done: list[Rollout] = []
    taken = seconds(lambda: done.append(rollout(seed)), device)
    return taken, done[0]


def _fixed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, repeats: int) -> list[float]:
    """Return tokens a second without stops, prompts included in the time."""
    engine = LocalEngine(model, tokenizer, eos_ids=())
    rng = random.Random(0)
    vocabulary = range(3, model.config.vocab_size)
    rates = []
    for repeat in range(repeats + 1):
        prompts = [tuple(rng.choices(vocabulary, k=FIXED_PROMPT)) for _ in range(FAILURES)]
        sampling = Sampling(TEMPERATURE, FIXED_TOKENS, repeat)
        engine.forget()
        work = partial(engine.generate, prompts, SAMPLES, sampling)
        taken = seconds(work, model.device)
        rates.append(FAILURES * SAMPLES * FIXED_TOKENS / taken)
    return rates[1:]


def _prompts(tokenizer: PreTrainedTokenizerBase) -> tuple[list[TokenIds], TokenIds]:
    """Return the reflection prompts, and the tokens that come between reflection and retry."""
    rng = random.Random(0)
    prompts = []
    for _ in range(FAILURES):
        numbers = ", ".join(str(rng.randrange(2, 100)) for _ in range(rng.randrange(3, 7)))
        question = (
            f"Using the numbers {numbers}, write an equation that equals {rng.randrange(10, 900)}. "
            "You may use +, -, * and / and parentheses, and every number exactly once. "
            "Think about which numbers bring you near the target first, then close the gap. "
            "Put the equation in the last line, after the word Answer."
        )
        tried = " ".join(f"I try {rng.randrange(99)} and {rng.randrange(99)}." for _ in range(3))
        request = (
            "Your answer was not right. Reflect on what went wrong and write a short "
            "explanation that will help you do better the next time."
        )
        conversation = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": tried},
            {"role": "user", "content": request},
        ]
        encoded: Any = tokenizer.apply_chat_template(
            conversation, add_generation_prompt=True, return_dict=True
        )
        prompts.append(tuple(encoded["input_ids"]))
    again = f"<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return prompts, tuple(tokenizer.encode(again, add_special_tokens=False))


def _stops(tokenizer: PreTrainedTokenizerBase, warmed_up: bool) -> frozenset[int]:
    """Return the tokens that end a completion; see the top of this file."""
    own = {int(tokenizer.eos_token_id)}
    if warmed_up:
        return frozenset(own)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    ends = (".", "?", "!", "\n")
    return frozenset(own | {t for t, text in enumerate(texts) if str(text).endswith(ends)})


def _line(values: list[float]) -> str:
    spread = middle(values)
    return f"{spread['median']:.0f} ({spread['low']:.0f} to {spread['high']:.0f})"
