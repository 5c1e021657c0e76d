"""Any classifier whose last layer is an nn.Linear becomes a model; what cannot is told why."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from acslib._torchvision import torchvision
from acslib.attacks import PGD
from acslib.folding import foldable
from acslib.models import Adapted, adapt, build
from acslib.objectives import AdversarialTraining
from acslib.passes import attacker, penultimate

CLASSES = 5


def images(size, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, channels, size, size, generator=generator, dtype=torch.float64)


class OwnNet(nn.Module):
    """Defined in another order than used, with relu and pooling as functions."""

    def __init__(self, *after):
        super().__init__()
        self.last = nn.Linear(6, CLASSES)
        self.first = nn.Conv2d(3, 8, 3)
        self.middle = nn.Linear(8, 6)
        self.after = nn.Sequential(*after)

    def body(self, x):
        return relu(self.middle(relu(self.first(x)).mean((2, 3))))

    def forward(self, x):
        return self.after(self.last(self.body(x)))


def sequential(*end, bias=True):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *end,
        nn.Linear(6, CLASSES, bias=bias),
    )  # fmt: skip


def vit():
    net = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=CLASSES,
    )  # fmt: skip
    nn.init.normal_(net.heads.head.weight)  # its zeros would make every gradient 0
    return net


def vgg11():
    """With a narrower classifier than the one of 120 million weights."""
    net = torchvision.models.vgg11(num_classes=CLASSES, init_weights=False)
    net.classifier[0], net.classifier[3] = nn.Linear(512 * 7 * 7, 8), nn.Linear(8, 8)
    net.classifier[6] = nn.Linear(8, CLASSES)
    return net


def densenet():
    return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=CLASSES)


def convnext():
    blocks = [torchvision.models.convnext.CNBlockConfig(8, 16, 1)]
    blocks.append(torchvision.models.convnext.CNBlockConfig(16, None, 1))
    return torchvision.models.ConvNeXt(blocks, num_classes=CLASSES)


def torchvisions(name, **options):
    return lambda: getattr(torchvision.models, name)(num_classes=CLASSES, **options)


NETWORKS = {  # what makes it, its last layer, the side of its images
    "resnet18": (torchvisions("resnet18"), "fc", 32),
    "vgg11": (vgg11, "classifier.6", 32),
    "mobilenet_v3_small": (torchvisions("mobilenet_v3_small"), "classifier.3", 32),
    "vit": (vit, "heads.head", 32),
    "densenet": (densenet, "classifier", 32),
    "googlenet": (torchvisions("googlenet", aux_logits=False, init_weights=False), "fc", 32),
    "shufflenet": (torchvisions("shufflenet_v2_x0_5"), "fc", 32),
    "convnext": (convnext, "classifier.2", 32),
    "sequential": (sequential, "4", 16),
    "dropout before": (lambda: sequential(nn.Dropout()), "5", 16),
    "without bias": (lambda: sequential(bias=False), "4", 16),
    "one's own": (OwnNet, "last", 16),
    "Linear only": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)), "1", 8),
}


def network(name):
    make, head, size = NETWORKS[name]
    torch.manual_seed(0)
    return make().double().eval(), head, images(size)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_computes_what_its_network_does(name):
    net, head, x = network(name)
    model = adapt(net)
    assert model.head is net.get_submodule(head)
    with torch.no_grad():
        wanted = net(x)
        assert torch.equal(model(x), wanted)
        features, logits = penultimate(model, x)
        assert features.shape == (4, model.head.in_features)
        torch.testing.assert_close(logits, wanted)
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step_and_its_last_layer_gradients_are_autograds(name):
    """AdversarialTraining's loss moves every weight; its gradients are those of each sample's."""
    net, _, x = network(name)
    model, labels = adapt(net, mean=(0.5,) * 3, std=(0.25,) * 3), torch.arange(4)
    objective = AdversarialTraining(PGD("linf", 0.05, 0.02, 2, random_start=False))
    with attacker(model, "eval", "float32") as attacked:
        adversarial = objective.perturb(attacked, x, labels)
        gradients = objective.gradients(attacked, x, labels, adversarial)
    assert 0 < (adversarial - x).abs().max() <= 0.05 + 1e-9
    for i in range(4):
        loss = cross_entropy(net((adversarial[i : i + 1] - 0.5) / 0.25), labels[i : i + 1])
        wanted = torch.autograd.grad(loss, list(model.head.parameters()))
        torch.testing.assert_close(
            gradients.errors[i, :, None] * gradients.features[i], wanted[0], rtol=1e-6, atol=1e-10
        )
        if model.head.bias is not None:
            torch.testing.assert_close(gradients.errors[i], wanted[1], rtol=1e-6, atol=1e-10)
    before = copy.deepcopy(net.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    objective.loss(model.train(), x, labels, adversarial).mean().backward()
    optimiser.step()
    moved = [not torch.equal(before[name], value) for name, value in net.named_parameters()]
    assert all(moved), "the network trained is the one given"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "shufflenet"])
def test_torchvisions_pairs_are_all_folded(name):
    net, _, x = network(name)
    model = adapt(net)
    model.train()(x)
    pairs = sum(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    assert len(foldable(model)) == pairs > 0
    with torch.no_grad():
        wanted = model.eval()(x)
        with attacker(model.train(), "eval", "float32") as attacked:
            torch.testing.assert_close(attacked(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_and_state_dicts(name):
    net, head, x = network(name)
    model = adapt(net, mean=(0.4,) * 3, std=(0.2,) * 3).eval()
    wanted = model(x)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), wanted)
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}
    names = {f"net.{key}" for key in net.state_dict() if not key.startswith(f"{head}.")}
    own = {"mean", "std", "head.weight"} | ({"head.bias"} if model.head.bias is not None else set())
    assert set(model.state_dict()) == names | own
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    copied.load_state_dict(model.state_dict())
    assert torch.equal(copied(x), model(x))
    assert not torch.equal(model(x), wanted)


def test_the_network_given_stays_as_it_was():
    net = torchvisions("resnet18")().train()
    net.layer1.eval()
    before = [(name, id(part), part.training) for name, part in net.named_modules()]
    state, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    adapt(net)
    assert [(name, id(part), part.training) for name, part in net.named_modules()] == before
    torch.testing.assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert isinstance(net.fc, nn.Linear)


def test_normalisation_is_put_inside():
    net, x = sequential().double(), images(16)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    outside = torchvision.transforms.Normalize(mean, std)(x)
    torch.testing.assert_close(adapt(net, mean=mean, std=std)(x), net(outside))
    with pytest.raises(ValueError, match="mean has 2 numbers, the network takes images of 3 chan"):
        adapt(net, mean=(0.5, 0.5), std=(1.0, 1.0))
    for wrong in ({"mean": mean}, {"std": std}, {"mean": mean, "std": (1.0, 0.0, 1.0)}):
        with pytest.raises(ValueError, match="mean is .* and std is .*: give one number a channel"):
            adapt(net, **wrong)


@pytest.mark.parametrize("by", ["name", "module"])
def test_the_head_may_be_given(by):
    net = OwnNet()
    assert adapt(net, "last" if by == "name" else net.last).head is net.last
    with pytest.raises(ValueError, match="layer 'middle'"):
        adapt(net, "middle" if by == "name" else net.middle)


def test_a_model_may_be_adapted_again():
    net = torchvision.models.mobilenet_v3_small(num_classes=CLASSES).eval()
    once = adapt(net, mean=[0.5] * 3, std=[0.25] * 3)
    twice = adapt(once, mean=[0.5], std=[0.5])
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(once(images), net((images - 0.5) / 0.25))
        assert torch.equal(twice(images), once((images - 0.5) / 0.5))
    assert twice.head is once.head
    with pytest.raises(ValueError, match="ResNet is a model already: use it as it is"):
        adapt(build("resnet18", channels=3, width=4, depths=(1, 1)))


def test_normalisation_is_one_number_a_channel():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ValueError, match=r"mean is 0.5: give one number a channel, like \[0.5\]"):
        adapt(net, mean=0.5, std=0.5)


def test_a_size_that_is_not_guessed_is_no_hindrance():
    """Images of 20 pixels: the head is the Linear defined last, looked at in the first pass."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(648, 6), nn.Linear(6, CLASSES))
    assert adapt(net)(images(20).float()).shape == (4, CLASSES)

    class Odd(OwnNet):
        def body(self, x):
            if x.shape[-1] != 20:
                raise RuntimeError("20 pixels, please")
            return super().body(x)

    with pytest.raises(ValueError, match=r"Odd fails without its layer 'middle'.*head=\.\.\."):
        adapt(Odd())(images(20).float())
    assert adapt(Odd(), "last")(images(20).float()).shape == (4, CLASSES)


class Tuple(OwnNet):
    def forward(self, x):
        return super().forward(x), x


class ThreeDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.last(self.conv(x).flatten(2).transpose(1, 2))


class Twice(OwnNet):
    def forward(self, x):
        return self.last(self.body(x)) + self.last(self.body(x.flip(-1)))


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x).tanh()


class Weights(OwnNet):
    """The layer itself is never called."""

    def forward(self, x):
        return nn.functional.linear(self.body(x), self.last.weight)


NOT_THE_OUTPUT = "is not just the output of its layer"


class Doubling(nn.Module):
    def forward(self, logits):
        logits *= 2
        return logits


REFUSED = {
    "softmax after it": (lambda: OwnNet(nn.Softmax(1)), NOT_THE_OUTPUT),
    "dropout after it": (lambda: OwnNet(nn.Dropout()), f"in training mode {NOT_THE_OUTPUT}"),
    "BatchNorm after it": (
        lambda: OwnNet(nn.BatchNorm1d(CLASSES)),
        "fails without its layer 'last'",
    ),
    "scaled in place after it": (lambda: OwnNet(Doubling()), NOT_THE_OUTPUT),
    "ReLU in its place": (lambda: OwnNet(nn.ReLU(inplace=True)), NOT_THE_OUTPUT),
    "dropout in its place": (
        lambda: OwnNet(nn.Dropout(inplace=True)),
        f"in training mode {NOT_THE_OUTPUT}",
    ),
    "two outputs": (Tuple, NOT_THE_OUTPUT),
    "outputs in training": (
        torchvisions("googlenet", init_weights=False),
        f"GoogLeNet returns in training mode {NOT_THE_OUTPUT} 'fc'",
    ),
    "used twice": (Twice, NOT_THE_OUTPUT),
    "its weights alone": (
        Weights,
        "fails without its layer 'middle', which was taken for its last",
    ),
    "features of several rows": (
        ThreeDimensional,
        r"of shape \(2, 900, 6\): they must be \(n, D\)",
    ),
    "no Linear": (torchvisions("squeezenet1_0"), "SqueezeNet has no nn.Linear"),
    "another Linear": (
        lambda: nn.Sequential(nn.Flatten(), OwnLinear(192, 2)),
        "head '1' is a OwnLinear: the last layer must be an nn.Linear",
    ),
    "no weights": (lambda: nn.Flatten(), "Flatten has no weights"),
    "no network": (lambda: relu, "give a torch.nn.Module"),
    "DataParallel": (
        lambda: nn.DataParallel(OwnNet()),
        "in a DataParallel: unwrap it, give net.mod",
    ),
    "DataParallel inside": (
        lambda: nn.Sequential(nn.Identity(), nn.DataParallel(OwnNet())),
        "in a DataParallel: unwrap it",
    ),
    "compiled": (lambda: torch.compile(OwnNet(), backend="eager"), "compiled: give the network"),
    "lazy": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
        "pass a batch through it first",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_adapted_is_told_why(name):
    make, message = REFUSED[name]
    net = make()
    with pytest.raises(ValueError, match=message):
        adapt(net)
    with pytest.raises(ValueError, match=message), torch.inference_mode():
        adapt(net)


def test_a_head_that_is_not_there_or_not_linear_is_named():
    with pytest.raises(ValueError, match="head is 'fc'.*OwnNet.*layers are: last, middle"):
        adapt(OwnNet(), "fc")
    with pytest.raises(ValueError, match="head is Linear.*no part of OwnNet"):
        adapt(OwnNet(), nn.Linear(6, 5))
    with pytest.raises(ValueError, match="head 'first' is a Conv2d"):
        adapt(OwnNet(), "first")


def test_a_head_known_by_two_names():
    class Known(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, CLASSES)
            self.steps = sequential()
            self.steps[-1] = self.head

        def forward(self, x):
            return self.steps(x)

    net, x = Known(), images(16).float()
    model = adapt(net)
    assert torch.equal(model(x), net(x))
    assert model.head is net.head


def test_a_head_tied_to_another_layer_stays_tied():
    class Tied(OwnNet):
        def __init__(self):
            super().__init__()
            self.names = nn.Embedding(CLASSES, 6)
            self.last.weight = self.names.weight

        def body(self, x):
            return super().body(x) + self.names.weight.mean(0)

    torch.manual_seed(0)
    net, x = Tied().double(), images(16)
    for model in (adapt(net), copy.deepcopy(adapt(net))):
        assert isinstance(model, Adapted)
        assert model.head.weight is model.net.names.weight
        assert sum(p is model.head.weight for p in model.parameters()) == 1
        assert torch.equal(model(x), net(x))
        with attacker(model, "eval", "float32") as attacked:
            torch.testing.assert_close(attacked(x), net(x))


def test_a_part_that_does_not_train_and_a_mode():
    net = sequential(nn.Dropout(0.5)).train()
    net[0].requires_grad_(False)
    model = adapt(net)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert model.training
    assert not torch.equal(model(x := images(16).float()), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
