"""The two forms in which servers take prompts and give completions, in OpenAI's protocol.

Token ids travel where a server takes and returns them, as vLLM's does (``return_token_ids``, 0.10.2
and later). Elsewhere a conversation goes as messages and comes back as text, which is enough to
evaluate with and not to train on: text that is encoded again is not always what was sampled.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, NonNegativeInt

from mulligan.engines.http import PassingTrouble
from mulligan.errors import MulliganError
from mulligan.types import ChatPrompt, Completion, FinishReason, Sampling, TokenIds

OUR_OWN_SAMPLING = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Without these vLLM takes what the model's ``generation_config.json`` says."""


class _TokenLogprobs(BaseModel):
    token_logprobs: list[float | None]


class _TokenChoice(BaseModel):
    text: str
    finish_reason: FinishReason
    token_ids: list[NonNegativeInt] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _TokenLogprobs | None = None


class TokenReply(BaseModel):
    """A reply of ``/completions``."""

    choices: list[_TokenChoice]


class _Function(BaseModel):
    name: str
    arguments: str


class _ToolCall(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _ContentLogprob(BaseModel):
    logprob: float


class _ContentLogprobs(BaseModel):
    content: list[_ContentLogprob] | None = None


class _ChatChoice(BaseModel):
    message: _Message
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: _ContentLogprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt = Field(default=0)


class ChatReply(BaseModel):
    """A reply of ``/chat/completions``."""

    choices: list[_ChatChoice]
    usage: _Usage | None = None


class Form(ABC):
    """How a prompt is asked and a completion read."""

    path: ClassVar[str]
    reply: ClassVar[type[BaseModel]]
    token_ids: ClassVar[bool]
    """Whether prompts and completions are token ids."""

    more_logprobs: ClassVar[dict[str, Any]]
    """Asks for the log-probs of the likeliest tokens too."""

    def __init__(self, *, logprobs: bool) -> None:
        self.logprobs = logprobs
        """Whether log-probs are asked for."""

    @staticmethod
    @abstractmethod
    def likeliest(reply: Any) -> float | None:
        """Return the highest log-prob at a plain reply's first token; None without any."""

    @abstractmethod
    def body(self, prompt: TokenIds, n: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        """Return what is sent, without the model's name."""

    @abstractmethod
    def completions(self, reply: Any, prompt: TokenIds, sampling: Sampling) -> list[Completion]:
        """Read a reply.

        Raises:
            PassingTrouble: it is not what was asked for, and another try may be.
            MulliganError: the server does not keep to this form.
        """


class TokenForm(Form):
    """Token ids in and out."""

    path = "/completions"
    reply = TokenReply
    token_ids = True
    more_logprobs: ClassVar = {"logprobs": 5}

    def __init__(self, *, logprobs: bool, stops: Collection[int] = ()) -> None:
        super().__init__(logprobs=logprobs)
        self.stops = sorted(stops)
        """Tokens that end a completion, besides those that the server knows of."""

    @staticmethod
    def likeliest(reply: Any) -> float | None:
        """Return the highest of ``top_logprobs``, a mapping for each token."""
        try:
            return max(map(float, reply["choices"][0]["logprobs"]["top_logprobs"][0].values()))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None

    def body(self, prompt: TokenIds, n: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        """Return a request for n completions of a prompt's ids."""
        return {
            "prompt": list(prompt),
            "n": n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "seed": seed,
            "return_token_ids": True,
            **OUR_OWN_SAMPLING,
            **({"stop_token_ids": self.stops} if self.stops else {}),
            **({"logprobs": 0} if self.logprobs else {}),
        }

    def completions(
        self, reply: TokenReply, prompt: TokenIds, sampling: Sampling
    ) -> list[Completion]:
        """Read the ids that were sampled, and their log-probs."""
        return [self._completion(choice, prompt, sampling) for choice in reply.choices]

    def _completion(self, choice: _TokenChoice, prompt: TokenIds, sampling: Sampling) -> Completion:
        if choice.token_ids is None:
            raise MulliganError(
                "The server gives no token ids, so what it sampled cannot be scored exactly. Use a "
                "server with vLLM's return_token_ids, such as vLLM 0.10.2 or later."
            )
        if choice.prompt_token_ids is not None and tuple(choice.prompt_token_ids) != prompt:
            raise MulliganError(
                f"The server read different token ids from the {len(prompt)} it was sent. "
                "Make sure that it serves the same model and adds no tokens of its own."
            )
        ids = tuple(choice.token_ids)
        if len(ids) > sampling.max_tokens:
            raise PassingTrouble(f"{len(ids)} tokens, but {sampling.max_tokens} allowed")
        logprobs = None
        if self.logprobs and choice.logprobs is not None:
            logprobs = tuple(each for each in choice.logprobs.token_logprobs if each is not None)
            if len(logprobs) != len(ids):
                raise PassingTrouble(f"{len(logprobs)} log-probs for {len(ids)} tokens")
        return Completion(ids, choice.text, choice.finish_reason, logprobs)


class ChatForm(Form):
    """Messages in, text out; one completion in each request, so that its tokens are counted."""

    path = "/chat/completions"
    reply = ChatReply
    token_ids = False
    more_logprobs: ClassVar = {"top_logprobs": 5}

    @staticmethod
    def likeliest(reply: Any) -> float | None:
        """Return the highest of the first token's ``top_logprobs``."""
        try:
            top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            return max(float(each["logprob"]) for each in top)
        except (KeyError, IndexError, TypeError, ValueError):
            return None

    def __init__(self, *, logprobs: bool, extras: bool = True) -> None:
        super().__init__(logprobs=logprobs)
        self.extras = extras
        """Whether vLLM's own settings are sent, which other servers may refuse."""

    def body(self, prompt: TokenIds, n: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        """Return a request for one completion of a conversation."""
        if not isinstance(prompt, ChatPrompt):
            raise MulliganError(
                "This server takes messages but was given token ids. It returns none, so it "
                "can only be used for evaluation; for anything else use a server such as "
                "vLLM."
            )
        return {
            "messages": [dict(message) for message in prompt.messages],
            **({"tools": [_as_tool(tool) for tool in prompt.tools]} if prompt.tools else {}),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "seed": seed,
            **(OUR_OWN_SAMPLING if self.extras else {}),
            **({"logprobs": True} if self.logprobs else {}),
        }

    def completions(
        self, reply: ChatReply, prompt: TokenIds, sampling: Sampling
    ) -> list[Completion]:
        """Read the text, the thoughts where the server tells them apart, and the length."""
        del prompt
        return [
            self._completion(choice, reply.usage, sampling, len(reply.choices))
            for choice in reply.choices[:1]
        ]

    def _completion(
        self, choice: _ChatChoice, usage: _Usage | None, sampling: Sampling, choices: int
    ) -> Completion:
        message = choice.message
        logprobs = None
        if self.logprobs and choice.logprobs is not None and choice.logprobs.content is not None:
            logprobs = tuple(each.logprob for each in choice.logprobs.content)
        counted = usage.completion_tokens if usage and choices == 1 else None
        if counted is None and logprobs is not None:
            counted = len(logprobs)
        counted = counted or 0
        if counted > sampling.max_tokens:
            raise PassingTrouble(f"{counted} tokens, but {sampling.max_tokens} allowed")
        thoughts = message.reasoning_content or message.reasoning
        calls = [call.function for call in message.tool_calls or ()]
        written = (written_call(call.name, call.arguments) for call in calls)
        text = "\n".join([*filter(None, [message.content]), *written])
        return Completion(
            token_ids=(),
            text=text,
            finish_reason="length" if choice.finish_reason == "length" else "stop",
            logprobs=logprobs,
            thoughts=thoughts,
            unfinished_thought=bool(thoughts and not text),
            counted_tokens=counted,
            counted_prompt=usage.prompt_tokens if usage else None,
        )


def written_call(name: str, arguments: str) -> str:
    """Write a call that a server has read as models write it and tasks read it."""
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        read = arguments
    written = json.dumps({"name": name, "arguments": read}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


def _as_tool(tool: Any) -> dict[str, Any]:
    """Return a tool's description as OpenAI's protocol wraps it."""
    return dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
