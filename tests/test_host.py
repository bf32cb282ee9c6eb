"""The bundled CycleGAN trainer: data, networks, steps, checkpoints, and that a seeded run repeats bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roi_progressive import host
from roi_progressive.errors import CheckpointError, ConfigError, DataError, ShapeError
from roi_progressive.host import CycleGANModel, GANLoss, HostOptions, ImagePool, create_dataset, create_model
from roi_progressive.host import dataset as dataset_module
from roi_progressive.host.networks import PatchGAN, ResnetGenerator

SIDE_PX = 32


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def _disc(rng: np.random.Generator, inside: int, outside: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    row, column, radius = rng.uniform(9, 23), rng.uniform(9, 23), rng.uniform(5, 8)
    return np.where((y - row) ** 2 + (x - column) ** 2 < radius**2, inside, outside)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs on dark ground (A, 6 images) and dark discs on bright ground (B, 4 images), unpaired."""
    folder, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for phase in ("train", "test"):
        for index in range(6):
            _write(folder / f"{phase}A" / f"a{index}.png", _disc(rng, 220, 40))
        for index in range(4):
            _write(folder / f"{phase}B" / f"b{index}.png", _disc(rng, 40, 220))
    return folder


@pytest.fixture
def options(root: Path, tmp_path: Path) -> Any:
    def make(**changes: Any) -> HostOptions:
        small = {"ngf": 4, "ndf": 4, "unet_depth": 2, "n_layers_D": 2, "n_blocks": 1, "batch_size": 2, "seed": 0}
        return HostOptions(**{"dataroot": str(root), "checkpoints_dir": str(tmp_path), **small, **changes})

    return make


def _ready(opt: HostOptions) -> tuple[CycleGANModel, host.ImageLoader]:
    loader, model = create_dataset(opt), create_model(opt)
    model.setup(opt)
    return model, loader


def _train(model: CycleGANModel, loader: host.ImageLoader, epochs: int) -> list[dict[str, float]]:
    losses = []
    for _ in range(epochs):
        for batch in loader:
            model.set_input(batch)
            model.optimize_parameters()
            losses.append(model.get_current_losses())
        model.update_learning_rate()
    return losses


def _states(model: CycleGANModel) -> dict[str, torch.Tensor]:
    nets = {name: getattr(model, f"net{name}") for name in model.model_names}
    return {f"{n}.{key}": value.clone() for n, net in nets.items() for key, value in net.state_dict().items()}


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


# --- data -------------------------------------------------------------------------------------------------------


def test_epoch_covers_the_larger_domain_once(options: Any) -> None:
    loader = create_dataset(options(batch_size=4))
    batches = list(loader)
    assert len(loader) == len(loader.dataset) == 6
    assert [len(batch["A"]) for batch in batches] == [4, 2]
    assert sorted(p for batch in batches for p in batch["A_paths"]) == loader.dataset.A_paths
    assert {p for batch in batches for p in batch["B_paths"]} <= set(loader.dataset.B_paths)


def test_grey_values_map_exactly_to_minus_one_to_one(tmp_path: Path) -> None:
    grey = np.arange(256).reshape(16, 16)
    for domain in "AB":
        _write(tmp_path / f"train{domain}" / "x.png", grey)
    item = create_dataset(HostOptions(str(tmp_path), no_flip=True)).dataset[0]
    assert item["A"].shape == (1, 16, 16) and item["A"].dtype == torch.float32
    assert (item["A"].min(), item["A"].max()) == (-1, 1)
    assert np.array_equal(((item["A"][0] + 1) * 127.5).round().numpy(), grey)


def test_serial_batches_take_b_at_the_index_of_a_and_start_anew(options: Any) -> None:
    data = create_dataset(options(serial_batches=True)).dataset
    names = [(Path(data[i]["A_paths"]).name, Path(data[i]["B_paths"]).name) for i in range(6)]
    assert names == [(f"a{i}.png", f"b{i % 4}.png") for i in range(6)]


def test_random_b_comes_from_python_random_alone(options: Any) -> None:
    data = create_dataset(options(no_flip=True)).dataset
    torch_state = torch.get_rng_state()
    random.seed(3)
    drawn = [data[0]["B_paths"] for _ in range(40)]
    random.seed(3)
    assert drawn == [data[0]["B_paths"] for _ in range(40)]
    assert set(drawn) == set(data.B_paths)
    assert torch.equal(torch_state, torch.get_rng_state())


def test_replayed_random_state_gives_the_same_crop_of_another_image(
    options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What an adapter does for masks: the same sample with the same random state, another file behind Image.open.
    data = create_dataset(options(preprocess="resize_and_crop", load_size=40, crop_size=24)).dataset
    state, torch_state = random.getstate(), torch.get_rng_state()
    first = data[2]
    ends = random.getstate(), torch.get_rng_state()

    class Negative:
        @staticmethod
        def open(path: str) -> Image.Image:
            return Image.fromarray(255 - np.asarray(Image.open(path)))

    monkeypatch.setattr(dataset_module, "Image", Negative)
    random.setstate(state)
    torch.set_rng_state(torch_state)
    again = data[2]
    assert first["A"].shape == (1, 24, 24)
    assert (first["A"] + again["A"]).abs().max() < 1.5 / 127.5
    assert random.getstate() == ends[0] and torch.equal(torch.get_rng_state(), ends[1])


def test_crop_is_a_window_of_the_image_and_every_place_occurs() -> None:
    image = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6))
    cut = host.ImageTransform(crop_px=4)
    torch.manual_seed(0)
    corners = {round((cut(image)[0, 0, 0].item() + 1) * 127.5) for _ in range(100)}
    assert corners == {0, 1, 2, 6, 7, 8}


def test_flip_mirrors_about_half_of_the_images_left_to_right() -> None:
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    torch.manual_seed(0)
    left = [host.ImageTransform(flip=True)(image)[0, 0, 0].item() for _ in range(200)]
    assert set(left) == {-1.0, 1.0}
    assert 70 < left.count(1.0) < 130


def test_test_options_read_in_order_without_augmentation(options: Any) -> None:
    data = create_dataset(options().for_test())
    assert [Path(batch["A_paths"][0]).name for batch in data] == [f"a{i}.png" for i in range(6)]
    assert torch.equal(data.dataset[1]["A"], data.dataset[1]["A"])
    assert Path(data.dataset.dir_A).name == "testA"


def test_colour_options_give_three_channels(options: Any) -> None:
    item = create_dataset(options(output_nc=3, lambda_identity=0.0)).dataset[0]
    assert (item["A"].shape[0], item["B"].shape[0]) == (1, 3)
    item = create_dataset(options(output_nc=3, lambda_identity=0.0, direction="BtoA")).dataset[0]
    assert (item["A"].shape[0], item["B"].shape[0]) == (3, 1)


def test_max_dataset_size_keeps_the_first_images(options: Any) -> None:
    data = create_dataset(options(max_dataset_size=3)).dataset
    assert (data.A_size, data.B_size, len(data)) == (3, 3, 3)


def test_data_errors_name_the_culprit(options: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhereA"):
        create_dataset(options(phase="nowhere"))
    (tmp_path / "trainA").mkdir()
    with pytest.raises(DataError, match=r"must hold images in .*trainA"):
        create_dataset(HostOptions(str(tmp_path)))
    for domain in "AB":
        _write(tmp_path / f"train{domain}" / "x.png", np.zeros((8, 8)))
    (tmp_path / "trainA" / "x.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"x\.png.* is not"):
        create_dataset(HostOptions(str(tmp_path))).dataset[0]
    whole = (tmp_path / "trainB" / "x.png").read_bytes()
    (tmp_path / "trainA" / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x\.png"):
        create_dataset(HostOptions(str(tmp_path))).dataset[0]
    Image.fromarray(np.full((8, 8), 3000, dtype=np.uint16)).save(tmp_path / "trainA" / "x.png")
    with pytest.raises(DataError, match=r"8 bits.*x\.png.*mode I"):
        create_dataset(HostOptions(str(tmp_path))).dataset[0]


def test_images_of_two_sizes_in_a_batch_are_named(tmp_path: Path) -> None:
    for name, side in (("p.png", 8), ("q.png", 9)):
        _write(tmp_path / "trainA" / name, np.zeros((side, side)))
    _write(tmp_path / "trainB" / "x.png", np.zeros((8, 8)))
    with pytest.raises(DataError, match=r"one size.*(p|q)\.png.*(p|q)\.png"):
        list(create_dataset(HostOptions(str(tmp_path), batch_size=2)))


def test_too_large_crop_is_a_data_error(options: Any) -> None:
    with pytest.raises(DataError, match="`crop_size` must be at most"):
        create_dataset(options(preprocess="crop", crop_size=33)).dataset[0]


# --- networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_layers", "side_px", "map_px"), [(3, 256, 30), (3, 64, 6), (2, 64, 14), (1, 64, 30)])
def test_patchgan_map_has_the_published_size(n_layers: int, side_px: int, map_px: int) -> None:
    assert PatchGAN(1, 2, n_layers)(torch.zeros(1, 1, side_px, side_px)).shape == (1, 1, map_px, map_px)


@pytest.mark.parametrize(("n_layers", "field_px"), [(1, 16), (2, 34), (3, 70)])
def test_patchgan_logit_sees_the_published_patch(n_layers: int, field_px: int) -> None:
    net = PatchGAN(1, 2, n_layers).double()
    for index, layer in enumerate(net.layers):  # instance norm sees the whole image, by its statistics
        if isinstance(layer, torch.nn.InstanceNorm2d):
            net.layers[index] = torch.nn.Identity()
    x = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = net(x)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == field_px


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_patchgan_refuses_just_what_is_too_small(n_layers: int) -> None:
    net, smallest = PatchGAN(1, 2, n_layers), 3 * 2**n_layers
    assert net(torch.randn(1, 1, smallest, smallest)).numel() == 1
    with pytest.raises(ShapeError, match=f"at least {smallest} px"):
        net(torch.randn(1, 1, smallest - 1, smallest))


def test_resnet_generator_keeps_the_size_and_stays_in_range() -> None:
    image = ResnetGenerator(1, 2, 4, 3)(50 * torch.randn(2, 1, 20, 32))
    assert image.shape == (2, 2, 20, 32) and image.abs().max() <= 1
    with pytest.raises(ShapeError, match="multiples of 4"):
        ResnetGenerator(1, 1, 4, 1)(torch.zeros(1, 1, 18, 32))


def test_convolutions_start_normal_and_the_uncertainty_head_keeps_its_own_start(options: Any) -> None:
    model = create_model(options(ngf=32, ndf=32))
    weights = torch.cat([p.flatten() for p in model.netG_A.downs.parameters() if p.ndim == 4])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02) and abs(weights.mean().item()) < 1e-3
    scale, _ = model.netG_A.ggd_head(torch.zeros(1, 32, 4, 4))
    fresh, _ = type(model.netG_A)(1, 1, 32, 2).ggd_head(torch.zeros(1, 32, 4, 4))
    assert torch.equal(scale, fresh)


def test_gan_losses_match_their_formulas() -> None:
    logits = torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    assert GANLoss("lsgan")(logits, True).item() == pytest.approx((0.25 + 9) / 2)
    assert GANLoss("lsgan")(logits, False).item() == pytest.approx((0.25 + 4) / 2)
    vanilla = -torch.log(1 - torch.sigmoid(logits)).mean().item()
    assert GANLoss("vanilla")(logits, False).item() == pytest.approx(vanilla)
    with pytest.raises(ConfigError, match="`gan_mode`"):
        GANLoss("nope")


def test_pool_returns_what_it_gets_until_it_is_full_then_old_ones_for_half() -> None:
    random.seed(0)
    pool = ImagePool(5)
    first = torch.arange(5.0).reshape(5, 1, 1, 1).requires_grad_()
    assert torch.equal(pool.query(first), first) and not pool.query(first).requires_grad
    assert pool.num_imgs == len(pool.images) == 5 and pool.images[0].shape == (1, 1, 1, 1)
    pool = ImagePool(5)
    pool.query(first)
    held, old = set(range(5)), 0
    for value in range(100, 500):
        given = int(pool.query(torch.full((1, 1, 1, 1), float(value))).item())
        if given != value:
            assert given in held
            held = (held - {given}) | {value}
            old += 1
        assert {int(image.item()) for image in pool.images} == held
    assert 160 < old < 240


def test_pool_of_size_zero_keeps_nothing_and_draws_nothing() -> None:
    pool, state, x = ImagePool(0), random.getstate(), torch.randn(2, 1, 2, 2)
    assert torch.equal(pool.query(x), x)
    assert pool.images == [] and random.getstate() == state


# --- the model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("netG", ["unet", "resnet"])
@pytest.mark.parametrize("lambda_identity", [0.5, 0.0])
def test_one_step_changes_all_four_networks(options: Any, netG: str, lambda_identity: float) -> None:
    model, loader = _ready(options(netG=netG, lambda_identity=lambda_identity))
    before = _states(model)
    model.set_input(next(iter(loader)))
    model.optimize_parameters()
    still = set(before) - _changed(before, _states(model))
    assert {key for key in still if "ggd_head" not in key} == set()
    assert set(model.get_current_losses()) == set(model.loss_names)
    assert all(np.isfinite(value) for value in model.get_current_losses().values())
    assert ("idt_A" in model.get_current_visuals()) == (lambda_identity > 0)
    assert all(image.shape == (2, 1, SIDE_PX, SIDE_PX) for image in model.get_current_visuals().values())


def test_generator_step_leaves_the_discriminators_without_gradient(options: Any) -> None:
    model, loader = _ready(options())
    model.set_input(next(iter(loader)))
    seen: list[bool] = []
    backward_G = model.backward_G

    def watched() -> None:
        backward_G()
        seen.extend(p.grad is None and not p.requires_grad for p in model.netD_A.parameters())
        seen.extend(p.grad is None and not p.requires_grad for p in model.netD_B.parameters())

    model.backward_G = watched  # type: ignore[method-assign]
    model.optimize_parameters()
    assert seen and all(seen)
    assert all(p.requires_grad and p.grad is not None for p in model.netD_A.parameters())


def test_discriminator_step_sends_no_gradient_to_the_generators(options: Any) -> None:
    model, loader = _ready(options())
    model.set_input(next(iter(loader)))
    model.forward()
    model.backward_D_A()
    model.backward_D_B()
    model.backward_D_basic(model.netD_A, model.real_B, model.fake_B)
    assert all(p.grad is None for net in (model.netG_A, model.netG_B) for p in net.parameters())


def test_discriminators_judge_what_their_own_pool_hands_out(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loader = _ready(options())
    model.set_input(next(iter(loader)))
    model.forward()
    older = {"A": torch.full_like(model.fake_A, 0.25), "B": torch.full_like(model.fake_B, -0.25)}
    monkeypatch.setattr(model.fake_A_pool, "query", lambda images: older["A"] if images is model.fake_A else None)
    monkeypatch.setattr(model.fake_B_pool, "query", lambda images: older["B"] if images is model.fake_B else None)
    model.backward_D_A()
    model.backward_D_B()
    for net, real, old, loss in (
        (model.netD_A, model.real_B, older["B"], model.loss_D_A),
        (model.netD_B, model.real_A, older["A"], model.loss_D_B),
    ):
        assert loss.item() == pytest.approx((((net(real) - 1) ** 2).mean() + (net(old) ** 2).mean()).item() / 2)


def test_generator_loss_is_the_papers_sum(options: Any) -> None:
    model, loader = _ready(options(lambda_A=7.0, lambda_B=5.0, lambda_identity=0.3))
    model.set_input(next(iter(loader)))
    model.forward()
    model.backward_G()
    with torch.no_grad():
        a, b, to_b, to_a = model.real_A, model.real_B, model.netG_A, model.netG_B
        adversarial = ((model.netD_A(to_b(a)) - 1) ** 2).mean() + ((model.netD_B(to_a(b)) - 1) ** 2).mean()
        cycle = 7 * (to_a(to_b(a)) - a).abs().mean() + 5 * (to_b(to_a(b)) - b).abs().mean()
        identity = 0.3 * (5 * (to_b(b) - b).abs().mean() + 7 * (to_a(a) - a).abs().mean())
    assert model.loss_G.item() == pytest.approx((adversarial + cycle + identity).item(), rel=1e-5)


def test_direction_swaps_the_domains(options: Any) -> None:
    batch = next(iter(create_dataset(options())))
    ahead, back = create_model(options()), create_model(options(direction="BtoA"))
    ahead.set_input(batch)
    back.set_input(batch)
    assert torch.equal(ahead.real_A, back.real_B) and torch.equal(ahead.real_B, back.real_A)
    assert ahead.image_paths == batch["A_paths"] and back.image_paths == batch["B_paths"]


def test_seeded_runs_are_bit_equal_and_another_seed_is_not(options: Any) -> None:
    ends, losses = [], []
    for seed in (1, 1, 2):
        random.random(), torch.rand(1)  # where the streams stood before must not matter
        model, loader = _ready(
            options(seed=seed, pool_size=3, preprocess="resize_and_crop", load_size=36, crop_size=32)
        )
        losses.append(_train(model, loader, epochs=2))
        ends.append(_states(model))
    assert losses[0] == losses[1] and not _changed(ends[0], ends[1])
    assert losses[0] != losses[2] and _changed(ends[0], ends[2])


@pytest.mark.parametrize("netG", ["unet", "resnet"])
def test_training_learns_the_other_domains_brightness_and_the_way_back(options: Any, netG: str) -> None:
    # Where the disc ends up is not asked: unpaired losses alone do not settle it.
    opt = options(netG=netG, ngf=8, ndf=8, lr=1e-3, lambda_identity=0.0, n_epochs=1000)
    model, loader = _ready(opt)
    losses = _train(model, loader, epochs=25)
    start, end = (np.mean([step["cycle_A"] + step["cycle_B"] for step in part]) for part in (losses[:5], losses[-5:]))
    assert end < 0.4 * start
    model.eval()
    for batch in create_dataset(opt.for_test()):
        model.set_input(batch)
        model.test()
        assert not model.fake_B.requires_grad
        assert (model.fake_B.mean() - model.real_B.mean()).abs() < 0.3
        assert (model.fake_A.mean() - model.real_A.mean()).abs() < 0.3


def test_learning_rate_holds_then_falls_in_equal_steps(options: Any) -> None:
    opt = options(n_epochs=3, n_epochs_decay=4, lr=1.0)
    model, loader = _ready(opt)
    model.set_input(next(iter(loader)))
    model.optimize_parameters()
    rates = []
    for _ in range(8):
        rates.append(model.optimizer_G.param_groups[0]["lr"])
        model.update_learning_rate()
    assert rates == pytest.approx([1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert model.optimizer_D.param_groups[0]["lr"] == 0
    late, _ = _ready(options(n_epochs=3, n_epochs_decay=4, lr=1.0, epoch_count=5))
    assert late.optimizer_G.param_groups[0]["lr"] == pytest.approx(0.6)


@pytest.mark.parametrize("policy", ["step", "cosine", "plateau"])
def test_other_policies_are_those_of_torch(policy: str, options: Any) -> None:
    """As junyanz's code takes them; its cosine, which rises again after ``n_epochs``, ends here with the run."""
    model, loader = _ready(options(n_epochs=8, n_epochs_decay=2, lr=1.0, lr_policy=policy, lr_decay_iters=3))
    model.set_input(next(iter(loader)))
    model.optimize_parameters()
    like = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    like.step()
    schedulers = torch.optim.lr_scheduler
    theirs: Any = {
        "step": lambda: schedulers.StepLR(like, step_size=3, gamma=0.1),
        "cosine": lambda: schedulers.CosineAnnealingLR(like, T_max=10),
        "plateau": lambda: schedulers.ReduceLROnPlateau(like, mode="min", factor=0.2, threshold=0.01, patience=5),
    }[policy]()
    rates, expected = [], []
    for loss in (5.0, 4.0, 3.99, 4.0, 4.1, 4.0, 4.0, 3.98, 4.0, 1.0):
        model.metric = loss
        model.update_learning_rate()
        theirs.step(*([loss] if policy == "plateau" else []))
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in model.optimizers])
        expected.append([like.param_groups[0]["lr"]] * 2)
    assert np.allclose(rates, expected, atol=1e-12) and len({of[0] for of in rates}) > 1


@pytest.mark.parametrize("policy", ["step", "cosine"])
def test_a_run_that_goes_on_has_the_rate_it_would_have_had(policy: str, options: Any) -> None:
    given = {"n_epochs": 8, "n_epochs_decay": 2, "lr": 1.0, "lr_policy": policy, "lr_decay_iters": 3}
    model, loader = _ready(options(**given))
    model.set_input(next(iter(loader)))
    model.optimize_parameters()
    for _ in range(4):
        model.update_learning_rate()
    late, _ = _ready(options(**given, epoch_count=5))
    assert late.optimizer_G.param_groups[0]["lr"] == pytest.approx(model.optimizer_G.param_groups[0]["lr"])


# --- checkpoints ------------------------------------------------------------------------------------------------


def test_saved_networks_load_back_for_training_and_testing(options: Any) -> None:
    model, loader = _ready(options())
    _train(model, loader, epochs=1)
    model.save_networks("latest")
    model.save_networks(7)
    files = {path.name for path in Path(model.save_dir).iterdir()}
    assert files == {f"{e}_net_{n}.pth" for e in ("latest", 7) for n in ("G_A", "G_B", "D_A", "D_B")}
    more, _ = _ready(options(continue_train=True, seed=9))
    assert not _changed(_states(model), _states(more))
    tester, _ = _ready(options(seed=9).for_test(epoch=7))
    assert set(tester.model_names) == {"G_A", "G_B"} and not tester.optimizers
    assert not _changed(_states(tester), _states(model))


def test_missing_damaged_and_foreign_checkpoints_are_named_and_change_nothing(options: Any) -> None:
    model, _ = _ready(options())
    with pytest.raises(CheckpointError, match=r"no .*latest_net_G_A\.pth"):
        model.load_networks("latest")
    model.save_networks("latest")
    with torch.no_grad():
        next(model.netG_A.parameters()).add_(1)
    before, last = _states(model), Path(model.save_dir, "latest_net_D_B.pth")
    good = last.read_bytes()
    for damaged in (good[: len(good) // 2], b""):
        last.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"latest_net_D_B\.pth' is damaged") as caught:
            model.load_networks("latest")
        assert "\n" not in str(caught.value)
    assert not _changed(before, _states(model))
    last.write_bytes(good)
    with pytest.raises(CheckpointError, match="same networks"):
        create_model(options(ngf=5)).load_networks("latest")


def test_new_run_does_not_write_over_an_older_one_unless_forced(options: Any) -> None:
    model, _ = _ready(options())
    model.save_networks("latest")
    with pytest.raises(CheckpointError, match="already holds networks"):
        create_model(options()).setup(options())
    _ready(options(force=True))[0].save_networks("latest")


def test_interrupted_save_keeps_the_older_file_and_leaves_no_debris(
    options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = _ready(options())
    model.save_networks("latest")
    before = {path.name: path.read_bytes() for path in Path(model.save_dir).iterdir()}

    def fail(state: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match="disk full"):
        model.save_networks("latest")
    assert {path.name: path.read_bytes() for path in Path(model.save_dir).iterdir()} == before


# --- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"netG": "vit"}, "`netG` must be one of unet, resnet; got 'vit'"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1; got 0"),
        ({"batch_size": True}, "`batch_size` must be a whole number"),
        ({"lr": float("nan")}, "`lr` must be a number of at least 0"),
        ({"beta1": 1.0}, "`beta1` must be a number from 0 to under 1"),
        ({"no_flip": 1}, "`no_flip` must be true or false"),
        ({"gpu_ids": "0"}, "`gpu_ids` must be a list"),
        ({"name": ""}, "`name` must be a non-empty text"),
        ({"preprocess": "resize"}, "`load_size` must be given"),
        ({"preprocess": "crop"}, "`crop_size` must be given"),
        ({"preprocess": "resize_and_crop", "load_size": 8, "crop_size": 9}, "`crop_size` must be at most `load_size`"),
        ({"output_nc": 3}, "`lambda_identity` must be 0"),
        ({"n_epochs": 0, "n_epochs_decay": 0}, "`n_epochs` and `n_epochs_decay` must not both be 0"),
    ],
)
def test_wrong_host_options_are_named_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HostOptions("somewhere", **change)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_absent_gpu_is_a_config_error(options: Any) -> None:
    with pytest.raises(ConfigError, match="`gpu_ids` must name a GPU of this machine"):
        create_model(options(gpu_ids=[torch.cuda.device_count() + 1]))


def test_host_does_not_import_torchvision_or_know_the_add_on() -> None:
    folder = Path(host.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    for word in ("torchvision", "session", "tumor", "regions import", "tap import"):
        assert f"import {word}" not in text and f"from ..{word}" not in text
