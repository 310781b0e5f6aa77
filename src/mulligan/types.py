"""The words of the project, in the order in which data flows.

All records are frozen: nothing is overwritten on its way, and a reward is never turned into an
advantage in place. Tensors elsewhere carry their shape in their name: ``G`` episodes of a group,
``P`` prompt tokens, ``T`` tokens, ``B`` rows of a batch, ``R`` tokens of a completion, ``D``
hidden size, ``V`` vocabulary.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

TokenIds = tuple[int, ...]
"""Token ids as they were sampled or encoded; never decoded and encoded again."""

Message = Mapping[str, Any]
"""A chat message as transformers' chat templates take it: ``role`` and ``content``."""


class ChatPrompt(tuple[int, ...]):
    """A conversation as messages, for a server that applies a chat template of its own.

    It stands where token ids stand, and has none: only an engine that takes messages can use it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]

    def __new__(cls, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Self:
        """Keep messages, and the descriptions of tools."""
        prompt = super().__new__(cls)
        prompt.messages, prompt.tools = tuple(messages), tuple(tools)
        return prompt

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChatPrompt):
            return False
        return (self.messages, self.tools) == (other.messages, other.tools)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(repr((self.messages, self.tools)))


Status = Literal["passed", "failed", "unparseable", "error"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One instance of a task."""

    id: str
    """Hash of the content: equal problems have equal ids, on every machine."""
    messages: tuple[Message, ...]
    """What the model is asked, as chat messages."""
    given: Mapping[str, Any]
    """What the verifier needs, as plain JSON values."""
    reference: str | None = None
    """An answer that passes, where one is known."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tool descriptions (JSON schema) for the chat template, for function calling."""
    task: str = ""
    """Which part of a mix of tasks it comes from; empty where a run has one task."""

    @classmethod
    def create(
        cls,
        messages: Sequence[Message] | str,
        given: Mapping[str, Any],
        reference: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Self:
        """Make a problem and its id; a plain string becomes one user message."""
        if isinstance(messages, str):
            messages = ({"role": "user", "content": messages},)
        content = {"messages": list(messages), "given": given, "tools": list(tools)}
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return cls(digest, tuple(messages), given, reference, tuple(tools))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float
    """0 is greedy; the method uses 0.9, because at 0 a retry repeats itself."""
    max_tokens: int
    """The longest completion, in tokens, its stop token included."""
    seed: int = 0
    """Row ``j`` of prompt ``i`` draws from a stream of its own, made of (seed, i, j)."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returns for one sample."""

    token_ids: TokenIds
    """Everything sampled, the stop token included where there is one."""
    text: str
    """The answer decoded, without special tokens and without the thoughts before it: for verifiers
    and people, never for training. An engine returns everything decoded; whoever knows the model's
    conversations cuts the thoughts off."""
    finish_reason: FinishReason
    """``stop``: the model ended its turn; ``length``: the limit cut it off."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each token under the sampling distribution (temperature included)."""
    thoughts: str | None = None
    """What a reasoning model thought before it answered, for people."""
    unfinished_thought: bool = False
    """Whether the thoughts never ended, so that there is no answer."""
    counted_tokens: int | None = None
    """How many tokens a server says it sampled, where it does not say which; 0 where it says
    neither."""
    counted_prompt: int | None = None
    """How many tokens a server says the prompt had, where it was asked by messages."""

    @property
    def asked(self) -> bool:
        """Whether a model was asked at all; a prompt that fits no context is not put to one."""
        return bool(self.token_ids) or self.counted_tokens is not None

    @property
    def length(self) -> int:
        """How many tokens were sampled."""
        return len(self.token_ids) if self.counted_tokens is None else self.counted_tokens


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of an answer."""

    status: Status
    """An answer that cannot be read is not wrong, and a verifier that broke has said nothing."""
    reason: str
    """One of the task's own short list; ``passed`` when it passed."""
    detail: str = ""
    """Free text for people, such as the error of a verifier; the model sees it only where the
    recipe's reflection request asks for it."""

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.status == "passed"

    @classmethod
    def right(cls) -> Self:
        """The answer passes."""
        return cls("passed", "passed")

    @classmethod
    def wrong(cls, reason: str = "wrong", detail: str = "") -> Self:
        """The answer was understood and is wrong."""
        return cls("failed", reason, detail)

    @classmethod
    def unparseable(cls, reason: str = "no_answer", detail: str = "") -> Self:
        """No answer could be read."""
        return cls("unparseable", reason, detail)

    @classmethod
    def error(cls, detail: str, reason: str = "verifier_error") -> Self:
        """The verifier itself broke; the answer stays unjudged."""
        return cls("error", reason, detail)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A problem, the completion that answers it, the verdict."""

    problem: Problem
    prompt_ids: TokenIds
    """The tokens the model was asked with."""
    completion: Completion
    verdict: Verdict
    sample: int = 0
    """Which of several attempts at the problem this is."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A stored attempt that did not pass, with the model and settings it came from."""

    id: str
    """Hash of problem, sample and provenance: the same attempt is stored once."""
    attempt: Attempt
    model: str
    """Name of the model that failed."""
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Episode:
    """Failure, reflection and retry."""

    failure_id: str
    sample: int
    """Which of the group's G episodes this is."""
    reflection: Completion | None
    """``None`` where the problem is tried afresh, without the failure and a reflection on it."""
    retry: Completion | None
    """``None`` where none is sampled, because the reward needs none."""
    verdict: Verdict | None
    """The verifier's word on the retry, where there is one."""


@dataclass(frozen=True, slots=True)
class SeenEpisode:
    """What a reward function of the user's own sees of an episode."""

    problem: Problem
    attempt: str
    """The answer that failed; empty where the problem is tried afresh."""
    reflection: str
    """Empty where the problem is tried afresh."""
    retry: str
    """The second answer, or the fresh one."""
    verdict: Verdict | None
    """The verifier's word on it."""


@dataclass(frozen=True, slots=True)
class Group:
    """G episodes of one failure; they stay together from rollout to loss."""

    failure: Failure
    prompt_ids: TokenIds
    """The prompt that all G episodes share: the conversation up to the reflection request, or that
    of their answers where there are no reflections."""
    episodes: tuple[Episode, ...]
    """Those that could be judged: an episode whose verifier broke is left out."""
    retry_prompts_G: tuple[TokenIds, ...] = ()
    """The prompt of each episode's retry after its reflection; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Span:
    """What a loss sees of an episode; spans that share a prompt stay together."""

    prompt_ids: TokenIds
    token_ids: TokenIds
    """What follows the prompt: a reflection, or more of the conversation."""
    learns: tuple[bool, ...]
    """Which of the tokens get a gradient: some that the policy sampled, never any other."""
    advantage: float
    """What the loss made of the reward: positive where the tokens should become likelier."""
    logprobs: tuple[float, ...] | None
    """Each token's log-probability when it was sampled, 0 where it does not learn; ``None`` where
    the engine gave none."""


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with what an objective made of it."""

    group: Group
    rewards_G: tuple[float, ...]
    advantages_G: tuple[float, ...]
    spans: tuple[Span, ...]
    teaches: bool
    """Whether its rewards tell the loss anything: usually, whether they differ."""

    def __post_init__(self) -> None:
        """Check that there is a reward and an advantage for each episode."""
        sizes = {len(self.group.episodes), len(self.rewards_G), len(self.advantages_G)}
        if len(sizes) > 1:
            raise ValueError(
                "a group needs one reward and one advantage for each of its "
                f"{len(self.group.episodes)} episodes; got {self.rewards_G} and {self.advantages_G}"
            )


@dataclass(frozen=True, slots=True)
class Written:
    """What is kept of a completion once it has been trained on: what people read."""

    text: str
    tokens: int
    """Its length in tokens."""
    finish_reason: FinishReason
    thoughts: str | None = None

    @classmethod
    def of(cls, completion: Completion) -> Self:
        """Leave out token ids and log-probabilities, which nothing reads again."""
        tokens = len(completion.token_ids)
        return cls(completion.text, tokens, completion.finish_reason, completion.thoughts)


@dataclass(frozen=True, slots=True)
class TrainedEpisode:
    """A line of ``episodes.jsonl``."""

    step: int
    failure_id: str
    sample: int
    reward: float
    advantage: float
    reflection: Written | None
    retry: Written | None
    verdict: Verdict | None

    @classmethod
    def of(cls, step: int, episode: Episode, reward: float, advantage: float) -> Self:
        """Keep what is read again of an episode that was trained on."""
        return cls(
            step=step,
            failure_id=episode.failure_id,
            sample=episode.sample,
            reward=reward,
            advantage=advantage,
            reflection=Written.of(episode.reflection) if episode.reflection else None,
            retry=Written.of(episode.retry) if episode.retry else None,
            verdict=episode.verdict,
        )

    @property
    def id(self) -> str:
        """Unique within a run."""
        return f"{self.step}-{self.failure_id}-{self.sample}"


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """A line of ``metrics.jsonl``; nothing in it depends on the clock."""

    step: int
    reward: float
    """Mean reward of the step's episodes; of the method, the share of retries that passed."""
    reflection_tokens: float
    """Mean length of a reflection."""
    truncated: float
    """Share of reflections that the token limit cut off."""
    live_groups: int
    """Groups that teach: usually, those with different rewards."""
    dead_groups: int
    unjudged: int
    """Episodes left out because the verifier broke."""
    loss: float | None
    """None where it was not finite."""
    kl: float
    """Mean KL estimate from the reference, in nats per token; 0 without a reference."""
    gradient_norm: float | None
    """Before clipping."""
    learning_rate: float
    logprob_mismatch: float | None
    """Mean absolute difference between the engine's and the trainer's log-probs of a token; None
    where the engine gave none to compare with."""
    skipped: bool
    """Whether the update was left out because loss or gradient was not finite."""
    passed: float | None = None
    """Share of the step's retries or first tries that passed, whatever the reward; None where none
    was judged."""
    clipped: float = 0.0
    """Share of tokens whose ratio to the policy that sampled was clipped."""
    capped: float = 0.0
    """Share of tokens whose importance weight was cut to its cap."""
    refills: int = 0
    """How often other failures were drawn in place of groups that teach nothing."""
    distinct: float | None = None
    """Different texts over all reflections of the step; None where there are none."""


@dataclass(frozen=True, slots=True)
class StepTiming:
    """A line of ``timings.jsonl``, in seconds."""

    step: int
    rollout: float
    update: float


@dataclass(frozen=True, slots=True)
class SftStep:
    """A line of ``warmup.jsonl``."""

    step: int
    loss: float
    """Mean negative log-likelihood of a trained token, in nats."""
    gradient_norm: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ConsolidationStep:
    """A line of ``consolidation.jsonl``."""

    step: int
    loss: float
    """Weighted mean over its tokens, in nats: the negative log-likelihood of an answer that passed,
    or the divergence from the distribution after the reflection."""
    gradient_norm: float
    trained: int
    """Tokens that were trained on."""
    sampled: int
    """Tokens that were generated for it."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation to fine-tune on: an answer, or a failure put right after a reflection."""

    problem: Problem
    attempt: str
    """The first answer; a wrong one where a reflection follows."""
    reflection: str | None = None
    retry: str | None = None
    """The second answer; present exactly where a reflection is."""
    tags: tuple[str, ...] = field(default=())
    """What kind of conversation this is, for people who look at the data."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A judged completion in an evaluation."""

    text: str
    verdict: Verdict
    tokens: int
    """Length of the completion in tokens."""
    finish_reason: FinishReason
    thoughts: str | None = None
    """What the model thought before it answered."""
    logprob: float | None = None
    """Mean log-probability of its tokens under the sampling distribution, in nats, to four digits
    after the point; None where the engine gives none."""
    reflection: str | None = None
    """What stood between the failed answer and this one, where a control has a text of its own."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated sample of one problem: the first try and, where it failed, every second try.

    There are no second tries where the first try passed: nothing was left to correct.
    """

    problem_id: str
    sample: int
    when: str
    """``before`` or ``after`` training, or the name of another model that was evaluated too."""
    question: str
    """The problem as a person reads it."""
    first_try: Answer
    task: str = ""
    """Which part of a mix of tasks the problem comes from; empty where a run has one task."""
    greedy: Answer | None = None
    """A first try at temperature 0; asked for once per problem, with sample 0."""
    reflection: str | None = None
    reflection_tokens: int = 0
    reflection_logprob: float | None = None
    """Mean log-probability of the reflection's tokens, as in ``Answer.logprob``."""
    leaked: bool | None = None
    """Whether the reflection contains a passing answer."""
    after_reflection: Answer | None = None
    second_tries: Mapping[str, Answer] = field(default_factory=dict)
    """The controls' answers by the control's name; a control that was not asked for is absent."""

    @property
    def id(self) -> str:
        """Unique within a run."""
        return f"{self.when}-{self.problem_id}-{self.sample}"
