"""What a model's architecture allows: sharing a prompt, padding rows to one length.

The engine's shared prefixes and the trainer's packed groups ask the same questions, so they are
answered once, here, from the configuration and a few attributes of the model. Whether the answer
holds is checked by those who rely on it, on a few tokens.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def why_not_shared(model: "PreTrainedModel", span: int) -> str | None:
    """Return why sequences cannot attend to a prompt that they share, or ``None``.

    Args:
        model: in the mode (training or not) in which it will run.
        span: tokens of the longest sequence, prompt included.
    """
    return next(_objections(model, span), None)


def may_be_padded(model: "PreTrainedModel", longest: int) -> bool:
    """Whether rows of unequal length may be computed together, padded on the left.

    A recurrent state would take up the padding, and positions that depend on the length of the
    longest row would change those of the others.
    """
    config = model.config.get_text_config()
    limit = length_of_fixed_positions(config)
    attends = not model._is_stateful and layer_kinds(config) <= _ATTENTION
    return attends and (limit is None or longest <= limit)


def _objections(model: "PreTrainedModel", span: int) -> Iterator[str]:
    """Name whatever in an architecture speaks against sharing a prompt."""
    config = model.config.get_text_config()
    dropout = getattr(config, "attention_dropout", 0.0) or getattr(config, "attn_pdrop", 0.0)
    if model.training and dropout:
        yield f"attention dropout of {dropout} in training"
    if getattr(config, "attn_logit_softcapping", None):
        yield f"attention scores soft-capped at {config.attn_logit_softcapping}"
    kinds = layer_kinds(config)
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        yield f"layers that are not plain attention: {', '.join(other)}"
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds or not getattr(config, "layer_types", None)
    if window and slides and window < span:
        yield f"a sliding window of {window} tokens over a span of {span}"
    limit = length_of_fixed_positions(config)
    if limit is not None and limit < span:
        yield f"positions that depend on the length beyond {limit} tokens, over a span of {span}"
    interface = getattr(model, "_supports_attention_backend", False)
    if model._is_stateful or not (interface and model._supports_sdpa):
        yield f"{type(model).__name__} does not use transformers' attention interface"


def layer_kinds(config: Any) -> set[str]:
    """Return the kinds of a model's layers, in transformers' words."""
    return set(getattr(config, "layer_types", None) or ["full_attention"])


def length_of_fixed_positions(config: Any) -> int | None:
    """Return up to which length positions do not depend on it; ``None``: they never do.

    Longrope and dynamic rope turn the positions of a whole batch otherwise once its longest row is
    longer than the model was first trained for.
    """
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        if rope.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
            original = rope.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            return int(original or config.max_position_embeddings)
    return None


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rope of all layers, or of each kind of layer where they differ."""
    yield parameters
    yield from (each for each in parameters.values() if isinstance(each, Mapping))
