"""Muon for the matrices and AdamW for the rest: the optimiser of pre-training and of the reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from helpers.core import distributed
from helpers.core.errors import CourseError


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon and AdamW behind the interface of a single optimiser, for schedulers, checkpoints and trainers.

    inside: matrices of shape (out, in) for Muon. others: embeddings, norms and biases for AdamW. lr: the learning rate
    of both; the size of Muon's step is matched to AdamW's.
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
        # A scheduler writes the learning rate into these groups, so they must be the ones that Muon and AdamW use.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one optimiser step with Muon and with AdamW. closure: as for `torch.optim.Optimizer.step`."""
        loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of Muon and of AdamW, for a checkpoint."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state. state_dict: what the method of that name returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def muon(model: nn.Module, lr: float) -> MuonWithAdamW:
    """The optimiser for a transformer: matrices inside its layers go to Muon, all other weights to AdamW.

    model: whose parameters are trained. lr: the learning rate.
    """
    # An output head that is tied to the embedding is the same tensor, so it counts as an embedding too.
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    inside, others = [], []
    for parameter in model.parameters():
        is_matrix = parameter.ndim == 2 and id(parameter) not in embeddings
        (inside if is_matrix else others).append(parameter)
    return MuonWithAdamW(inside, others, lr)


def with_muon(rate: float) -> tuple[Callable, dict[str, float]]:
    """The argument optimizer_cls_and_kwargs of a trainer, which makes the optimiser once the model is on its device.

    rate: the learning rate. Raises CourseError with FSDP, which divides the matrices that Muon needs whole.
    """
    if distributed.sharded():
        raise CourseError(
            "base and reward_model are trained with Muon, which needs whole matrices: train them first with ddp.yaml "
            "or in one process (--only base,reward_model)"
        )
    return lambda: muon, {"lr": rate}
