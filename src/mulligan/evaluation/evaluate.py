"""First try, second try after reflection, and the controls that tell reflection from luck.

Every sample of every problem becomes one `Trial`, a line of ``evaluation/<when>.jsonl``; the table
is computed from those lines. A problem solved at the first try has no second tries: nothing was
left to correct.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mulligan.config import Evaluate, Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations, question
from mulligan.episodes.rollout import Verify, answer, attempt, generate
from mulligan.evaluation.controls import Control, Failed, Judged, controls_of
from mulligan.randomness import derive_seed
from mulligan.storage.records import RecordLog
from mulligan.types import Answer, Attempt, Completion, Problem, Sampling, TokenIds, Trial

Leaks = Callable[[Sequence[tuple[Problem, str]]], list[bool | None]]
"""Whether each (problem, reflection) contains a passing answer; None where that is unknown."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is the same before and after training: problems, samples, seeds, sampling."""

    problems: Sequence[Problem]
    seed: int
    temperature: float
    answer_tokens: int
    reflection_tokens: int
    problems_at_once: int
    settings: Evaluate
    controls: tuple[Control, ...]
    borrows: bool = True
    """Whether a failure that is alone in its chunk gets a reflection from outside it."""

    @classmethod
    def of(cls, recipe: Recipe, problems: Sequence[Problem]) -> "Protocol":
        """Return a recipe's protocol on some problems.

        Raises:
            MulliganError: the recipe asks for a control that does not exist.
        """
        return cls(
            problems=problems,
            seed=recipe.seed_of("evaluate"),
            temperature=_temperature(recipe),
            answer_tokens=recipe.generate.answer_tokens,
            reflection_tokens=recipe.generate.reflection_tokens,
            problems_at_once=recipe.generate.problems_at_once,
            settings=recipe.evaluate,
            controls=controls_of(recipe.evaluate),
            borrows=recipe.lone_failures_borrow,
        )

    def chunks(self) -> Iterator[tuple[int, int, Sequence[Problem]]]:
        """Yield (chunk number, sample, problems): the work in the order in which it is done."""
        number = 0
        for sample in range(self.settings.samples):
            rest = iter(self.problems)
            while chunk := list(islice(rest, self.problems_at_once)):
                yield number, sample, chunk
                number += 1

    def sampling(self, purpose: str, chunk: int, max_tokens: int) -> Sampling:
        """Return sampling with a seed of its own for one purpose in one chunk."""
        seed = derive_seed(self.seed, "evaluate", purpose, chunk)
        return Sampling(self.temperature, max_tokens, seed)


def evaluate(
    engine: Engine,
    conversations: Conversations,
    verify: Verify,
    leaks: Leaks,
    protocol: Protocol,
    when: str,
    log: RecordLog[Trial],
    progress: Callable[[int], None] = lambda done: None,
    untrained: Engine | None = None,
) -> None:
    """Append every trial of the protocol to the log; trials that it holds are not run again.

    Args:
        engine: who answers.
        conversations: how the model is asked.
        verify: judges answers.
        leaks: tells which reflections contain a passing answer.
        protocol: what is evaluated.
        when: ``before`` or ``after`` training, or the name of another model.
        log: where the trials go.
        progress: called with the number of trials done by each chunk.
        untrained: the model before training, for the controls that it takes part in; without
            it they are not asked.
    """
    engines = [each for each in (engine, untrained) if each is not None]
    for number, sample, problems in protocol.chunks():
        ids = [f"{when}-{problem.id}-{sample}" for problem in problems]
        if not all(each in log for each in ids):
            # A chunk that was cut off is generated whole again: what is drawn depends on the
            # chunk, and the lines that are there already come out the same and are not doubled.
            for each in engines:
                each.reset_cache()
            chunk = _Chunk(
                engine, conversations, verify, leaks, protocol, when, number, sample, untrained
            )
            for trial in chunk.trials(problems):
                log.append(trial)
            log.sync()
        progress(len(problems))


@dataclass(frozen=True)
class _Chunk:
    """The problems of one chunk, tried together."""

    engine: Engine
    conversations: Conversations
    verify: Verify
    leaks: Leaks
    protocol: Protocol
    when: str
    number: int
    sample: int
    untrained: Engine | None

    def trials(self, problems: Sequence[Problem]) -> list[Trial]:
        """Try every problem; try the failed ones again in every way."""
        sampling = self._answers("first_try")
        attempts = attempt(self.engine, self.conversations, self.verify, problems, 1, sampling)
        trials = [self._first(each) for each in attempts]
        failed = [
            place
            for place, each in enumerate(attempts)
            if each.verdict.status in ("failed", "unparseable")
        ]
        if failed:
            again = self._second_tries([attempts[place] for place in failed])
            for place, second in zip(failed, again, strict=True):
                trials[place] = second
        if self.protocol.settings.greedy and self.sample == 0:
            greedy = self._answer(problems, [a.prompt_ids for a in attempts], self._greedy())
            trials = [
                replace(trial, greedy=_answer(judged))
                for trial, judged in zip(trials, greedy, strict=True)
            ]
        return trials

    def _second_tries(self, attempts: Sequence[Attempt]) -> list[Trial]:
        """Return the trials of failed attempts, with every second try."""
        conversations = self.conversations
        reflections = self._write(
            "reflection",
            [conversations.about(a.verdict).reflection(a.problem, a.completion) for a in attempts],
        )
        pairs = list(zip(attempts, reflections, strict=True))
        leaks = self.leaks([(a.problem, z.text) for a, z in pairs])
        prompts = [
            conversations.about(a.verdict).retry(a.problem, a.completion, z) for a, z in pairs
        ]
        problems = [a.problem for a in attempts]
        retries = self._answer(problems, prompts, self._answers("after_reflection"))
        controls = self._controls(self._failed(attempts, reflections, retries))
        return [
            replace(
                self._first(a),
                reflection=z.text,
                reflection_tokens=z.length,
                reflection_logprob=_mean_logprob(z),
                leaked=leaked,
                after_reflection=_answer(retry),
                second_tries=second_tries,
            )
            for (a, z), leaked, retry, second_tries in zip(
                pairs, leaks, retries, controls, strict=True
            )
        ]

    def _failed(
        self,
        attempts: Sequence[Attempt],
        reflections: Sequence[Completion],
        retries: Sequence[Judged],
    ) -> Failed:
        untrained = self.untrained

        def untrained_writes(purpose: str, prompts: Sequence[TokenIds]) -> list[Completion]:
            assert untrained is not None
            return self._write(purpose, prompts, untrained)

        return Failed(
            attempts=attempts,
            reflections=reflections,
            retries=retries,
            conversations=self.conversations,
            settings=self.protocol.settings,
            write=self._write,
            untrained_writes=untrained_writes if untrained else None,
            borrow=lambda: self._borrowed_reflection(attempts[0].problem),
        )

    def _controls(self, failed: Failed) -> list[dict[str, Answer]]:
        """Return for each failed attempt the answer under every control that asks it."""
        answers: list[dict[str, Answer]] = [{} for _ in failed.attempts]
        for control in self.protocol.controls:
            asked = list(control.ask(failed))
            if not asked:
                continue
            problems = [failed.attempts[each.place].problem for each in asked]
            engine = self.untrained if control.untrained_answers else None
            sampling = self._answers(control.column)
            judged = self._answer(problems, [each.prompt for each in asked], sampling, engine)
            for each, result in zip(asked, judged, strict=True):
                text = each.text.text if each.text else None
                answers[each.place][control.name] = replace(_answer(result), reflection=text)
        return answers

    def _borrowed_reflection(self, problem: Problem) -> list[Completion]:
        """Reflect on the problem after this one, which is tried for that purpose alone.

        The model is told that this answer is wrong, as it is told of every failure, without a look
        at the verdict: only the text of a reflection on something else is wanted.
        """
        problems = self.protocol.problems
        place = next(i for i, each in enumerate(problems) if each.id == problem.id)
        other = problems[(place + 1) % len(problems)]
        if other.id == problem.id or not self.protocol.borrows:
            return []
        prompt = self.conversations.attempt(other)
        sampling = self._answers("borrowed_try")
        tried = generate(self.engine, self.conversations, [prompt], 1, sampling)[0][0]
        return self._write("borrowed_reflection", [self.conversations.reflection(other, tried)])

    def _first(self, first: Attempt) -> Trial:
        return Trial(
            problem_id=first.problem.id,
            sample=self.sample,
            when=self.when,
            question=question(first.problem),
            first_try=_answer((first.completion, first.verdict)),
            task=first.problem.task,
        )

    def _write(
        self, purpose: str, prompts: Sequence[TokenIds], engine: Engine | None = None
    ) -> list[Completion]:
        """Continue each prompt, at most as long as a reflection may be."""
        tokens = self.protocol.reflection_tokens
        sampling = self.protocol.sampling(purpose, self.number, tokens)
        who = engine or self.engine
        return [row[0] for row in generate(who, self.conversations, prompts, 1, sampling)]

    def _answer(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[TokenIds],
        sampling: Sampling,
        engine: Engine | None = None,
    ) -> list[Judged]:
        who = engine or self.engine
        return answer(who, self.conversations, self.verify, problems, prompts, sampling)

    def _answers(self, purpose: str) -> Sampling:
        return self.protocol.sampling(purpose, self.number, self.protocol.answer_tokens)

    def _greedy(self) -> Sampling:
        return replace(self._answers("greedy"), temperature=0.0)


def _temperature(recipe: Recipe) -> float:
    own = recipe.evaluate.temperature
    return recipe.generate.temperature if own is None else own


def _answer(judged: Judged) -> Answer:
    completion, verdict = judged
    tokens = completion.length
    logprob = _mean_logprob(completion)
    return Answer(
        completion.text,
        verdict,
        tokens,
        completion.finish_reason,
        thoughts=completion.thoughts,
        logprob=logprob,
    )


def _mean_logprob(completion: Completion) -> float | None:
    """Return the mean log-probability of a completion's tokens, rounded; None without any."""
    if not completion.logprobs:
        return None
    return round(sum(completion.logprobs) / len(completion.logprobs), 4)
