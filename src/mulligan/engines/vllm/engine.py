"""vLLM generates, with the newest weights.

The server is told which weights it holds, under a label that no other run and no other version
has, and is asked for that label before and after each rollout: one that was restarted, or that
somebody else gave weights to, has another, and nothing that it generated is used.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mulligan.engines.base import Abilities
from mulligan.engines.forms import TokenForm
from mulligan.engines.http import Client
from mulligan.engines.server import (
    PROBE,
    ServerEngine,
    problem_with_logprobs,
    reads_ids_as,
    require_model,
)
from mulligan.engines.vllm.control import HOW_TO_START, Control
from mulligan.engines.vllm.process import SERVED_NAME, VllmProcess
from mulligan.engines.vllm.weights import AdapterPush, FolderPush, NcclPush, Push, save_model
from mulligan.errors import MulliganError
from mulligan.interrupt import waiting
from mulligan.models.template import stop_ids
from mulligan.storage.atomic import remove_folder
from mulligan.types import Completion, Sampling, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

START = "start"
"""The folder that a server is started from, in the engine's own."""
_SAME_SCORES = 0.1
"""Nats per token: well above what bfloat16 rounds to, well below what another model says."""


class VllmEngine:
    """Generates by asking a vLLM server, and gives it the weights of each version.

    Args:
        client: asks the server; its paths begin with ``/v1``.
        control: drives the server.
        push: sends it weights.
        policy: what it generates with until ``update_weights``.
        probe: a text whose score tells whether the server holds the policy's weights.
        stops: tokens that end a completion.
        parallel: how many requests are under way at a time.
        context: of the served model, where the server says it.
        process: the server, where the run started it; ended by ``close``.
    """

    def __init__(
        self,
        client: Client,
        control: Control,
        push: Push,
        policy: nn.Module,
        probe: TokenIds,
        stops: Collection[int],
        *,
        parallel: int = 64,
        context: int | None = None,
        process: VllmProcess | None = None,
    ) -> None:
        self.policy_version = 0
        self._client = client
        self._control = control
        self._push = push
        self._parallel = parallel
        self._context = context
        self._process = process
        self._unique = uuid.uuid4().hex[:12]
        self._label: str | None = None
        self._sampler: ServerEngine | None = None
        self._policy = policy
        self._probe = probe
        self._form = TokenForm(logprobs=True, stops=stops)

    @property
    def abilities(self) -> Abilities:
        """Everything, but its log-probs are those of other kernels than the trainer's."""
        return Abilities(token_ids=True, logprobs=True, weights=True, exact=False)

    @property
    def context(self) -> int | None:
        """What the server says of its context."""
        return self._context

    def update_weights(self, policy: nn.Module, version: int) -> None:
        """Give the server a policy's weights as this version, and check that it holds them.

        Raises:
            MulliganError: it did not take them; it is given them again before it generates.
        """
        self._policy, self.policy_version, self._label = policy, version, None
        label = f"{self._unique}-{version}"
        name = self._push.send(policy, label)
        self._require_same_scores(policy, name)
        self._control.label_weights(label)
        self._sampler = ServerEngine(self._client, name, self._form, parallel=self._parallel)
        self._label = label

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in order, all by the present version's weights.

        Raises:
            MulliganError: the server holds other weights, refuses, or still fails after the last
                try.
        """
        if self._label is None:
            self.update_weights(self._policy, self.policy_version)
        assert self._sampler is not None
        self._require_label("before")
        completions = self._sampler.generate(prompts, n, sampling)
        self._require_label("after")
        for completion in (each for row in completions for each in row):
            if completion.logprobs is None:
                raise MulliganError(
                    f"The vLLM server {self._control.host} gave no log-probabilities. "
                    f"{HOW_TO_START}"
                )
        return completions

    def reset_cache(self) -> None:
        """Drop the keys and values of every prompt.

        Raises:
            MulliganError: other requests keep them in use.
        """
        self._control.reset_prefix_cache()

    def close(self) -> None:
        """Close the connections; end the server where the run started it; remove its weights."""
        self._client.close()
        if self._process is not None:
            self._process.close()
            remove_folder(self._process.model)
        self._push.close()

    @torch.no_grad()
    def _require_same_scores(self, policy: nn.Module, name: str) -> None:
        """Check that the server scores a text as the policy does, but for rounding."""
        scored = self._scores(name)
        device = next(policy.parameters()).device
        ids_BT = torch.tensor([self._probe], device=device)
        logprobs_TV = torch.log_softmax(policy(input_ids=ids_BT).logits[0, :-1].float(), -1)
        own_T = logprobs_TV.gather(1, ids_BT[0, 1:, None])[:, 0].cpu()
        difference = float((own_T - torch.tensor(scored)).abs().mean())
        if not difference < _SAME_SCORES:
            raise MulliganError(
                f"The vLLM server {self._control.host} scores a text {difference:.3g} nats "
                "per token differently from the policy after it was given weights; up to "
                f"{_SAME_SCORES} is rounding. It serves another model, or kept a part of the "
                "old weights. Let the run start the server by engine.python, or start it from a "
                "folder that the run wrote."
            )

    def _scores(self, name: str) -> list[float]:
        """Return the server's log-probs of the probe's tokens, but for the first."""
        body = {
            "model": name,
            "prompt": list(self._probe),
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": 0,
        }
        reply = self._client.call("POST", TokenForm.path, body)
        try:
            rows = reply["choices"][0]["prompt_logprobs"][1:]
            return [
                float(row[str(token)]["logprob"])
                for row, token in zip(rows, self._probe[1:], strict=True)
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            raise MulliganError(
                f"The vLLM server {self._control.host} did not score the text that checks its "
                f"weights. Use vLLM 0.10.2 or later. {HOW_TO_START}"
            ) from None

    def _require_label(self, when: str) -> None:
        """Check that the server holds the weights that it was given last."""
        held = self._control.weight_version()
        if held != self._label:
            expected, self._label = self._label, None
            raise MulliganError(
                f"The vLLM server {self._control.host} holds the weights {held!r} {when} this "
                f"rollout, not {expected!r}: it was restarted, or somebody else gave it weights. "
                "Nothing that it generated is used. Go on with --resume, which sends them again."
            )


ON_A_CPU = (
    "--enforce-eager",
    "--no-enable-chunked-prefill",
    *("--kv-cache-memory-bytes", str(4 << 30)),
)
"""What a server on a CPU is started with. vLLM packs matrices into closures, which only an eager
model rebuilds on a reload. For a prompt that is read in pieces it turns back the generator of a
request with a seed, which a CPU's generators refuse (seen with 0.32: the server ends). And of its
own accord it wants 92% of all memory; 4 GiB is what the local engine's caches may take."""


def make_vllm(
    settings: Mapping[str, Any],
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dtype: str,
    folder: Path,
) -> VllmEngine:
    """Reach or start a server, and check that it does what training needs.

    Args:
        settings: the recipe's ``engine`` section.
        policy: what to generate with at first.
        tokenizer: the run's own.
        dtype: precision of a server that is started here.
        folder: where weights, and the log of such a server, are written.

    Raises:
        MulliganError: no server, another model, or log-probs from before the temperature.
    """
    root, model, process = settings["url"], settings["model"], None
    if root is None:
        process = _start(settings, policy, tokenizer, dtype, folder)
        root, model = process.root, SERVED_NAME
    root = root.removesuffix("/").removesuffix("/v1")
    try:
        if process is not None:
            with waiting("starting the vLLM server"):
                process.wait_until_ready(settings["start_seconds"])
        key, timeout_s = settings["api_key_env"], settings["timeout_seconds"]
        client = Client(f"{root}/v1", api_key_env=key, timeout_s=timeout_s)
        control = Control(Client(root, api_key_env=key, timeout_s=timeout_s))
        context = _require_exact_tokens(client, model, tokenizer)
        control.weight_version()
        started = policy if process is not None else None
        push = _push(settings["weights"], control, folder, root, model, started)
    except BaseException:
        if process is not None:
            process.close()
        raise
    probe = tuple(tokenizer.encode(PROBE, add_special_tokens=False))
    return VllmEngine(
        client,
        control,
        push,
        policy,
        probe,
        stop_ids(policy, tokenizer),
        parallel=settings["parallel"],
        context=context,
        process=process,
    )


def _start(
    settings: Mapping[str, Any],
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dtype: str,
    folder: Path,
) -> VllmProcess:
    start = folder / START
    save_model(policy, start)
    tokenizer.save_pretrained(start)
    arguments = [*(ON_A_CPU if policy.device.type == "cpu" else ()), *settings["arguments"]]
    return VllmProcess(settings["python"], start, dtype, folder / "vllm.log", arguments)


def _require_exact_tokens(
    client: Client, model: str, tokenizer: "PreTrainedTokenizerBase"
) -> int | None:
    """Check that token ids and log-probs mean to the server what they mean here.

    Returns the served model's context, where the server says it.
    """
    context = require_model(client, model)
    if not reads_ids_as(client, model, tokenizer):
        raise MulliganError(
            f"The server {client.host} serves a model of another tokenizer, or returns no token "
            "ids. Start vLLM 0.10.2 or later with the model that the recipe names."
        )
    if problem := problem_with_logprobs(client, model, TokenForm(logprobs=True)):
        raise MulliganError(f"{problem}. Training needs those of the distribution sampled from.")
    return context


def _push(
    kind: str, control: Control, folder: Path, url: str, model: str, started: nn.Module | None
) -> Push:
    """Return what sends weights; ``started`` is the policy that the run started the server with."""
    weights = (folder / "weights").absolute()
    if kind == "adapter":
        return AdapterPush(control, weights, model, started)
    if kind == "nccl":
        return NcclPush(control, url, model)
    return FolderPush(control, weights, model, folder / START if started is not None else None)
