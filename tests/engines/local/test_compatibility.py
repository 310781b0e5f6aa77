import pytest
import torch

from engine_models import tiny_model
from mulligan.engines.local import compatibility
from mulligan.engines.local.compatibility import examine


@pytest.fixture
def off_by(monkeypatch):
    """Makes the fast path's logits differ, on each text by so many standard deviations."""
    shared, texts = compatibility._shared, []

    def change(*differences):
        def differing(model, trunk, trunk_ids, branches):
            logits = shared(model, trunk, trunk_ids, branches)
            texts.append(branches)
            return logits + differences[min(len(texts), len(differences)) - 1] * logits.std()

        monkeypatch.setattr(compatibility, "_shared", differing)
        return texts

    return change


def test_a_model_that_agrees_is_asked_once(off_by):
    texts = off_by(0.0)
    assert examine(tiny_model()).reason is None
    assert len(texts) == 1


def test_one_text_on_which_rounding_is_large_does_not_refuse_a_model(off_by):
    texts = off_by(0.11, 0.02)
    assert examine(tiny_model().to(torch.bfloat16)).reason is None
    assert len(texts) == 7


def test_a_model_that_differs_on_most_texts_generates_plainly(off_by):
    off_by(0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.5)
    reason = examine(tiny_model().to(torch.bfloat16)).reason
    assert reason == "its logits would change by 0.5 standard deviations"
