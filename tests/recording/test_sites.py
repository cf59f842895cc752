"""Which layers are found, and which of them a pattern or a kind chooses."""

import pytest
import torch
from torch import nn

from actlab.errors import SelectionError
from actlab.recording.sites import find_sites, select


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 1)
        self.conv2 = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.conv1(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.layer2 = Block()
        self.shared = self.layer2.relu
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        self.empty = nn.ModuleList()

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


SITES = find_sites(Net())


def chosen(layers=None, kinds=None, heads=()):
    return [site.name for site in select(SITES, layers, kinds, heads).sites]


def test_sites_are_the_input_and_every_module_once_in_order():
    assert [site.name for site in SITES if site.is_leaf] == [
        "input",
        *[f"layer1.{i}.{name}" for i in (0, 1) for name in ("conv1", "conv2", "relu")],
        *[f"layer2.{name}" for name in ("conv1", "conv2", "relu")],
        "fc",
        "empty",
    ]
    fc = next(site for site in SITES if site.name == "fc")
    assert (fc.kind, fc.description) == ("Linear", "in_features=3, out_features=2, bias=True")
    assert not any("parametrizations" in site.name for site in SITES)


def test_a_single_module_goes_by_its_class_and_a_module_called_input_keeps_its_name():
    assert [site.name for site in find_sites(nn.Linear(1, 1))] == ["input", "Linear"]
    model = nn.ModuleDict({"input": nn.Linear(1, 1)})
    assert [site.name for site in find_sites(model)] == ["(input)", "ModuleDict", "input"]


def test_prefixes_are_stripped_under_wrappers_only():
    inner = nn.Sequential(nn.Linear(1, 1))
    names = [site.name for site in find_sites(inner)]
    assert [site.name for site in find_sites(torch.compile(inner))] == names
    assert [site.name for site in find_sites(nn.DataParallel(inner))] == names
    assert find_sites(nn.ModuleDict({"module": nn.Linear(1, 1)}))[-1].name == "module"
    nested = nn.Sequential(torch.compile(nn.Linear(1, 1)))
    assert [site.name for site in find_sites(nested)] == ["input", "Sequential", "0"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("fc", ["fc"]),
        (["*.0.conv?", "fc"], ["layer1.0.conv1", "layer1.0.conv2", "fc"]),
        (["fc", "input"], ["input", "fc"]),
        (["layer?"], ["layer1", "layer2"]),
        (["layer1.*", "!*relu"], [f"layer1.{i}.conv{k}" for i in (0, 1) for k in (1, 2)]),
        (["!layer*", "!empty"], ["input", "fc"]),
        (["layer2"], ["layer2"]),
    ],
)
def test_patterns_mean_leaves_or_else_containers(layers, expected):
    assert chosen(layers) == expected


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("Linear", ["fc"]),
        (nn.Linear, ["fc"]),
        (["Conv*"], [f"{b}.conv{k}" for b in ("layer1.0", "layer1.1", "layer2") for k in (1, 2)]),
        ("Block", ["layer1.0", "layer1.1", "layer2"]),
    ],
)
def test_kinds_are_class_names_or_classes(kinds, expected):
    assert chosen(kinds=kinds) == expected


def test_kinds_and_patterns_hold_together():
    assert chosen("layer2.*", "ReLU") == ["layer2.relu"]
    assert chosen("!layer1.*", nn.Conv2d) == ["layer2.conv1", "layer2.conv2"]


def test_a_given_head_joins_the_selection():
    assert chosen("input", heads=["fc"]) == ["input", "fc"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": ["layer2.cnov1"]},
            "nothing in the model matches 'layer2.cnov1'; did you mean 'layer2.conv1'",
        ),
        ({"layers": ["*", "!fcc"]}, "did you mean 'fc'"),
        ({"kinds": "Conv1d"}, "did you mean 'Conv2d'"),
        ({"kinds": nn.LSTM}, "nothing in the model matches 'LSTM'"),
        ({"layers": []}, "leaves no layer"),
        ({"layers": ["fc", "!fc"]}, "leaves no layer"),
        ({"layers": "fc", "kinds": "ReLU"}, "nothing in the model matches 'ReLU'"),
        ({"heads": ["fd"]}, "did you mean 'fc'"),
    ],
)
def test_a_miss_names_what_is_near(arguments, message):
    with pytest.raises(SelectionError, match=message):
        chosen(**arguments)


def test_members_can_be_chosen_by_pattern():
    sites = find_sites(nn.ModuleDict({"lstm": nn.LSTM(1, 1), "gru": nn.GRU(1, 1)}))
    selection = select(sites, ["lstm:0", "gru", "!gru:1"])
    lstm, gru = selection.sites
    wanted = [
        (site.name, s) for site in (lstm, gru) for s in (":0", ":1", ":1:0") if selection.wants(site, s)
    ]
    assert wanted == [("lstm", ":0"), ("gru", ":0"), ("gru", ":1:0")]


def test_a_prefix_stands_in_front_of_every_name():
    sites = find_sites(nn.Sequential(nn.Linear(1, 1)), "generator")
    assert [(site.name, site.path) for site in sites] == [
        ("generator.input", ""),
        ("generator", "generator"),
        ("generator.0", "generator.0"),
    ]
    assert [site.name for site in find_sites(nn.Linear(1, 1), "critic")] == ["critic.input", "critic"]


def test_patterns_of_functions_need_no_module_that_matches():
    selection = select(SITES, ["layer1.*.F.relu", "fc"])
    assert [site.name for site in selection.sites] == ["fc"]
    assert select(SITES, "F.tanh").sites == ()
