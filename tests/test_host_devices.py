"""The bundled host on other devices and in other precisions, alone and under guidance; and its loader's workers."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from roi_progressive import Config, attach
from roi_progressive.host import CycleGANModel, HostOptions, ImageLoader, create_dataset, create_model
from roi_progressive.host import dataset as dataset_module
from roi_progressive.host import model as model_module

pytestmark = pytest.mark.usefixtures("one_thread")
BuildHost = Callable[..., tuple[CycleGANModel, ImageLoader]]


def after_one_step(build_host: BuildHost, config: Config | None = None, **changes: Any) -> CycleGANModel:
    """A host whose generators hold the gradients of a step, under ``config`` where one is given.

    Ten steps that move nothing: a scaler begins with a factor at which half precision overflows, and lowers it.
    """
    model, loader = build_host(**{"lr": 0.0, "pool_size": 0, **changes})
    guided = nullcontext() if config is None else attach(model, loader, config, n_epochs=2)
    with guided as session:
        if session is not None:
            session.start_epoch(1)
        batch = next(iter(loader))
        for _ in range(10):
            model.set_input(batch)
            model.optimize_parameters()
    return model


def gradients(model: CycleGANModel) -> torch.Tensor:
    parameters = [*model.netG_A.parameters(), *model.netG_B.parameters()]
    return torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_gradients_in_half_precision_point_where_those_in_single_do(
    precision: str, dtype: torch.dtype, build_host: BuildHost, tumor_config: Callable[..., Config]
) -> None:
    single = after_one_step(build_host, tumor_config())
    half = after_one_step(build_host, tumor_config(), precision=precision)
    assert half.fake_B.dtype is dtype and next(half.netG_A.parameters()).dtype is torch.float32
    assert torch.cosine_similarity(gradients(half), gradients(single), dim=0) > 0.95
    assert gradients(half).norm() == pytest.approx(float(gradients(single).norm()), rel=0.05)


def test_a_scaled_loss_gives_the_gradients_of_the_loss_itself(
    build_host: BuildHost, tumor_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip("this torch has no scaler for the CPU")
    plain = gradients(after_one_step(build_host, tumor_config()))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    monkeypatch.setattr(model_module, "grad_scaler", lambda device, precision: scaler)
    torch.testing.assert_close(gradients(after_one_step(build_host, tumor_config())), plain, rtol=1e-5, atol=1e-9)


def test_images_are_made_in_single_precision_whatever_trained_them(
    host_options: Callable[..., HostOptions],
) -> None:
    tested = host_options(precision="bf16", compile=True).for_test()
    assert (tested.precision, tested.compile) == ("fp32", False)


def test_a_named_device_counts_and_gpu_ids_do_not(
    host_options: Callable[..., HostOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def choose(name: str) -> torch.device:
        asked.append(name)
        return torch.device("meta")

    monkeypatch.setattr(model_module, "choose_device", choose)
    model = create_model(host_options(device="auto", gpu_ids=[7]))
    assert asked == ["auto"]
    networks = (model.netG_A, model.netG_B, model.netD_A, model.netD_B)
    assert {parameter.device.type for net in networks for parameter in net.parameters()} == {"meta"}


def test_a_step_on_a_device_reads_nothing_back(build_host: BuildHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device ``meta`` has shapes and no numbers: a step that asked for one would fail."""
    monkeypatch.setattr(model_module, "choose_device", lambda name: torch.device("meta"))
    model, loader = build_host(device="auto", lambda_identity=0.5, pool_size=0)
    for _ in range(2):
        model.set_input(next(iter(loader)))
        model.optimize_parameters()
    assert model.fake_B.device.type == model.loss_G.device.type == "meta"


def test_pinned_memory_is_for_cuda_alone(
    host_options: Callable[..., HostOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    for chosen, pinned in (("cpu", False), ("cuda", True)):
        monkeypatch.setattr(dataset_module, "choose_device", lambda name, chosen=chosen: torch.device(chosen))
        assert dataset_module.pins_memory(host_options(device="auto")) is pinned


def test_workers_that_live_on_draw_what_new_ones_would(host_options: Callable[..., HostOptions]) -> None:
    """Two epochs of one loader, and the second alone, by a loader whose workers are new, as after a resume."""

    def epochs(n: int, loader: ImageLoader) -> list[torch.Tensor]:
        return [torch.cat([batch["B"] for batch in loader]) for _ in range(n)]

    options = host_options(num_threads=2, no_flip=False)
    torch.manual_seed(5)
    random.seed(5)
    lived_on = create_dataset(options)
    (first,) = epochs(1, lived_on)
    stream = torch.get_rng_state()
    (second,) = epochs(1, lived_on)
    torch.set_rng_state(stream)
    (afresh,) = epochs(1, create_dataset(options))
    assert torch.equal(second, afresh)
    assert not torch.equal(first, second)


def test_compiled_networks_give_the_same_gradients_and_keep_their_names(
    build_host: BuildHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_in_place = torch.nn.Module.compile
    # The compiler behind it needs minutes; what it is given is what is tested.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_in_place(self, backend="eager"))
    plain = after_one_step(build_host)
    compiled = after_one_step(build_host, compile=True, force=True)
    torch.testing.assert_close(gradients(compiled), gradients(plain), rtol=1e-5, atol=1e-8)
    assert compiled.netG_A.state_dict().keys() == plain.netG_A.state_dict().keys()
