"""The junyanz dialect: what the adapter recognises, reads, patches, saves, and leaves alone."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from roi_progressive import Config, attach
from roi_progressive.adapters.junyanz import NEEDED, CycleGANAdapter, roi_adapter
from roi_progressive.host import CycleGANModel, UnalignedDataset
from roi_progressive.method.regions import RegionMask


def _adapter(model: Any) -> CycleGANAdapter:
    return CycleGANAdapter(model, Config())


def test_a_model_is_known_by_what_it_has_not_by_its_class(build_host: Any) -> None:
    model, _ = build_host()
    assert isinstance(roi_adapter(model, Config()), CycleGANAdapter)
    needed = [*NEEDED, "save_networks"]
    lookalike = SimpleNamespace(**{name: object() for name in needed})
    assert isinstance(roi_adapter(lookalike, Config()), CycleGANAdapter)
    older = SimpleNamespace(**{name: object() for name in [*NEEDED, "save"]})
    assert isinstance(roi_adapter(older, Config()), CycleGANAdapter)
    for name in needed:
        incomplete = SimpleNamespace(**{other: object() for other in needed if other != name})
        assert roi_adapter(incomplete, Config()) is None


def test_translations_are_the_models_own_tensors_and_the_masks_of_their_source(build_host: Any) -> None:
    model, loader = build_host()
    model.set_input(next(iter(loader)))
    model.forward()
    a, b = (RegionMask.from_tensor(torch.full((2, 1, 32, 32), value)) for value in (0.0, 1.0))
    there, back = _adapter(model).translations({"A": {"tumor": a}, "B": {"tumor": b}})
    assert (there.direction, back.direction) == ("A2B", "B2A")
    assert there.source is model.real_A and there.fake is model.fake_B and there.real is model.real_B
    assert back.source is model.real_B and back.fake is model.fake_A and back.real is model.real_A
    assert there.reconstruction is model.rec_A and back.reconstruction is model.rec_B
    assert there.masks["tumor"] is a and there.real_masks["tumor"] is b
    assert back.masks["tumor"] is b and back.real_masks["tumor"] is a
    assert not there.paired and not back.paired
    model.opt.direction = "BtoA"
    there, back = _adapter(model).translations({"A": {"tumor": a}, "B": {"tumor": b}})
    assert there.masks["tumor"] is b and back.masks["tumor"] is a


def test_the_generators_are_the_attributes_of_the_moment(build_host: Any) -> None:
    model, _ = build_host()
    adapter = _adapter(model)
    model.netG_A = wrapped = nn.DataParallel(model.netG_A)
    assert adapter.generators() == {"A2B": wrapped, "B2A": model.netG_B}


def test_training_through_dataparallel_wrappers_is_training(
    build_host: Any, tumor_config: Any, train: Any, state_of: Any, differing: Any
) -> None:
    from roi_progressive import GGDConfig

    states = []
    for wrap in (False, True):
        model, loader = build_host(netG="resnet")
        bare = (model.netG_A, model.netG_B)
        if wrap:
            for name in ("netG_A", "netG_B"):
                wrapped = nn.DataParallel(getattr(model, name))
                wrapped.device_ids = []  # as on a machine without GPUs
                setattr(model, name, wrapped)
        with attach(model, loader, tumor_config(ggd=GGDConfig(hidden_channels=4))) as session:
            train(model, loader, session, range(1, 2))
            states.append([[net.state_dict() for net in bare], session.state_dict()["guidance"]])
    assert differing(*states) == []


def test_rates_and_betas_are_those_of_the_optimizers(build_host: Any) -> None:
    model, _ = build_host(lr=0.003, beta1=0.4)
    adapter = _adapter(model)
    assert adapter.learning_rates() == {"generator": 0.003, "discriminator": 0.003}
    assert adapter.betas() == (0.4, 0.999)
    model.optimizer_G.param_groups[0]["lr"] = 0.001
    assert adapter.learning_rates() == {"generator": 0.001, "discriminator": 0.003}


def test_the_length_of_the_run_is_both_parts(build_host: Any) -> None:
    model, _ = build_host(n_epochs=3, n_epochs_decay=4)
    assert _adapter(model).n_epochs() == 7
    model.opt = SimpleNamespace(direction="AtoB")
    assert _adapter(model).n_epochs() is None
    model.isTrain = False
    assert _adapter(model).n_epochs() == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, None),
        ({"continue_train": True}, "latest_roi_progressive.pth"),
        ({"continue_train": True, "epoch": "7"}, "7_roi_progressive.pth"),
        ({"continue_train": True, "load_iter": 40}, "iter_40_roi_progressive.pth"),
        ({"isTrain": False, "epoch": "7"}, "7_roi_progressive.pth"),
    ],
)
def test_our_file_is_sought_beside_the_hosts(changes: dict[str, Any], name: str | None, host_options: Any) -> None:
    model = CycleGANModel(host_options(**changes))
    expected = None if name is None else Path(model.save_dir) / name
    assert _adapter(model).resume_file() == expected


def test_a_model_that_does_not_train_is_not_patched(host_options: Any) -> None:
    model = CycleGANModel(host_options(isTrain=False))
    before = set(vars(model))
    with attach(model, None, Config(regions=(), ggd=None, resume="fresh")):
        assert {name for name in vars(model) if not name.startswith("_roi")} == before
    assert set(vars(model)) == before


def test_patched_methods_keep_name_arguments_and_result(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host()
    with attach(model, loader, tumor_config()) as session:
        session.start_epoch(1)
        for name in ("set_input", "forward", "optimize_parameters", "save_networks"):
            patched = vars(model)[name]
            assert patched.__name__ == name
            assert inspect.getdoc(patched) == inspect.getdoc(getattr(CycleGANModel, name))
        model.set_input(next(iter(loader)))
        assert model.optimize_parameters() is None
        model.save_networks(epoch="latest")
        assert (Path(model.save_dir) / "latest_roi_progressive.pth").is_file()


def test_forwards_outside_a_step_and_without_gradients_count_for_nothing(
    build_host: Any, tumor_config: Any, train: Any, state_of: Any, differing: Any
) -> None:
    states = []
    for extra in (False, True):
        model, loader = build_host()
        with attach(model, loader, tumor_config()) as session:
            session.start_epoch(1)
            for batch in list(loader):
                model.set_input(batch)
                if extra:
                    model.forward()
                    model.test()
                model.optimize_parameters()
            states.append([state_of(model), session.state_dict()["guidance"]])
    assert differing(*states) == []


# --- data sets --------------------------------------------------------------------------------------------------------


class _Fork(UnalignedDataset):
    """A fork's data set: the method that opens images is its parent's, in another module."""


def test_the_data_set_is_described_by_its_paths_and_the_modules_that_open_them(
    build_host: Any, host_options: Any
) -> None:
    model, loader = build_host()
    for given in (loader, loader.dataloader):
        layout = _adapter(model).dataset_layout(given)
        assert layout is not None and layout.loader is loader.dataloader
        assert layout.image_modules == ("roi_progressive.host.dataset",)
        assert layout.domains == ("A", "B")
        assert layout.paths == (*loader.dataset.A_paths, *loader.dataset.B_paths)
    fork = _adapter(model).dataset_layout(torch.utils.data.DataLoader(_Fork(host_options())))
    assert fork is not None and "roi_progressive.host.dataset" in fork.image_modules


@pytest.mark.parametrize("given", [[], object(), torch.utils.data.DataLoader([1, 2, 3])])
def test_anything_else_is_no_data_set_of_this_dialect(given: Any, build_host: Any) -> None:
    model, _ = build_host()
    assert _adapter(model).dataset_layout(given) is None


# --- the host's own state ---------------------------------------------------------------------------------------------


def test_moments_and_pools_are_restored_rates_are_not(build_host: Any, train: Any, copied: Any, differing: Any) -> None:
    model, loader = build_host(n_epochs=1, n_epochs_decay=3)
    train(model, loader, None, range(1, 2))
    adapter = _adapter(model)
    state = copied(adapter.host_state())
    assert [len(images) for images in state["pools"].values()] == [2, 2]
    train(model, loader, None, range(2, 4))
    rates = adapter.learning_rates()
    assert differing(state, adapter.host_state())
    adapter.load_host_state(state)
    assert differing(state, adapter.host_state()) == []
    assert adapter.learning_rates() == rates


def test_a_host_without_pools_has_none_to_save(build_host: Any, train: Any) -> None:
    model, loader = build_host(pool_size=0)
    train(model, loader, None, range(1, 2))
    adapter = _adapter(model)
    state = adapter.host_state()
    assert state["pools"] == {"fake_A_pool": [], "fake_B_pool": []}
    adapter.load_host_state(state)


def test_a_model_that_does_not_train_has_no_state_to_save_or_load(host_options: Any) -> None:
    adapter = _adapter(CycleGANModel(host_options(isTrain=False)))
    assert adapter.host_state() == {}
    adapter.load_host_state({"moments": [1], "pools": {}})
