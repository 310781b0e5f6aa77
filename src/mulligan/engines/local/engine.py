"""Generation on this machine: each prompt computed once, each row only as long as it lives.

Saves, against a plain ``generate``: a prompt is computed once for all its samples, and what
different prompts begin with once for all of them; a conversation that goes on computes its new
tokens only, and rows that have ended cost nothing more. Models that cannot take this path are
recognised, said once, and generate plainly.
"""

import logging
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mulligan.engines.base import Abilities
from mulligan.engines.local.attention import stream_attention
from mulligan.engines.local.compatibility import Examination, examine
from mulligan.engines.local.decoding import PlannedPrompt, Wave
from mulligan.engines.local.inference_copy import InferenceCopy
from mulligan.engines.local.plain import Sampled, generate_plainly
from mulligan.engines.local.planning import Plan
from mulligan.engines.local.prefix_cache import PrefixStore, common_length
from mulligan.engines.local.sampling import draw, uniforms
from mulligan.errors import MulliganError
from mulligan.models.architecture import may_be_padded, why_not_shared
from mulligan.models.heap import bound_freed_memory
from mulligan.models.load import context_length
from mulligan.models.template import stop_ids
from mulligan.types import Completion, Sampling, TokenIds

logger = logging.getLogger("mulligan")

_WORTH_SHARING = 256
"""Tokens that have to be saved for a forward pass over the beginning of all prompts to pay."""


class LocalEngine:
    """Generates with a transformers model on this machine.

    Args:
        model: a causal language model; training may go on changing it.
        tokenizer: decodes completions.
        dtype: what to compute in; a copy of the weights is kept where the model's own type (or
            layout, on CPU) differs, and refreshed by ``update_weights``. By default the model's.
        memory_gib: bound for keys and values, in GiB: those in work and those kept for reuse.
        eos_ids: tokens that end a completion; those of the model, of the tokenizer and of its chat
            template by default.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: torch.dtype | None = None,
        memory_gib: float = 4.0,
        eos_ids: Collection[int] | None = None,
    ) -> None:
        self.policy_version = 0
        self._tokenizer = tokenizer
        self._copy = InferenceCopy(model, dtype or model.dtype)
        self._eos_ids = frozenset(stop_ids(model, tokenizer) if eos_ids is None else eos_ids)
        self._memory = int(memory_gib * 2**30)
        self._store = PrefixStore()
        self._examination: Examination | None = None
        self._said: set[str] = set()

    @property
    def abilities(self) -> Abilities:
        """Everything: the policy itself generates, or a copy of it."""
        return Abilities(token_ids=True, logprobs=True, weights=True, exact=True, divisible=True)

    @property
    def context(self) -> int | None:
        """The context of the model's own configuration."""
        return context_length(self.model.config)

    @property
    def model(self) -> PreTrainedModel:
        """The model that generates: the policy itself, or a copy that follows it."""
        return self._copy.model

    def update_weights(self, policy: nn.Module, version: int) -> None:
        """Take over the policy's weights as this version, and reset every cache.

        Raises:
            MulliganError: the policy is of another shape than the engine's model.
        """
        self._copy.update_weights(policy)
        self.policy_version = version
        self.reset_cache()

    def reset_cache(self) -> None:
        """Drop all keys and values."""
        self._store.clear()

    def close(self) -> None:
        """Drop all keys and values; nothing else is held."""
        self.reset_cache()

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling, *, first: int = 0
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in order.

        Where the prompts are a share of a call, ``first`` is the place of the first one in it.

        Log-probabilities are always given, under the distribution drawn from; greedy ones under
        the model's own. No prompts give an empty list, and ``n=0`` an empty list for each prompt.

        Raises:
            MulliganError: a prompt is empty or does not fit the context with ``max_tokens``.
        """
        _check(self.context, prompts, n, sampling)
        if not prompts or n == 0:
            return [[] for _ in prompts]
        was_training = self.model.training
        self.model.train(False)
        try:
            found = self._generate(prompts, n, sampling, first)
        finally:
            self.model.train(was_training)
        bound_freed_memory()
        return [[found[first + i, j] for j in range(n)] for i in range(len(prompts))]

    def _generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling, first: int
    ) -> dict[tuple[int, int], Completion]:
        if self._examination is None:
            self._examination = examine(self.model)
        longest = max(map(len, prompts)) + sampling.max_tokens
        reason = self._examination.reason or why_not_shared(self.model, longest)
        if reason:
            return self._generate_plainly(prompts, n, sampling, first, reason)
        token_bytes = self._examination.token_bytes
        plan = Plan(prompts, n, sampling, self._store, self._memory, token_bytes, first)
        found: dict[tuple[int, int], Completion] = {}
        with stream_attention(self.model):
            self._know_beginning(prompts, sampling)
            while planned := plan.next_wave():
                self._say_once("first use", logging.INFO, self._summary(plan.summary(planned)))
                wave = Wave(self.model, planned, sampling, self._eos_ids)
                for row in wave.run():
                    found[row.index] = self._completion(row.tokens, row.logprobs)
                for sequence in wave.sequences():
                    self._store.add(sequence)
        return found

    def _know_beginning(self, prompts: Sequence[TokenIds], sampling: Sampling) -> None:
        """Compute once what different prompts begin with, such as a system message."""
        distinct = {tuple(prompt) for prompt in prompts}
        # In sorted order the first and the last differ at least as early as any two others.
        first, last = min(distinct), max(distinct)
        beginning = first[: common_length(first, last)]
        if len(beginning) * (len(distinct) - 1) < _WORTH_SHARING:
            return
        match = self._store.longest(beginning)
        if match is None or match.length < len(beginning):
            row = PlannedPrompt((*beginning, 0), rows=((0, 0),))
            for sequence in Wave(self.model, [row], sampling, self._eos_ids).sequences():
                self._store.add(sequence)

    def _generate_plainly(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling, first: int, reason: str
    ) -> dict[tuple[int, int], Completion]:
        assert self._examination is not None
        token_bytes = self._examination.token_bytes
        longest = max(map(len, prompts)) + sampling.max_tokens
        name = type(self.model).__name__
        self._say_once(
            f"plain: {reason}",
            logging.WARNING,
            f"{name} generates plainly, each row computing its whole prompt: {reason}.",
        )
        indices = [(first + i, j) for i in range(len(prompts)) for j in range(n)]
        numbers = uniforms(sampling.seed, indices, sampling.max_tokens)

        def draw_for(logits: Tensor, rows: Sequence[int], step: int) -> Sampled:
            drawn = torch.as_tensor(numbers[list(rows), step], device=logits.device)
            tokens, logprobs = draw(logits, sampling.temperature, drawn)
            return tokens.tolist(), logprobs.tolist()

        sampled = generate_plainly(
            self.model,
            [prompts[i - first] for i, _ in indices],
            sampling.max_tokens,
            self._eos_ids,
            lambda length: max(1, self._memory // (length * token_bytes)),
            draw_for,
            pad=self._examination.pads and may_be_padded(self.model, longest),
        )
        return {
            index: self._completion(tokens, logprobs)
            for index, (tokens, logprobs) in zip(indices, sampled, strict=True)
        }

    def _completion(self, tokens: list[int], logprobs: list[float]) -> Completion:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        assert isinstance(text, str)
        stopped = tokens[-1] in self._eos_ids
        return Completion(
            tuple(tokens), text, "stop" if stopped else "length", logprobs=tuple(logprobs)
        )

    def _summary(self, first_wave: str) -> str:
        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"Generating in {dtype} on {self.model.device}, {self._copy.kind}: {first_wave}."

    def _say_once(self, what: str, level: int, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.log(level, message)


def _check(context: int | None, prompts: Sequence[TokenIds], n: int, sampling: Sampling) -> None:
    """Refuse what cannot be generated."""
    if n < 0 or sampling.max_tokens < 1 or sampling.temperature < 0:
        raise MulliganError(
            f"Cannot draw n={n} samples of max_tokens={sampling.max_tokens} at temperature "
            f"{sampling.temperature}: n and the temperature must not be negative, and "
            "max_tokens must be at least 1."
        )
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise MulliganError(
                f"Prompt {i} is empty: a model needs at least one token to continue. "
                "Check the chat template, or begin with the tokenizer's start token."
            )
        if context is not None and len(prompt) + sampling.max_tokens > context:
            raise MulliganError(
                f"Prompt {i} has {len(prompt)} tokens, which with max_tokens="
                f"{sampling.max_tokens} is more than the model's context of {context}. "
                "Shorten the prompt, lower max_tokens, or use a model with a longer context."
            )
