"""Two optimisers that look like one: every weight in one of them, one rate, a state that comes back."""

import copy

import tiny
import torch

from helpers.training.optimizers import muon


def model_and_optimizer(lr=0.01):
    model = copy.deepcopy(tiny.policy()[0])  # in eval mode: no dropout
    return model, muon(model, lr)


def train(model, optimizer, steps=3):
    ids = torch.arange(40).reshape(4, 10)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
    return loss.item()


def test_every_weight_is_in_one_part_and_embeddings_are_adamws():
    model, optimizer = model_and_optimizer()
    inside, others = ({id(p) for group in part.param_groups for p in group["params"]} for part in optimizer.parts)
    assert not inside & others and inside | others == set(map(id, model.parameters()))
    assert id(model.get_input_embeddings().weight) in others and id(model.lm_head.weight) in others
    assert id(model.model.decoder.layers[0].fc1.weight) in inside


def test_a_scheduler_sets_the_rate_of_both_parts():
    model, optimizer = model_and_optimizer(lr=1.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.25)
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.25, 0.25]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.param_groups[1]["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_it_learns_and_a_restored_state_goes_on_in_the_same_way():
    model, optimizer = model_and_optimizer()
    first = train(model, optimizer, steps=1)
    middle = train(model, optimizer, steps=5)
    assert middle < first
    twin = copy.deepcopy(model)
    restored = muon(twin, 0.5)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(model, optimizer) == train(twin, restored)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
