"""The zoo, third part: ways to train."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def small():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2)), torch.randn(8, 4)


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(optimizer, output):
    optimizer.zero_grad()
    output.square().mean().backward()
    optimizer.step()


# Gradients


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.fc, self.reentrant = nn.Linear(4, 2), reentrant

    def forward(self, x):
        x = self.a(x)
        x = (
            self.block(x)
            if self.reentrant is None
            else checkpoint(self.block, x, use_reentrant=self.reentrant)
        )
        return self.fc(x)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(check, reentrant):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for _ in range(3):
            with watch.batch("train", 0):
                output = model(x)
                step(optimizer, output)  # inside: what is repeated in backward must not count
            seen.append(output)
        return seen

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    run = check(lambda: (Checkpointed(reentrant), x), run, reference=(lambda: (Checkpointed(None), x), run))
    assert run["train"].n.sel(layer="block.0").values.tolist() == [20] * 3


def test_gradient_accumulation(check):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for _ in range(2):
            optimizer.zero_grad()
            for part in x.chunk(4):
                with watch.batch("train", 0):
                    loss = model(part).square().mean() / 4
                loss.backward()
                seen.append(loss)
            optimizer.step()
        return seen

    run = check(small, run)
    assert run["train"].sizes["step"] == 8


def test_accumulation_within_one_row(check):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for _ in range(2):
            optimizer.zero_grad()
            with watch.batch("train", 0):
                for part in x.chunk(4):
                    loss = model(part).square().mean() / 4
                    loss.backward()
                    seen.append(loss)
            optimizer.step()
        return seen

    run = check(small, run)
    assert run["train"].n.sel(layer="3").values.tolist() == [16, 16]


def test_hooks_on_gradients(check):
    def run(model, watch, x):
        gradients = []
        handle = model[0].register_full_backward_hook(lambda _, __, out: gradients.append(out[0]))
        with watch.batch("train", 0):
            output = model(x)
        step(optimizer_of(model), output)
        handle.remove()
        return gradients

    check(small, run)


# Forwards


def test_siamese_network(check):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.distance = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), nn.PairwiseDistance()

        def forward(self, left, right):
            return self.distance(self.encoder(left), self.encoder(right))

    run = check(lambda: (Siamese(), torch.randn(5, 4), torch.randn(5, 4)))
    assert run["train"].n.sel(layer="encoder.0").values.tolist() == [30, 30]


def test_several_forwards_in_one_batch(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            output = model(x) + model(x.flip(0)) + model(x[:3]).sum()
        step(optimizer_of(model), output)
        return [output]

    run = check(small, run)
    assert run["train"].n.sel(layer="input").item() == (8 + 8 + 3) * 4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_inside_training(check, mode):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        for epoch in range(2):
            for number in range(3):
                model.train()
                with watch.batch("train", epoch):
                    output = model(x)
                step(optimizer, output)
                if number == 1:
                    model.eval()
                    with mode(), watch.batch("valid", epoch):
                        seen.append(model(x[:5]).clone())
            seen.append(output)
        with mode(), watch.batch("test", 1):
            model(x)
        return seen

    run = check(small, run)
    assert run["valid"].train_step.values.tolist() == [2, 5]


def test_forwards_outside_a_batch(check):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), [model(x)]
        for _ in range(2):
            with watch.batch("train", 0):
                output = model(x)
            step(optimizer, output)
            seen.append(model(x))
        return seen

    check(small, run)


def test_batch_that_fails_makes_no_row(check):
    def run(model, watch, x):
        for fails in (False, True, False):
            try:
                with watch.batch("train", 0):
                    output = model(x)
                    if fails:
                        raise KeyError
            except KeyError:
                continue
        return [output]

    run = check(small, run)
    assert run["train"].step.values.tolist() == [0, 1]


def test_forward_called_by_its_name_is_never_seen(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.unseen = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.unseen.forward(self.seen(x))

    run = check(lambda: (Net(), torch.randn(3, 4)), names=["input", "seen", "unseen"])
    assert run.layers.never_called["unseen"]


def whole_numbers():
    """Build a model whose sums are exact in every order."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        for each in model.parameters():
            each.copy_(torch.randint(-2, 3, each.shape))
    return model, torch.randint(-3, 4, (8, 4)).float()


def whole_batch(model, watch, x):
    with watch.batch("train", 0):
        return [model(x)]


def test_samples_one_by_one_with_vmap(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            output = torch.func.vmap(model)(x)
        step(optimizer_of(model), output)
        return [output]

    check(whole_numbers, run, reference=(whole_numbers, whole_batch))


def test_gradients_of_each_sample(check):
    def run(model, watch, x):
        parameters = {name: each.detach() for name, each in model.named_parameters()}

        def loss(parameters, sample):
            return torch.func.functional_call(model, parameters, (sample,)).square().mean()

        with watch.batch("train", 0):
            gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        return list(gradients.values())

    check(whole_numbers, run, reference=(whole_numbers, whole_batch))


# Copies


def test_averaged_copy(check):
    def run(model, watch, x):
        optimizer, seen = optimizer_of(model), []
        with watch.batch("train", 0):
            output = model(x)
            average = copy.deepcopy(model)
            average(x)
        for _ in range(2):
            step(optimizer, output)
            with watch.batch("train", 0):
                output = model(x)
                for own, other in zip(average.parameters(), model.parameters(), strict=True):
                    own.data.lerp_(other.data, 0.1)
                seen.append(average(x))
        return seen

    check(small, run)


def test_averaged_model_of_torch(check):
    def run(model, watch, x):
        optimizer = optimizer_of(model)
        average = torch.optim.swa_utils.AveragedModel(model)
        for _ in range(2):
            with watch.batch("train", 0):
                output = model(x)
            step(optimizer, output)
            average.update_parameters(model)
        return [average(x), *average.parameters()]

    check(small, run)


def test_model_pickled_while_recorded(check):
    def run(model, watch, x):
        with watch.batch("train", 0):
            output = model(x)
            pickle.loads(pickle.dumps(model))(x)
        return [output]

    check(lambda: (small()[0].eval(), torch.randn(3, 4)), run)
