"""Two models from one network share no tensor and no module, whatever its hooks and attributes hold."""

from __future__ import annotations

import copy
import functools
import weakref
from collections import deque

import pytest
import torch
from own_networks import ResidualCNN
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from nas_attn.backbones.copying import independent_copy
from nas_attn.backbones.survey.survey import survey
from nas_attn.cost.measurement import measure
from nas_attn.errors import SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement, Shape

SHAPE = {"num_classes": 5, "in_channels": 1, "image_size": 8}
AT = Placement.from_dict({"stage1.0": {"name": "se", "reduction": 2}, "stem": {"name": "eca"}})


def images():
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def make():
    torch.manual_seed(0)
    net = ResidualCNN()
    net.seen = {}
    return net


def by_lambda(net):
    net.stage1.register_forward_hook(lambda module, args, output: net.seen.__setitem__("stage1", output))


def by_outer_list(net):
    kept = []
    net.kept = kept
    net.stage1.register_forward_pre_hook(lambda module, args: kept.append(args[0]))


def by_nested_function(net):
    def outer():
        def store(module, args, output):
            net.seen["stage1"] = net.stage2(output)

        return store

    net.stage1.register_forward_hook(outer())


def by_default(net):
    net.stage1.register_forward_hook(lambda module, args, output, owner=net: owner.seen.update(stage1=output))


def by_keyword(net):
    def store(module, args, output, *, owner=net):
        owner.seen["stage1"] = output

    net.stage1.register_forward_hook(store)


def by_partial(net):
    def store(owner, module, args, output):
        owner.seen["stage1"] = output

    net.stage1.register_forward_hook(functools.partial(store, net))


def by_bound_method(net):
    net.stage1.register_forward_hook(Store(net).take)


def by_object(net):
    net.stage1.register_forward_hook(Store(net))


def by_wrapped_function(net):
    def store(module, args, output):
        net.seen["stage1"] = output

    @functools.wraps(store)
    def around(*args):
        return store(*args)

    net.stage1.register_forward_hook(around)


def by_backward_hook(net):
    net.stage1.register_full_backward_hook(lambda module, grads, outputs: net.seen.__setitem__("stage1", outputs[0]))


def by_hook_of_a_parameter(net):
    net.stem.weight.register_hook(lambda grad: net.seen.__setitem__("stem", grad))


def by_attribute(net):
    layer = net.stem
    net.again = lambda x: layer(x)
    net.head_of = net.head.forward
    net.steps = (net.stage1, [net.stage2])


def by_own_forward(net):
    plain = net.forward

    def forward(x):
        net.seen["x"] = x
        return plain(x)

    net.forward = forward


def by_attribute_of_a_function(net):
    def store(module, args, output):
        store.owner.seen["stage1"] = output

    store.owner = net
    net.stage1.register_forward_hook(store)


class Slotted:
    """Holds a function in a slot."""

    __slots__ = ("__function",)

    def __init__(self, function):
        self.__function = function

    def __call__(self, *args):
        self.__function(*args)


def by_slot(net):
    net.stage1.register_forward_hook(Slotted(lambda module, args, output: net.seen.update(stage1=net.stage2(output))))


def by_queue(net):
    queue = deque([lambda output: net.seen.update(stage1=net.stage2(output))])
    net.stage1.register_forward_hook(lambda module, args, output: queue[0](output))


class Store:
    """Keeps what passes."""

    def __init__(self, owner):
        self.owner = owner

    def take(self, module, args, output):
        self.owner.seen["stage1"] = output

    __call__ = take


HELD = (
    *(by_lambda, by_outer_list, by_nested_function, by_default, by_keyword, by_partial, by_bound_method, by_object),
    *(by_wrapped_function, by_backward_hook, by_hook_of_a_parameter, by_attribute, by_own_forward),
    *(by_attribute_of_a_function, by_slot, by_queue),
)


def tensors(net):
    found = [*net.parameters(), *net.buffers(), *net.seen.values(), *getattr(net, "kept", [])]
    return {tensor.untyped_storage().data_ptr() for tensor in found}


@pytest.mark.parametrize(("hold", "ran"), [*((hold, True) for hold in HELD), (by_lambda, False), (by_attribute, False)])
def test_two_models_of_one_network_share_no_tensor_and_no_module(hold, ran):
    net = make()
    hold(net)
    if ran:  # what a hook has stored by then was computed, and torch copies no such tensor
        net(images()).sum().backward()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    models = [build_model(net, AT, **SHAPE, seed=1) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    seen, kept = dict(net.seen), list(getattr(net, "kept", []))
    for model, optimizer in zip(models, optimizers, strict=True):
        model(images()).square().sum().backward()
        optimizer.step()
    assert net.seen.keys() == seen.keys()
    assert all(net.seen[key] is seen[key] for key in seen)
    assert len(getattr(net, "kept", [])) == len(kept)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    nets = [net, models[0].backbone, models[1].backbone]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not tensors(nets[one]) & tensors(nets[other])
        assert not {*map(id, nets[one].modules())} & {*map(id, nets[other].modules())}
    stored = [*models[0].backbone.seen.values(), *getattr(models[0].backbone, "kept", [])]
    assert stored or hold is by_attribute  # the hooks of a model work on what passes it


def test_a_function_of_a_copy_runs_the_copy_s_layers():
    net = make()
    by_attribute(net)
    copied = independent_copy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(copied.again(images()), copied.stem(images()))
    assert copied.head_of(torch.ones(1, 16)).abs().sum() > 0
    assert copied.steps == (copied.stage1, [copied.stage2])
    assert copied.again.__name__ == "<lambda>"


def test_functions_that_hold_nothing_stay_the_same_objects():
    net = make()
    net.activation = torch.nn.functional.relu
    assert independent_copy(net).activation is torch.nn.functional.relu


MAPS = {}


def test_a_global_that_collects_maps_stays_the_user_s():
    net = make()
    net.stage1.register_forward_hook(lambda module, args, output: MAPS.__setitem__("stage1", output))
    models = [build_model(net, AT, **SHAPE) for _ in range(2)]
    for model in models:
        MAPS.clear()
        model(images())
        assert MAPS["stage1"].shape == (2, 8, 8, 8)
    MAPS.clear()


def by_weak_reference(net):
    net.stage1.parent = weakref.ref(net)


def by_weak_proxy(net):
    net.stage1.parent = weakref.proxy(net)


GLOBAL = {}


def by_global(net):
    GLOBAL["net"] = net
    net.stage1.register_forward_hook(lambda module, args, output: GLOBAL["net"].seen.update(x=output))


def by_cache(net):
    net.cached = functools.lru_cache(lambda: net.stem)


def by_method_of_a_dict(net):
    net.pick = {"stem": net.stem}.get


class Same(nn.Module):
    """Is its own copy."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def __deepcopy__(self, memo):
        return self


def by_own_copy(net):
    net.part = Same()


@pytest.mark.parametrize(
    ("hold", "name"),
    [
        (by_weak_reference, "stage1.parent"),
        (by_global, "stage1._forward_hooks"),
        (by_cache, "cached"),
        (by_method_of_a_dict, "pick"),
        (by_own_copy, "part"),
    ],
)
def test_what_a_copy_cannot_follow_is_refused_by_its_name(hold, name):
    net = make()
    hold(net)
    with pytest.raises(SpaceError, match=rf"^'{name}[\w.]*' of the network refers to a part of the network in a way "):
        build_model(net, AT, **SHAPE)
    GLOBAL.clear()


class Doubled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, weight):
        return self.scale() * weight


def by_weight_norm(net):
    weight_norm(net.stem)


def by_new_weight_norm(net):
    parametrizations.weight_norm(net.stem)


def by_spectral_norm(net):
    nn.utils.spectral_norm(net.stem)


def by_pruning(net):
    prune.l1_unstructured(net.stem, "weight", amount=0.3)


def by_parametrization_with_a_lambda(net):
    parametrize.register_parametrization(net.stem, "weight", Doubled(lambda: net.head.bias.sum() + 2))


def by_loss(net):
    net.last = net(images()).sum()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [by_weight_norm, by_new_weight_norm, by_spectral_norm, by_pruning, by_parametrization_with_a_lambda, by_loss],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("ran", [True, False])
def test_networks_with_computed_weights_are_copied_and_their_weights_computed_again(change, ran):
    net = make()
    change(net)
    if ran:
        net(images()).sum().backward()
        net.zero_grad()
    models = [build_model(net, AT, **SHAPE, seed=1) for _ in range(2)]
    for model in models:
        model(images()).square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.backbone.stem.parameters())
    assert measure(models[0], (2, 1, 8, 8), seconds=0.01).latency_ms > 0
    plain, copied = copy.deepcopy(net) if not ran and change is by_new_weight_norm else net, independent_copy(net)
    assert torch.equal(copied.eval()(images()), plain.eval()(images()))
    stored = {name for name, _ in net.stem.named_parameters()}
    assert {name for name, _ in models[0].backbone.stem.named_parameters()} == stored


def test_a_function_that_returns_one_network_again_is_refused():
    net = make()
    assert build_model(lambda: net, Placement(), **SHAPE)
    with pytest.raises(SpaceError, match=r"must return a new network in every call, but '0\.stem\.weight' is of"):
        build_model(lambda: nn.Sequential(net), Placement(), **SHAPE)


def shared_class():
    layer = nn.Conv2d(1, 8, 3, padding=1)

    class Reading(ResidualCNN):
        def forward(self, x):
            return super().forward(x) + layer(x).mean()

    return Reading()


def test_a_class_that_reads_a_module_from_outside_is_refused():
    with pytest.raises(SpaceError, match=r"^'Reading\.forward' uses a Conv2d from outside the network, which all"):
        build_model(shared_class(), Placement(), **SHAPE)


def prepared():
    net = ResidualCNN().train()
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    return torch.ao.quantization.prepare_qat(net)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_networks_of_quantisation_are_refused_in_a_sentence():
    net = prepared()
    with pytest.raises(
        SpaceError, match=r"'stem' of the network is prepared for quantisation \(Conv2d\), which would "
    ):
        build_model(net, Placement(), **SHAPE)
    net(images())
    with pytest.raises(SpaceError, match=r"quantised \(|prepared for"):
        build_model(torch.ao.quantization.convert(net.eval()), Placement(), **SHAPE)


class Adding(nn.Module):
    """Adds by the functional module of torch's networks that are made ready for quantisation, in float."""

    def __init__(self):
        super().__init__()
        self.conv, self.add = nn.Conv2d(8, 8, 3, padding=1), torch.ao.nn.quantized.FloatFunctional()

    def forward(self, x):
        return self.add.add(self.conv(x), x)


def test_a_float_network_with_functional_modules_is_no_quantised_one():
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Adding(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    names = [site.name for site in survey(net, Shape(**SHAPE)).table.sites]
    assert "1.branch" in names
