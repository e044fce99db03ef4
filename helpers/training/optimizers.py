"""Muon for the matrices and AdamW for the rest: the optimiser of pre-training and of the reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from helpers.core import distributed
from helpers.core.errors import CourseError


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimisers as one, so that schedulers, checkpoints and trainers see a single optimiser.

    inside: matrices of shape (out, in) for Muon; others: embeddings, norms and biases for AdamW. Both use ``lr``: the
    size of Muon's step is matched to AdamW's.
    """

    def __init__(self, inside: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float) -> None:
        inside, others = list(inside), list(others)
        super().__init__([{"params": inside}, {"params": others}], {"lr": lr})
        self.parts = (
            torch.optim.Muon(inside, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, weight_decay=0.0),
        )
        self._share_groups()

    def _share_groups(self) -> None:
        # A scheduler writes the rate into param_groups: they must be the parts' own.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Do one step with both parts."""
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def muon(model: nn.Module, lr: float) -> MuonWithAdamW:
    """The optimiser for a transformer: matrices inside its layers go to Muon, the rest to AdamW."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    inside = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]  # a tied head is an embedding
    chosen = set(map(id, inside))
    return MuonWithAdamW(inside, [p for p in model.parameters() if id(p) not in chosen], lr)


def with_muon(rate: float) -> tuple[Callable, dict[str, float]]:
    """What a trainer needs to make the optimiser itself, once the model is in its place."""
    if distributed.sharded():
        raise CourseError(
            "base and reward_model are trained with Muon, which needs whole matrices: train them first with ddp.yaml "
            "or in one process (--only base,reward_model)"
        )
    return lambda: muon, {"lr": rate}
