"""The features behind a generator's image: found by ancestry, kept per call, invisible in copies."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from roi_progressive.training.features import FeatureCapture


class OutOfOrder(nn.Module):
    """Registers its last layer first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 1, 1)
        self.first = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.last(self.first(x).relu()))


class SkipToOutput(nn.Module):
    """Adds its source to what its convolutions make, and runs a side branch that leads nowhere, last of all."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
        self.side = nn.Conv2d(1, 2, 1)
        self.seen = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        image = torch.clamp(x + self.body(x), -1, 1)
        self.seen = self.side(image).mean()
        return image


def _plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 1, 3, padding=1), nn.Tanh())


def _transposed() -> nn.Module:
    layers = [nn.Conv2d(1, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers)


def _padded() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReflectionPad2d(3), nn.Conv2d(4, 1, 7), nn.Tanh())


GENERATORS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "convolution last": (_plain, "2", (2, 5, 8, 8)),
    "transposed convolution last": (_transposed, "2", (2, 6, 4, 4)),
    "padded convolution last": (_padded, "2", (2, 4, 14, 14)),
    "registered out of order": (OutOfOrder, "last", (2, 3, 8, 8)),
    "skip to the output": (SkipToOutput, "body.2", (2, 4, 8, 8)),
}


@pytest.fixture(params=GENERATORS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, str, tuple[int, ...]]:
    torch.manual_seed(0)
    make, layer, shape = GENERATORS[request.param]
    return make(), layer, shape


def test_the_layer_is_the_last_convolution_that_the_image_comes_from(
    case: tuple[nn.Module, str, tuple[int, ...]],
) -> None:
    generator, layer, shape = case
    capture = FeatureCapture(generator)
    capture.recording = True
    output = generator(torch.randn(2, 1, 8, 8))
    assert capture.layer is dict(generator.named_modules())[layer]
    features = capture.features_of(output)
    assert features is not None and features.shape == shape
    again = capture.layer(features) if isinstance(generator, nn.Sequential) else None
    if again is not None:
        assert torch.equal(torch.tanh(again), output), "these very features made the image"


def test_the_generator_is_what_it_was(case: tuple[nn.Module, str, tuple[int, ...]]) -> None:
    generator, _, _ = case
    x = torch.randn(2, 1, 8, 8)
    plain, kind, keys = generator(x), type(generator), list(generator.state_dict())
    capture = FeatureCapture(generator)
    capture.recording = True
    assert torch.equal(generator(x), plain)
    assert type(generator) is kind
    assert list(generator.state_dict()) == keys
    capture.remove()
    assert all(not module._forward_hooks for module in generator.modules())


def test_every_call_of_a_step_keeps_its_own_features() -> None:
    generator = _plain()
    capture = FeatureCapture(generator)
    capture.recording = True
    sources = [torch.randn(1, 1, 8, 8) for _ in range(3)]
    outputs = [generator(source) for source in sources]
    for source, output in zip(sources, outputs, strict=True):
        features = capture.features_of(output)
        assert features is not None
        assert torch.equal(features, generator[1](generator[0](source)))
    assert capture.features_of(outputs[0].clone()) is None
    capture.clear()
    assert capture.features_of(outputs[0]) is None


def test_only_calls_with_gradients_while_recording_count() -> None:
    generator = _plain()
    capture = FeatureCapture(generator)
    x = torch.randn(1, 1, 8, 8)
    assert capture.features_of(generator(x)) is None
    capture.recording = True
    with torch.no_grad():
        assert capture.features_of(generator(x)) is None
    assert capture.layer is None
    known = generator(x)
    with torch.no_grad():
        assert capture.features_of(generator(x)) is None
        with capture.listening():
            looked_at = generator(x)
            assert capture.features_of(looked_at) is not None
            assert capture.features_of(known) is None
    assert capture.features_of(looked_at) is None
    assert capture.features_of(known) is not None


def test_a_net_without_convolution_has_no_features() -> None:
    generator = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Unflatten(1, (1, 4, 4)))
    capture = FeatureCapture(generator)
    capture.recording = True
    assert capture.features_of(generator(torch.randn(2, 1, 4, 4))) is None
    assert capture.layer_is_known, "there is nothing to look for"


def test_a_step_that_never_ends_does_not_pile_up_graphs() -> None:
    generator = _plain()
    capture = FeatureCapture(generator)
    capture.recording = True
    seen = []
    for _ in range(4):
        output = generator(torch.randn(1, 1, 8, 8))
        features = capture.features_of(output)
        assert features is not None
        seen.append(weakref.ref(features))
        del features
    gc.collect()
    # The step at hand, and at most the one whose image was still held when it began.
    assert [feature() is None for feature in seen] == [True, True, False, False]
    assert capture.features_of(output) is seen[-1]()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_of_a_hooked_generator_do_not_reach_the_capture(copier: Callable[[nn.Module], nn.Module]) -> None:
    generator = _plain()
    capture = FeatureCapture(generator)
    capture.recording = True
    x = torch.randn(1, 1, 8, 8)
    for _ in range(2):  # before and after the layer was found
        twin = copier(generator)
        before = list(capture._calls)
        output = twin(x)
        assert capture._calls == before
        assert capture.features_of(output) is None
        assert torch.equal(output, generator(x))
        hooks = [hook for module in twin.modules() for hook in module._forward_hooks.values()]
        assert all("roi_progressive" not in type(hook).__module__ for hook in hooks)


def test_a_saved_generator_loads_where_this_package_is_not_installed(tmp_path: Path) -> None:
    generator = _plain()
    capture = FeatureCapture(generator)
    capture.recording = True
    x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    expected = generator(x).sum().item()
    torch.save(generator, tmp_path / "net.pt")
    script = (
        "import sys\n"
        "sys.modules['roi_progressive'] = None\n"  # every import of it fails
        "import torch\n"
        f"net = torch.load({str(tmp_path / 'net.pt')!r}, weights_only=False)\n"
        "x = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)\n"
        "print(net(x).sum().item())\n"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True).stdout
    assert float(printed) == pytest.approx(expected, rel=1e-5)


def test_the_capture_does_not_ride_along_in_a_saved_generator() -> None:
    generator = _plain()
    plain = io.BytesIO()
    pickle.dump(generator, plain)
    capture = FeatureCapture(generator)
    capture.recording = True
    kept = generator(torch.randn(4, 1, 64, 64))
    assert capture.features_of(kept) is not None
    hooked = io.BytesIO()
    pickle.dump(generator, hooked)
    assert len(hooked.getvalue()) < len(plain.getvalue()) + 500


def test_a_failed_forward_does_not_mix_its_features_into_the_next() -> None:
    class Fails(nn.Module):
        fail = False

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise ZeroDivisionError
            return x

    end = Fails()
    generator = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1), end)
    capture = FeatureCapture(generator)
    capture.recording = True
    end.fail = True
    with pytest.raises(ZeroDivisionError):
        generator(torch.full((1, 1, 2, 2), 5.0))
    end.fail = False
    x = torch.ones(1, 1, 2, 2)
    output = generator(x)
    features = capture.features_of(output)
    assert features is not None
    assert torch.equal(features, generator[0](x))


@pytest.mark.parametrize("make", [make for make, _, _ in GENERATORS.values()], ids=list(GENERATORS))
def test_features_that_were_read_live_no_longer_than_the_hosts_graph(make: Callable[[], nn.Module]) -> None:
    generator = make()
    capture = FeatureCapture(generator)
    capture.recording = True
    output, other = generator(torch.rand(1, 1, 8, 8)), generator(torch.rand(1, 1, 8, 8))
    kept = capture.features_of(output)
    assert kept is not None
    values = kept.detach().clone()
    capture.let_go(output)
    del kept
    gc.collect()
    found = capture.features_of(output)  # a second term of the same step finds them
    assert found is not None and torch.equal(found, values)
    del found
    output.sum().backward()
    gc.collect()
    assert capture.features_of(output) is None
    assert capture.features_of(other) is not None
