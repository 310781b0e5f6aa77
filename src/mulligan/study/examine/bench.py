"""What a question may use of a run: one of its models, how it is asked, and who judges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mulligan.config import Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import Verify, attempt, generate, judge_completions
from mulligan.evaluation.evaluate import Leaks
from mulligan.randomness import derive_seed
from mulligan.types import Attempt, Completion, Problem, Sampling, TokenIds, Verdict

Tried = tuple[Completion, Verdict]


@dataclass(frozen=True)
class Bench:
    """A model of a run on the problems of its evaluation."""

    question: str
    """What is examined; its draws have seeds of their own."""
    when: str
    """``before`` or ``after`` training."""
    recipe: Recipe
    engine: Engine
    conversations: Conversations
    verify: Verify
    leaks: Leaks
    likelihood: Callable[[TokenIds, Sequence[TokenIds]], list[float]] | None = None
    """Log-probabilities under the original model, for the questions that need it."""

    def first_tries(self, problems: Sequence[Problem], n: int, chunk: int) -> list[Attempt]:
        """Try each problem n times; the tries at a problem stand together."""
        sampling = self._sampling("first_try", chunk, self.recipe.generate.answer_tokens)
        return attempt(self.engine, self.conversations, self.verify, problems, n, sampling)

    def reflections(
        self, prompts: Sequence[TokenIds], n: int, purpose: str, chunk: int
    ) -> list[list[Completion]]:
        """Return n reflections for each prompt."""
        tokens = self.recipe.generate.reflection_tokens
        sampling = self._sampling(purpose, chunk, tokens)
        return generate(self.engine, self.conversations, prompts, n, sampling)

    def answers(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[TokenIds],
        n: int,
        purpose: str,
        chunk: int,
    ) -> list[list[Tried]]:
        """Return n judged answers for each prompt, which belongs to the problem at its place."""
        tokens = self.recipe.generate.answer_tokens
        sampling = self._sampling(purpose, chunk, tokens)
        rows = generate(self.engine, self.conversations, prompts, n, sampling)
        pairs = [(p, each) for p, row in zip(problems, rows, strict=True) for each in row]
        verdicts = iter(judge_completions(self.verify, pairs))
        return [[(each, next(verdicts)) for each in row] for row in rows]

    def _sampling(self, purpose: str, chunk: int, tokens: int) -> Sampling:
        seed = derive_seed(
            self.recipe.seed_of("evaluate"), "examine", self.question, purpose, chunk
        )
        return Sampling(self.recipe.generate.temperature, tokens, seed)
