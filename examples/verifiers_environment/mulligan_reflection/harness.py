"""Who asks the model: one request for each conversation."""

from typing import Any

from openai import AsyncOpenAI, OpenAIError
from verifiers import v1 as vf
from verifiers.v1.dialects.chat import message_to_wire

from mulligan_reflection.taskset import FailureData


class OneCompletion(vf.Harness[vf.HarnessConfig]):
    """Asks for one completion, from this process: there is no program to install or to run."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: FailureData,
    ) -> vf.ProgramResult:
        """Ask the model through verifiers' endpoint, which sets the sampling and keeps the tokens.

        The client repeats requests that fail in passing; what fails for good is the rollout's.
        """
        del trace, runtime, mcp_urls
        request: dict[str, Any] = {
            "messages": [message_to_wire(message) for message in data.prompt]
        }
        if data.tools:
            request["tools"] = data.tools
        try:
            async with AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None) as client:
                await client.chat.completions.create(model=ctx.model, **request)
        except OpenAIError as error:
            return vf.ProgramResult(1, "", str(error))
        return vf.ProgramResult(0, "", "")
