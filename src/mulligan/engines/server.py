"""An engine over any server that speaks OpenAI's protocol.

What it can do is found out by asking: token ids travel where the server takes and returns them and
reads text as the run's own tokenizer does; elsewhere conversations go as messages, through the
server's own chat template. Log-probs are taken where they are those of the distribution that was
sampled from; where they are not, or are missing, that is said, and completions have none.

What a server samples depends on what else it computes at the time, so its runs cannot be
promised to repeat bit for bit, seeds or not.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from mulligan.engines.base import Abilities
from mulligan.engines.forms import ChatForm, Form, TokenForm
from mulligan.engines.http import Client, PassingTrouble, Refused, served_models
from mulligan.errors import MulliganError, nearest
from mulligan.models.template import stop_ids
from mulligan.randomness import derive_seed
from mulligan.types import ChatPrompt, Completion, Sampling, TokenIds

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("mulligan")

PROBE = "The quick brown fox jumps over the lazy dog; 12 + 30 = 42, naïvely."
"""Read alike by two tokenizers that are the same."""
_REFUSALS_OF_A_FIELD = frozenset({400, 404, 405, 422, 501})


class ServerEngine:
    """Generates by asking a server; knows no task and holds no model.

    Args:
        client: asks the server.
        model: the server's name for the model.
        form: how prompts are asked and completions read.
        parallel: how many requests are under way at a time.
        context: of the model, where the server says it.
    """

    policy_version = 0

    def __init__(
        self,
        client: Client,
        model: str,
        form: Form,
        *,
        parallel: int = 16,
        context: int | None = None,
    ) -> None:
        self._client = client
        self._model = model
        self._form = form
        self._parallel = parallel
        self._context = context

    def __repr__(self) -> str:
        return f"ServerEngine(host={self._client.host!r}, model={self._model!r})"

    @property
    def abilities(self) -> Abilities:
        """What was found out about the server; it takes no weights."""
        form = self._form
        return Abilities(form.token_ids, form.logprobs, weights=False, exact=False)

    @property
    def context(self) -> int | None:
        """What the server says of the model's context."""
        return self._context

    def update_weights(self, policy: "nn.Module", version: int) -> None:
        """Refuse: such a server takes no weights.

        Raises:
            MulliganError: always.
        """
        del policy
        raise MulliganError(
            f"The server {self._client.host} takes no weights, and step {version} needs "
            "weights of its own. "
            "Train with engine.kind=local or engine.kind=vllm."
        )

    def reset_cache(self) -> None:
        """Do nothing: the server keeps its caches to itself."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def generate(
        self, prompts: Sequence[TokenIds], n: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """Return n completions for each prompt, in order: all of them, or an error.

        Raises:
            MulliganError: the server refuses a request, does not keep to the form of its replies,
                points to another address, or still fails after the last try.
        """
        with ThreadPoolExecutor(self._parallel) as pool:
            groups = [
                pool.submit(self._group, prompt, n, sampling, number)
                for number, prompt in enumerate(prompts)
            ]
            try:
                return [group.result() for group in groups]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _group(self, prompt: TokenIds, n: int, sampling: Sampling, number: int) -> list[Completion]:
        """Ask until the group is whole; what a short reply lacks is asked for again."""
        group: list[Completion] = []
        while len(group) < n:
            seed = derive_seed(sampling.seed, number, len(group)) % 2**31
            ask = partial(self._ask, prompt, n - len(group), sampling, seed)
            group += self._client.persist(ask)
        return group

    def _ask(self, prompt: TokenIds, n: int, sampling: Sampling, seed: int) -> list[Completion]:
        form = self._form
        body = {"model": self._model, **form.body(prompt, n, sampling, seed)}
        reply = self._client.ask("POST", form.path, body, read=form.reply)
        completions = form.completions(reply, prompt, sampling)[:n]
        if not completions:
            raise PassingTrouble("its reply held no choices")
        return completions


def connect(
    url: str,
    model: str,
    tokenizer: "PreTrainedTokenizerBase | None",
    *,
    api_key_env: str | None = None,
    timeout_s: float = 600.0,
    parallel: int = 16,
) -> ServerEngine:
    """Reach a server, find out what it can do, and say so.

    Args:
        url: including ``/v1``.
        model: the server's name for the model.
        tokenizer: the run's own, with which prompts would be encoded; None asks by messages.
        api_key_env: the environment variable that holds the key; None sends none.
        timeout_s: how long one request may take, in seconds.
        parallel: how many requests are under way at a time.

    Raises:
        MulliganError: it cannot be reached, or does not serve the model.
    """
    client = Client(url, api_key_env=api_key_env, timeout_s=timeout_s)
    context = require_model(client, model)
    form: Form = ChatForm(logprobs=True)
    if tokenizer is not None and reads_ids_as(client, model, tokenizer):
        form = TokenForm(logprobs=True, stops=stop_ids(None, tokenizer))
    form = _settled(client, model, form)
    logger.info(
        "The server %s takes %s.",
        client.host,
        "token ids"
        if form.token_ids
        else "chat messages, through its own template: enough to evaluate with, not to train on",
    )
    return ServerEngine(client, model, form, parallel=parallel, context=context)


def require_model(client: Client, model: str) -> int | None:
    """Check that a server serves a model, where it says what it serves; return its context.

    Raises:
        MulliganError: it cannot be reached, or serves others only.
    """
    try:
        served = served_models(client)
    except Refused as refused:
        if refused.status in (401, 403):
            raise
        return None  # some servers list nothing
    contexts = {each.id: each.max_model_len for each in served}
    if model not in contexts:
        raise MulliganError(
            f"The server {client.host} does not serve {model!r}: {nearest(model, [*contexts])}. "
            "Name one that it serves, or start it with that model."
        )
    return contexts[model]


def reads_ids_as(client: Client, model: str, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether a server returns token ids, and reads text as a tokenizer does."""
    body = {
        "model": model,
        "prompt": PROBE,
        "max_tokens": 1,
        "temperature": 0.0,
        "return_token_ids": True,
        "add_special_tokens": False,
    }
    try:
        reply = client.call("POST", TokenForm.path, body)
    except Refused as refused:
        if refused.status in _REFUSALS_OF_A_FIELD:
            return False
        raise
    try:
        [choice] = reply["choices"]
        read = choice["prompt_token_ids"]
    except (KeyError, TypeError, ValueError):
        return False
    return bool(choice.get("token_ids")) and read == tokenizer.encode(
        PROBE, add_special_tokens=False
    )


def _settled(client: Client, model: str, form: Form) -> Form:
    """Leave out of a form what the server refuses or does not mean as we do."""
    if isinstance(form, ChatForm) and _refuses(client, model, form):
        form.extras = False
    if _refuses(client, model, form):
        form.logprobs = False
        logger.warning("The server %s refuses to give log-probabilities.", client.host)
    elif problem := problem_with_logprobs(client, model, form):
        form.logprobs = False
        logger.warning("%s, so completions come without any.", problem)
    return form


def _refuses(client: Client, model: str, form: Form) -> bool:
    try:
        _probe(client, model, form, 1.0)
    except Refused as refused:
        if refused.status in _REFUSALS_OF_A_FIELD:
            return True
        raise
    return False


def problem_with_logprobs(client: Client, model: str, form: Form) -> str | None:
    """Say why a server's log-probs are not those of the distribution that it samples from.

    They should be taken after the temperature, so the likeliest token is likelier at 0.5 than at 1.
    """
    likeliest = []
    for temperature in (1.0, 0.5):
        found = form.likeliest(_probe(client, model, form, temperature))
        if found is None:
            return f"The server {client.host} gives no log-probabilities"
        likeliest.append(found)
    if likeliest[1] > likeliest[0] + 1e-3:
        return None
    return (
        f"The server {client.host} gives log-probabilities from before the temperature (vLLM's "
        "default; start it with --logprobs-mode processed_logprobs)"
    )


def _probe(client: Client, model: str, form: Form, temperature: float) -> Any:
    """Return the plain reply to a request for one token, with the likeliest tokens beside it."""
    prompt: TokenIds = ChatPrompt([{"role": "user", "content": PROBE}])
    if form.token_ids:
        prompt = (1, 2, 3, 4)
    body = form.body(prompt, 1, Sampling(temperature, 1), seed=0)
    if form.logprobs:
        body |= form.more_logprobs
    return client.call("POST", form.path, {"model": model, **body})
