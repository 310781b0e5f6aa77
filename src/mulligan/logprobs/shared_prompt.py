"""Log-probabilities of groups' completions, with each prompt computed once.

What it saves: a plain forward computes the prompt G times, so the tokens computed fall from
G (P + R) to P + G R. Several groups may go through the model as one stream: matrix products are
larger, and every weight's gradient is added up once rather than once per group. When it does not
apply, the plain path is used and said once in the log:
attention dropout while training, a sliding window shorter than the span, soft-capped scores,
layers that are not attention (state-space, linear), models outside transformers'
``AttentionInterface``, and any model for which the first group's check disagrees with the plain
path.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mulligan.logprobs import attention
from mulligan.logprobs.head import LogitShape, token_logprobs
from mulligan.logprobs.packing import (
    PackedStream,
    PromptGroup,
    Scored,
    join_groups,
    pack,
    require_prompts,
    split_group,
)
from mulligan.models.architecture import length_of_fixed_positions, why_not_shared
from mulligan.models.memory import tokens_that_fill
from mulligan.types import TokenIds

logger = logging.getLogger("mulligan")

CHECKED_PROMPT, CHECKED_COMPLETION = 256, 32
"""How many tokens of a prompt, and of each of three completions, the first check computes."""


Path = Literal["shared", "plain", "model"]
"""Prompt once; a row for each completion; the model's own forward and logits, row by row."""


class GroupScorer(nn.Module):
    """Scores groups by the shared-prompt path where it holds, by the plain path where not.

    Args:
        model: a causal language model.
        share_prompt: whether the shared path may be taken.
        max_tokens: the longest stream, or the largest padded batch, of one forward (see ``parts``).
        agree: told what a check objects to, or None; returns what counts, where several processes
            have to take the same path.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        share_prompt: bool = True,
        max_tokens: int = 16_384,
        agree: Callable[[str | None], str | None] = lambda objection: objection,
    ) -> None:
        super().__init__()
        self.model = model
        self.max_tokens = max_tokens
        self._agree = agree
        self.share_prompt = share_prompt
        self._objections: dict[Path, str | None] = {}
        self._said: set[str] = set()

    def parts(self, prompt_ids: TokenIds, completions: Sequence[TokenIds]) -> list[slice]:
        """Cut a group so that each part's forward stays within ``max_tokens``.

        Memory is bounded when the loop runs loss and backward part by part.
        """
        lengths = [len(ids) for ids in completions]
        if self.path(prompt_ids, completions) == "shared":
            return split_group(len(prompt_ids), lengths, self.max_tokens)
        rows = max(self.max_tokens // (len(prompt_ids) + max(lengths, default=0)), 1)
        return [slice(low, min(low + rows, len(lengths))) for low in range(0, len(lengths), rows)]

    def forward(
        self,
        prompt_ids: TokenIds,
        completions: Sequence[TokenIds],
        temperature: float = 1.0,
        scored: Scored | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return ``logprobs_GR`` and ``mask_GR``, as ``group_logprobs`` does."""
        return self.score([PromptGroup(prompt_ids, completions, scored)], temperature)[0]

    def score(
        self, groups: Sequence[PromptGroup], temperature: float = 1.0
    ) -> list[tuple[Tensor, Tensor]]:
        """Return ``logprobs_GR`` and ``mask_GR`` of each group.

        Those that take the shared path go through the model as one stream, whatever its length
        (see ``streams``), the others one by one.
        """
        paths = [self.path(each.prompt_ids, each.completions) for each in groups]
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for path in dict.fromkeys(paths):
            places = [place for place, own in enumerate(paths) if own == path]
            taken = [groups[place] for place in places]
            scored = _score_on(path, self.model, taken, temperature)
            found |= dict(zip(places, scored, strict=True))
        return [found[place] for place in range(len(groups))]

    def streams(self, groups: Sequence[PromptGroup], shares: int = 1) -> list[slice]:
        """Put consecutive groups together that are best scored in one pass.

        Args:
            groups: of a step.
            shares: how many processes will share the streams; several groups never make a stream
                that is longer than an equal share.
        """
        tokens = [each.tokens for each in groups]
        limit = min(self.max_tokens, tokens_that_fill(self.model.device.type))
        return join_groups(tokens, min(limit, -(-sum(tokens) // shares)))

    def path(self, prompt_ids: TokenIds, completions: Sequence[TokenIds]) -> Path:
        """Say which path a group takes; a path's first group checks it."""
        span = len(prompt_ids) + max(map(len, completions), default=0)
        reason = (
            why_not_shared(self.model, span) if self.share_prompt else "sharing is switched off"
        )
        reason = reason or self._objection("shared", prompt_ids, completions)
        if reason is None:
            return "shared"
        objection = self._objection("plain", prompt_ids, completions)
        limit = length_of_fixed_positions(self.model.config.get_text_config())
        if limit is not None and limit < span:
            objection = reason  # rows padded to one length would move each other's positions
        path: Path = "plain" if objection is None else "model"
        self._say(path, objection or reason)
        return path

    def _objection(
        self, path: Path, prompt_ids: TokenIds, completions: Sequence[TokenIds]
    ) -> str | None:
        """Check a path on the first group that would take it, and remember the outcome."""
        if path not in self._objections:
            found = self.objection(path, prompt_ids, completions)
            self._objections[path] = self._agree(found)
        return self._objections[path]

    def objection(
        self, path: Path, prompt_ids: TokenIds, completions: Sequence[TokenIds]
    ) -> str | None:
        """Return what speaks against a path, found by computing a piece of a group."""
        return disagreement(self.model, path, prompt_ids, completions)

    def _say(self, path: Path, reason: str) -> None:
        """Tell once why a slower path is taken."""
        if reason not in self._said:
            self._said.add(reason)
            logger.warning(
                "groups take the %r path, which is slower than the shared one: %s", path, reason
            )


def group_logprobs(
    model: PreTrainedModel,
    prompt_ids: TokenIds,
    completions: Sequence[TokenIds],
    temperature: float = 1.0,
    scored: Scored | None = None,
) -> tuple[Tensor, Tensor]:
    """Score a group's completions in one unpadded stream that holds the prompt once.

    Args:
        model: a causal language model that ``why_not_shared`` does not refuse. It keeps the
            attention implementation of this path afterwards, which without a group is ``sdpa``.
        prompt_ids: the prompt that all completions share.
        completions: token ids of each completion, ragged; an empty one gets an empty row.
        temperature: divides the logits.
        scored: which tokens of each completion are scored; all of them by default.

    Returns:
        ``logprobs_GR``, fp32, differentiable, 0 where no token is scored, and ``mask_GR``, true
        where one is; R is the longest completion.
    """
    return stream_logprobs(model, [PromptGroup(prompt_ids, completions, scored)], temperature)[0]


def stream_logprobs(
    model: PreTrainedModel, groups: Sequence[PromptGroup], temperature: float = 1.0
) -> list[tuple[Tensor, Tensor]]:
    """Score several groups in one unpadded stream, in which no group sees another.

    Arguments and results are those of ``group_logprobs``, for each group.
    """
    require_prompts(groups)
    filled = [each for each in groups if any(each.completions)]
    found = iter(_score_stream(model, filled, temperature) if filled else ())
    return [
        next(found) if any(each.completions) else _nothing(model, len(each.completions))
        for each in groups
    ]


def plain_logprobs(
    model: PreTrainedModel,
    prompt_ids: TokenIds,
    completions: Sequence[TokenIds],
    temperature: float = 1.0,
    scored: Scored | None = None,
) -> tuple[Tensor, Tensor]:
    """Score every completion in a row of its own, prompt included: the oracle and the fallback.

    Rows are padded on the right; completion positions are gathered before the head. Arguments and
    result are those of ``group_logprobs``.
    """
    require_prompts([PromptGroup(prompt_ids, completions)])
    kept = [ids for ids in completions if ids]
    if not kept:
        return _nothing(model, len(completions))
    longest = max(map(len, kept))
    rows = [[*prompt_ids, *ids, *[0] * (longest - len(ids))] for ids in kept]
    mask = [[1] * (len(prompt_ids) + len(ids)) + [0] * (longest - len(ids)) for ids in kept]
    hidden_BTD = model.base_model(
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        use_cache=False,
    ).last_hidden_state
    first = len(prompt_ids) - 1
    hidden_ND = torch.cat(
        [hidden_BTD[row, first : first + len(ids)] for row, ids in enumerate(kept)]
    )
    return _score(model, hidden_ND, completions, temperature, scored)


def model_logprobs(
    model: PreTrainedModel,
    prompt_ids: TokenIds,
    completions: Sequence[TokenIds],
    temperature: float = 1.0,
    scored: Scored | None = None,
) -> tuple[Tensor, Tensor]:
    """Score by the model's own forward and logits, one completion at a time.

    Whatever a model does to its logits is in here, and full logits of one completion are too: this
    is what the other paths are checked against, and the last resort. Arguments and result are those
    of ``group_logprobs``.
    """
    require_prompts([PromptGroup(prompt_ids, completions)])
    rows = [_row_logprobs(model, prompt_ids, ids, temperature) for ids in completions if ids]
    if not rows:
        return _nothing(model, len(completions))
    logprobs_N = torch.cat(rows)
    wanted_N = _wanted(scored, completions, logprobs_N.device)
    return _pad(logprobs_N[wanted_N], wanted_N, completions)


PATHS = {"shared": group_logprobs, "plain": plain_logprobs, "model": model_logprobs}


def disagreement(
    model: PreTrainedModel, path: Path, prompt_ids: TokenIds, completions: Sequence[TokenIds]
) -> str | None:
    """Return how a path differs from the model's own logits, or ``None`` when it agrees.

    Computes a piece of a group, without gradient, dropout or autocast: rounding would hide what is
    looked for. On the shared path a second group is in the same stream. The tolerances, in nats,
    are a hundred times what fp32 was seen to need, and for weights in half precision twice what
    their rounding was seen to make.
    """
    pieces = _pieces(prompt_ids[-CHECKED_PROMPT:], completions, several=path == "shared")
    half = model.dtype != torch.float32
    mean_allowed, largest_allowed = (0.1, 1.0) if half else (1e-4, 1e-3)
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            expected = [model_logprobs(model, each.prompt_ids, each.completions) for each in pieces]
            found = _score_on(path, model, pieces, 1.0)
    except Exception as error:  # whatever a foreign model raises, a slower path remains
        return f"its first use raised {error!r}"
    finally:
        model.train(was_training)
    rows = zip(found, expected, strict=True)
    difference_N = torch.cat([(found_GR - own)[mask].abs() for (found_GR, _), (own, mask) in rows])
    if difference_N.numel() == 0:
        return None
    mean, largest = difference_N.mean().item(), difference_N.max().item()
    if mean <= mean_allowed and largest <= largest_allowed:
        return None
    return f"log-probs differ from the model's own by {mean:.2g} on average, {largest:.2g} at most"


def _pieces(
    prompt_ids: TokenIds, completions: Sequence[TokenIds], several: bool
) -> list[PromptGroup]:
    """Return the beginnings of three completions, and, for ``several``, a second group."""
    longest = sorted(completions, key=len, reverse=True)[:3]
    ragged = [ids[: CHECKED_COMPLETION - 5 * i] for i, ids in enumerate(longest)]
    second = PromptGroup(prompt_ids[len(prompt_ids) // 2 :], ragged[-1:])
    return [PromptGroup(prompt_ids, ragged), *([second] if several else [])]


def _score_on(
    path: Path, model: PreTrainedModel, groups: Sequence[PromptGroup], temperature: float
) -> list[tuple[Tensor, Tensor]]:
    """Score groups on a path: in one stream where it is the shared one."""
    if path == "shared":
        return stream_logprobs(model, groups, temperature)
    score = PATHS[path]
    return [score(model, g.prompt_ids, g.completions, temperature, g.scored) for g in groups]


def _score_stream(
    model: PreTrainedModel, groups: Sequence[PromptGroup], temperature: float
) -> list[tuple[Tensor, Tensor]]:
    """Score groups of which each has something to score."""
    stream = pack(groups)
    hidden_TD = _stream_hidden(model, stream)
    hidden_ND = hidden_TD[torch.tensor(stream.predictors, device=model.device)]
    wanted_N = torch.cat([_wanted(each.scored, each.completions, model.device) for each in groups])
    logprobs = _token_logprobs(model, hidden_ND, stream.targets, wanted_N, temperature)
    tokens = [sum(map(len, each.completions)) for each in groups]
    wanted: Sequence[Tensor] = wanted_N.split(tokens)  # type: ignore[no-untyped-call]
    counts = [int(each.sum()) for each in wanted]
    scored: Sequence[Tensor] = logprobs.split(counts)  # type: ignore[no-untyped-call]
    rows = zip(scored, wanted, groups, strict=True)
    return [_pad(found, mask, each.completions) for found, mask, each in rows]


def _stream_hidden(model: PreTrainedModel, stream: PackedStream) -> Tensor:
    """Return the final hidden states of a packed stream, [T, D]."""
    if model.config._attn_implementation != attention.NAME:
        model.set_attn_implementation(attention.NAME)
    output = model.base_model(
        input_ids=torch.tensor([stream.token_ids], device=model.device),
        position_ids=torch.tensor([stream.position_ids], device=model.device),
        # Any 4-D mask keeps transformers from making its own, which would read the restarting
        # positions as unrelated sequences. This one fits nothing, so no other attention runs on it.
        attention_mask=torch.zeros(1, 1, 0, 0, device=model.device),
        use_cache=False,
        stream_layout=attention.StreamLayout.create(stream.groups, model.device),
    )
    hidden_TD: Tensor = output.last_hidden_state[0]
    return hidden_TD


def _row_logprobs(
    model: PreTrainedModel, prompt_ids: TokenIds, ids: TokenIds, temperature: float
) -> Tensor:
    """Return the log-probs of one completion's tokens, [R]."""
    row = torch.tensor([[*prompt_ids, *ids]], device=model.device)
    logits_RV = model(input_ids=row, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1]
    logprobs_RV = torch.log_softmax(logits_RV.float() / temperature, dim=-1)
    return logprobs_RV.gather(1, row[0, -len(ids) :, None]).squeeze(1)


def _score(
    model: PreTrainedModel,
    hidden_ND: Tensor,
    completions: Sequence[TokenIds],
    temperature: float,
    scored: Scored | None,
) -> tuple[Tensor, Tensor]:
    """Score completion tokens from the hidden states that predict them."""
    targets = [token for ids in completions for token in ids]
    wanted_N = _wanted(scored, completions, model.device)
    logprobs = _token_logprobs(model, hidden_ND, targets, wanted_N, temperature)
    return _pad(logprobs, wanted_N, completions)


def _token_logprobs(
    model: PreTrainedModel,
    hidden_ND: Tensor,
    targets: Sequence[int],
    wanted_N: Tensor,
    temperature: float,
) -> Tensor:
    """Return the log-probs of those of N tokens that are wanted."""
    targets_N = torch.tensor(targets, device=model.device)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    shape = LogitShape.of(model, temperature)
    return token_logprobs(hidden_ND[wanted_N], head, targets_N[wanted_N], shape)


def _wanted(scored: Scored | None, completions: Sequence[TokenIds], device: torch.device) -> Tensor:
    """Return which completion tokens are scored, completion after completion."""
    if scored is None:
        return torch.ones(sum(map(len, completions)), dtype=torch.bool, device=device)
    rows = zip(scored, completions, strict=True)
    return torch.tensor([w for row, ids in rows for w, _ in zip(row, ids, strict=True)]).to(device)


def _pad(
    logprobs: Tensor, wanted_N: Tensor, completions: Sequence[TokenIds]
) -> tuple[Tensor, Tensor]:
    """Spread scored tokens over one row for each completion."""
    lengths_G = torch.tensor([len(ids) for ids in completions], device=logprobs.device)
    places_R = torch.arange(int(lengths_G.max()), device=logprobs.device)
    mask_GR = places_R < lengths_G.unsqueeze(1)
    mask_GR = mask_GR.masked_scatter(mask_GR, wanted_N)
    return logprobs.new_zeros(mask_GR.shape).masked_scatter(mask_GR, logprobs), mask_GR


def _nothing(model: PreTrainedModel, rows: int) -> tuple[Tensor, Tensor]:
    """Return the log-probs of no tokens, still tied to the model so that a backward gives zero."""
    trained = (each for each in model.parameters() if each.requires_grad)
    parameter = next(trained, next(model.parameters()))
    empty_G0 = parameter.reshape(-1)[:0].view(rows, 0).float()
    return empty_G0, torch.zeros(rows, 0, dtype=torch.bool, device=parameter.device)
