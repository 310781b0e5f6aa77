import torch

from engine_models import attention_error
from mulligan.engines.local import attention


def test_sums_in_float32_are_rounded_once_and_so_follow_wide_scores(monkeypatch):
    rounded = attention_error(attention._over_trunk_and_branch)
    monkeypatch.setattr(attention, "_product_dtype", lambda tensor: torch.float32)
    monkeypatch.setattr(
        attention, "_summed_in_float32", lambda left, right: torch.bmm(left.float(), right.float())
    )
    assert attention_error(attention._over_trunk_and_branch) < 0.005 < rounded
