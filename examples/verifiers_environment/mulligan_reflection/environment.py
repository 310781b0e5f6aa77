"""One episode: the reflector reflects on a failure, the retrier answers the problem again."""

from typing import Any

from verifiers import v1 as vf

from mulligan.engines.forms import written_call
from mulligan.types import Completion
from mulligan_reflection.judging import Judges
from mulligan_reflection.taskset import Failures, FailureTask


class UnjudgedRetryError(Exception):
    """There is no verdict on a retry: it says nothing about the reflection before it."""


class ReflectRetryConfig(vf.EnvConfig):
    """The two roles; both are the model that is trained, and the reflector alone learns."""

    reflector: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    retrier: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class ReflectRetry(vf.Env[ReflectRetryConfig]):
    """Rewards a reflection by the verdict on the retry after it."""

    taskset: Failures
    judges: Judges

    async def start(self) -> None:
        """Start the verifiers."""
        self.judges = Judges(self.taskset.recipe)

    async def stop(self) -> None:
        """End the verifiers."""
        if hasattr(self, "judges"):
            self.judges.close()

    async def setup(self, agents: vf.Agents) -> None:
        """Keep the retrier's tokens out of training."""
        agents.retrier.trainable = False

    async def run(self, task: FailureTask, agents: vf.Agents) -> None:
        """Reflect, and answer again."""
        reflected = await agents.reflector.run(task)
        if reflected.ok:
            await agents.retrier.run(self.taskset.retry(task, completion_of(reflected)))

    async def finalize(self, task: FailureTask, episode: vf.Episode) -> None:
        """Give the reflection its reward, or fail an episode without a verdict.

        Raises:
            UnjudgedRetryError: the retry could not be sampled or judged. The reflection's trace is
                marked as failed too, since a trace without a reward counts as one with reward 0.
        """
        by_agent = episode.by_agent
        [reflected] = by_agent["reflector"]
        if not reflected.ok:
            return
        try:
            reflected.record_reward("retry", await self._reward(task, by_agent.get("retrier", [])))
        except Exception as error:
            reflected.record_error(error)
            raise

    async def _reward(self, task: FailureTask, retried: list[vf.Trace]) -> float:
        if not retried or not retried[0].ok:
            raise UnjudgedRetryError("the retry could not be sampled")
        answer = self.taskset.conversations.understand(completion_of(retried[0]))
        verdict = await self.judges.verdict(task.problem, answer)
        if verdict.status == "error":
            raise UnjudgedRetryError(f"{verdict.reason}: {verdict.detail}")
        return float(verdict.passed)


def completion_of(trace: vf.Trace) -> Completion:
    """Return what the model said last, its tool calls written as models write them."""
    message: Any = trace.assistant_messages[-1]
    calls = [written_call(call.name, call.arguments) for call in message.tool_calls or ()]
    text, thoughts = (
        "\n".join([*filter(None, [message.content]), *calls]),
        message.reasoning_content,
    )
    return Completion(
        token_ids=(),
        text=text,
        finish_reason="length" if trace.is_truncated else "stop",
        thoughts=thoughts,
        unfinished_thought=bool(thoughts and not text),
        counted_tokens=trace.num_output_tokens,
    )
