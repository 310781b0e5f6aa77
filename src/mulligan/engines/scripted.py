"""An engine without a model, for tests of everything that calls one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mulligan.engines.base import Abilities
from mulligan.errors import MulliganError
from mulligan.types import Completion, Sampling, TokenIds

Script = Callable[[TokenIds, int, int], str]
"""(prompt ids, i, j) to the text of sample j for prompt i."""


class Tokenizer(Protocol):
    """What a scripted engine needs of a tokenizer."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Return the text's token ids."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``generate``, as it was made."""

    prompts: tuple[TokenIds, ...]
    n: int
    sampling: Sampling


@dataclass(slots=True)
class ScriptedEngine:
    """Answers by a script: a function of (prompt ids, i, j), or texts that are used up in order.

    Completions end with the tokenizer's stop token, or are cut at ``max_tokens`` as a model's are.
    """

    script: Script | Sequence[str]
    tokenizer: Tokenizer
    policy_version: int = 0
    calls: list[Call] = field(default_factory=list)
    """Every call so far."""
    updates: list[int] = field(default_factory=list)
    """Every version that was announced, in order."""
    _used: int = 0

    @property
    def abilities(self) -> Abilities:
        """What a model on this machine can do, or seems to: a script has no weights."""
        return Abilities(token_ids=True, logprobs=True, weights=True, exact=True)

    @property
    def context(self) -> int | None:
        """No limit: nothing attends to a prompt."""
        return None

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return what the script says for each prompt and sample.

        Raises:
            MulliganError: a list of texts is used up.
        """
        self.calls.append(Call(tuple(prompts), n, sampling))
        return [
            [self._completion(self._text(prompt, i, j), sampling) for j in range(n)]
            for i, prompt in enumerate(prompts)
        ]

    def update_weights(self, policy: object, version: int) -> None:
        """Note a new policy version; a script has no weights."""
        self.policy_version = version
        self.updates.append(version)

    def reset_cache(self) -> None:
        """Do nothing: a script keeps no cache."""

    def close(self) -> None:
        """Do nothing: a script holds nothing."""

    def _text(self, prompt: TokenIds, i: int, j: int) -> str:
        if callable(self.script):
            return self.script(prompt, i, j)
        if self._used >= len(self.script):
            raise MulliganError(
                f"The script has {len(self.script)} texts and another was asked for. "
                "Add texts, or script the engine with a function."
            )
        self._used += 1
        return self.script[self._used - 1]

    def _completion(self, text: str, sampling: Sampling) -> Completion:
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        stopped = len(ids) <= sampling.max_tokens
        ids = ids[: sampling.max_tokens]
        logprobs = tuple(-1.0 for _ in ids)
        return Completion(tuple(ids), text, "stop" if stopped else "length", logprobs)
