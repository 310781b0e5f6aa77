"""The work that the rollout and the step benchmark do: reflections on failures, then retries.

8 failures of Countdown x 8 reflections, at most 48 tokens, then one retry each, at most 24, at
temperature 0.9. Prompts come from the project's own conversations: the rules stand in the system
message, the question is asked again for the retry. Reflection prompts have 150 to 250 tokens.

Where completions end: with a warmed-up model (``--model FOLDER``, for instance the demo's) at its
own stop token. The model as it is shipped hardly ever stops within the cap, so without ``--model``
a completion ends with its first sentence, at any token whose text ends in a full stop, question or
exclamation mark, or a line break. Or nowhere, where long completions are wanted. Every peer gets
the same stop tokens. Peers draw with random numbers of their own, so their completions differ, but
not in how their lengths are distributed; lengths are reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from zlib import crc32

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.groups import TEMPERATURE
from mulligan.engines.local.prefix_cache import common_length
from mulligan.episodes.conversation import Conversations
from mulligan.models.load import DEFAULT_MODEL
from mulligan.tasks.countdown.task import Countdown
from mulligan.types import Attempt, Completion, Failure, Problem, Sampling, TokenIds, Verdict

SUCCESS = 0.15
"""How many of the retries pass."""
SYSTEM = (
    "Reach the target with + - *, using each number once. Answer with one equation. "
    "No number may be left out and none may be used again. Parentheses are allowed. "
    "Multiplication comes before addition and subtraction. For example, to make 22 from 2, 18 and "
    "6, answer 18 + 6 - 2 = 22, and to make 40 from 4, 5 and 2, answer 5 * 4 * 2 = 40. "
    "Write nothing else than the equation."
)
REFLECT = "That is wrong. Reflect on what went wrong."

Generate = Callable[[Sequence[TokenIds], int, int, int], list[list[TokenIds]]]
"""Prompts, samples of each, most tokens, seed: to token ids, those that ended a row included."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is of it: the method's own rollout, as the demo makes it."""

    failures: int = 8
    samples: int = 8
    reflection: int = 48
    retry: int = 24
    stops: bool = True
    """Whether completions end before the cap."""


class Workload:
    """Failures, the prompts that follow from them, and verdicts."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: str, sizes: Sizes | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self.sizes = sizes or Sizes()
        self.conversations = Conversations(tokenizer, REFLECT)
        self.stops = _stops(tokenizer, model) if self.sizes.stops else frozenset[int]()
        task = Countdown(system=SYSTEM, question="Make {target} from {numbers}.")
        problems = islice(task.problems("train"), self.sizes.failures)
        self.failures = [self._failed(each) for each in problems]
        self.prompts = [
            self.conversations.reflection(f.attempt.problem, f.attempt.completion)
            for f in self.failures
        ]

    def retry_prompts(self, reflections: Sequence[Sequence[TokenIds]]) -> list[TokenIds]:
        """Return the prompt of the retry after each reflection, groups one after another."""
        return [
            self.conversations.retry(
                failure.attempt.problem, failure.attempt.completion, self.completion(ids)
            )
            for failure, group in zip(self.failures, reflections, strict=True)
            for ids in group
        ]

    def rollout(self, generate: Generate, seed: int) -> "Rollout":
        """Reflect and retry."""
        groups = generate(self.prompts, self.sizes.samples, self.sizes.reflection, seed)
        prompts = self.retry_prompts(groups)
        retries = generate(prompts, 1, self.sizes.retry, seed + 1)
        reflected, retried = (
            sum(len(ids) for group in some for ids in group) for some in (groups, retries)
        )
        said = [(*prompt, *ids) for prompt, [ids] in zip(prompts, retries, strict=True)]
        return Rollout(reflected, retried, distinct_tokens(said))

    def by_transformers(
        self, model: PreTrainedModel, prompts: Sequence[TokenIds], n: int, limit: int, seed: int
    ) -> list[list[TokenIds]]:
        """Sample as TRL does: ``generate``, each prompt repeated for its samples, left-padded."""
        torch.manual_seed(seed)
        repeated = [prompt for prompt in prompts for _ in range(n)]
        width = max(map(len, repeated))
        ids = torch.tensor([(0,) * (width - len(p)) + p for p in repeated], device=model.device)
        lengths = torch.tensor([len(p) for p in repeated], device=model.device)
        mask = torch.arange(width, device=model.device) >= width - lengths[:, None]
        output = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=mask.long(),
            max_new_tokens=limit,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            eos_token_id=sorted(self.stops) or None,
            min_new_tokens=None if self.stops else limit,
            pad_token_id=0,
        )
        rows = [self._kept(row[width:]) for row in output.tolist()]
        return [rows[at : at + n] for at in range(0, len(rows), n)]

    def completion(self, ids: TokenIds) -> Completion:
        """Return tokens as what an engine would give."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(ids, str(text), "stop" if ids[-1] in self.stops else "length")

    def verify(self, answers: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Let about ``SUCCESS`` of all answers pass, whatever they say: the cost is the same."""
        draws = [crc32(repr((problem.id, text)).encode()) / 2**32 for problem, text in answers]
        return [Verdict.right() if draw < SUCCESS else Verdict.wrong() for draw in draws]

    def _failed(self, problem: Problem) -> Failure:
        text = f"{' + '.join(map(str, problem.given['numbers']))} = {problem.given['target']}"
        ids = (*self._tokenizer.encode(text, add_special_tokens=False), self._eos)
        prompt = self.conversations.attempt(problem)
        attempt = Attempt(problem, prompt, Completion(ids, text, "stop"), Verdict.wrong())
        return Failure(problem.id, attempt, self._model, Sampling(TEMPERATURE, self.sizes.retry, 0))

    @property
    def _eos(self) -> int:
        return int(self._tokenizer.eos_token_id)

    def _kept(self, tokens: Sequence[int]) -> TokenIds:
        """Return the tokens up to and including the first that stops."""
        end = next((at for at, token in enumerate(tokens) if token in self.stops), len(tokens))
        return tuple(tokens[: end + 1])


@dataclass(frozen=True, slots=True)
class Rollout:
    """What came of a rollout."""

    reflected: int
    """Tokens kept of the reflections: those up to and including the one that ended a completion."""
    retried: int
    """Tokens kept of the retries."""
    distinct: int
    """Tokens of all conversations, what they begin with alike counted once."""

    @property
    def kept(self) -> int:
        """Return all tokens that were kept."""
        return self.reflected + self.retried

    @property
    def prompts(self) -> int:
        """Return the tokens that were not generated and have to be computed once."""
        return max(self.distinct - self.kept, 0)


def _stops(tokenizer: PreTrainedTokenizerBase, model: str) -> frozenset[int]:
    """Return the tokens that end a completion; see the top of this file."""
    own = {int(tokenizer.eos_token_id)}
    if model != DEFAULT_MODEL:
        return frozenset(own)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    ends = (".", "?", "!", "\n")
    return frozenset(own | {t for t, text in enumerate(texts) if str(text).endswith(ends)})


def distinct_tokens(sequences: Sequence[TokenIds]) -> int:
    """Return how many tokens have to be computed for some sequences, where beginnings are shared.

    In sorted order, what a sequence shares with any before it, it shares with its neighbour.
    """
    ordered = sorted(sequences)
    shared = sum(common_length(a, b) for a, b in pairwise(ordered))
    return sum(map(len, ordered)) - shared
