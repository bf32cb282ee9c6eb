"""Whatever comes in, only errors of our own tree come out, in one line; what is taken does what it promises.

Two hundred cases in the ordinary suite; with ``ROI_PROGRESSIVE_NIGHTLY=1`` the profile ``nightly`` has twelve thousand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from roi_progressive import Config, GGDConfig, RegionConfig, RoiProgressiveError, StageConfig, attach
from roi_progressive.config import ROI_MODES
from roi_progressive.errors import CheckpointError, ConfigError, ShapeError
from roi_progressive.method.discriminators import RegionDiscriminator
from roi_progressive.method.regions import RegionMask, grow
from roi_progressive.method.stages import StageController
from roi_progressive.method.windows import extract_windows
from roi_progressive.saving.checkpoint import load_checkpoint, save_checkpoint
from roi_progressive.testing import ToyHost, phantom_config

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # NumPy's and torch's, of bytes and numbers that nobody would write
]
ROI_TOML = (Path(__file__).resolve().parents[1] / "examples" / "roi.toml").read_bytes()
SIXTH = settings(
    max_examples=settings().max_examples // 3,  # six tests: twice the profile's number in all
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def assert_one_line(error: RoiProgressiveError) -> None:
    assert str(error).strip() and "\n" not in str(error)


# -- configurations ---------------------------------------------------------------------------------------------------

_numbers = st.one_of(
    st.integers(-3, 70), st.integers(), st.floats(), st.sampled_from([0, 1, 2**31, 2**63, 10**400, -(10**400)])
)
_plain = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(max_size=8) | st.sampled_from(["crop", "concat", "hinge", "tumor"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _table(kind: type[Any], **sections: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some settings of a section with any values, often the defaults, and now and then a key that is none."""
    names = [field.name for field in fields(kind)]
    values = {name: sections.get(name, _plain | st.just(getattr(kind, name, None))) for name in names}
    chosen = st.sets(st.sampled_from(names)).flatmap(lambda keys: st.fixed_dictionaries({k: values[k] for k in keys}))
    return st.one_of(chosen, chosen, st.dictionaries(st.text(max_size=6), _plain, max_size=2))


_regions = st.lists(
    st.builds(
        lambda name, rest: {**rest, "name": name}, st.sampled_from(["tumor", "liver", "x"]), _table(RegionConfig)
    ),
    max_size=3,
)
_mappings = _table(
    Config, regions=_regions | _plain, ggd=_table(GGDConfig) | _plain, stages=_table(StageConfig) | _plain
)


@SIXTH
@given(_mappings | _plain)
def test_a_mapping_is_a_usable_configuration_or_a_config_error(mapping: Any) -> None:
    try:
        config = Config.from_mapping(mapping)
        controller = StageController(config, 10)
    except ConfigError as error:
        assert_one_line(error)
        return
    assert Config.from_mapping(config.to_mapping()) == config
    for epoch in range(1, 11):
        controller.start_epoch(epoch)
        assert all(0.0 <= weight <= 1.0 for weight in controller.weights().values())
    numbers = [region.weight for region in config.regions] + [config.ggd.weight if config.ggd else 0.0]
    assert all(math.isfinite(float(number)) for number in numbers)


@st.composite
def _changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few places overwritten, left out, doubled or cut off."""
    changed = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(changed)))
        end = min(len(changed), begin + draw(st.integers(0, 30)))
        kind = draw(st.sampled_from(["bytes", "flip", "double", "cut"]))
        if kind == "bytes":
            changed[begin:end] = draw(st.binary(max_size=8) | st.sampled_from([b"= nan", b"]", b"\n", b"[[", b"1e999"]))
        elif kind == "flip" and begin < len(changed):
            changed[begin] ^= 1 << draw(st.integers(0, 7))
        elif kind == "double":
            changed[end:end] = changed[begin:end]
        elif kind == "cut":
            del changed[begin : end if draw(st.booleans()) else len(changed)]
    return bytes(changed)


@SIXTH
@given(content=_changed(ROI_TOML) | st.binary(max_size=60))
def test_bytes_are_a_configuration_file_or_a_config_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "roi.toml"
    path.write_bytes(content)
    try:
        config = Config.from_toml(path)
    except ConfigError as error:
        assert_one_line(error)
    else:
        assert Config.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize("content", [b"a = " + b"[" * 100_000, b"a = " + b"{a=" * 100_000])
def test_a_bottomless_configuration_file_is_a_config_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "roi.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Config.from_toml(tmp_path / "roi.toml")
    assert_one_line(caught.value)


# -- masks and shapes -------------------------------------------------------------------------------------------------


@st.composite
def _masks(draw: st.DrawFn) -> Tensor:
    """Masks of a batch: empty, full, one pixel, rectangles anywhere, or noise."""
    n, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    masks = torch.zeros(n, 1, height, width)
    for sample in range(n):
        kind = draw(st.sampled_from(["empty", "full", "box", "box", "noise"]))
        if kind == "full":
            masks[sample] = 1
        elif kind == "box":
            top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
            masks[sample, 0, top : top + draw(st.integers(1, height)), left : left + draw(st.integers(1, width))] = 1
        elif kind == "noise":
            generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
            masks[sample] = (torch.rand(1, height, width, generator=generator) > 0.9).float()
    return masks


_modes = st.builds(
    RegionConfig,
    st.just("tumor"),
    scales=st.integers(1, 2),
    roi_mode=st.sampled_from(list(ROI_MODES)),
    windows_px=st.sampled_from([(12,), (16, 24, 40), (12, 64)]),
    margin_px=st.integers(0, 9),
    context_px=st.integers(0, 5),
    base_channels=st.just(2),
    layers=st.integers(1, 2),
    all_strided=st.booleans(),
    logits=st.sampled_from(["weighted", "plain", "mean"]),
    scale_reduction=st.sampled_from(["mean", "sum"]),
)


@SIXTH
@given(_masks(), _modes, st.integers(1, 2), st.sampled_from(["noise", "flat", "black"]))
def test_a_loss_of_any_mask_is_finite_and_its_gradient_zero_outside(
    masks: Tensor, region: RegionConfig, channels: int, paint: str
) -> None:
    image = torch.zeros(len(masks), channels, *masks.shape[2:])
    image += {"noise": 2 * torch.rand_like(image) - 1, "flat": 0.3, "black": -1.0}[paint]
    image.requires_grad_()
    held = RegionMask.from_tensor(masks)
    try:
        network = RegionDiscriminator(region, channels)
        groups = extract_windows(image, held, region)
        losses = [network.losses(windows, lambda logits: (logits - 1) ** 2) for windows in groups]
    except RoiProgressiveError as error:
        assert_one_line(error)
        return
    assert sum(len(loss) for loss in losses) == sum(box is not None for box in held.boxes)
    if not losses:
        return
    loss = torch.cat(losses).mean()
    loss.backward()
    assert image.grad is not None
    assert torch.isfinite(loss) and torch.isfinite(image.grad).all()
    outside = ~torch.from_numpy(grow((masks > 0).numpy(), region.context_px)).expand_as(image.grad)
    assert (image.grad[outside] == 0).all()


_dtypes = st.sampled_from([torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
_shapes = st.lists(st.integers(0, 9), max_size=5)


@SIXTH
@given(_shapes, _shapes, _dtypes, st.sampled_from(list(ROI_MODES)), st.booleans())
def test_images_and_masks_of_any_shape_are_windows_or_a_shape_error(
    image_shape: list[int], mask_shape: list[int], dtype: torch.dtype, mode: str, alike: bool
) -> None:
    image = torch.rand([*mask_shape[:1], 1, *mask_shape[-2:]] if alike else image_shape)
    masks = (torch.rand(mask_shape) * 3).to(dtype)
    try:
        groups = extract_windows(image, RegionMask.from_tensor(masks), RegionConfig("tumor", roi_mode=mode))
    except ShapeError as error:
        assert_one_line(error)
        return
    assert all(torch.isfinite(windows.pixels).all() and windows.mask.amax() <= 1 for windows in groups)


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """The checkpoint of a toy host after two steps with everything in it, as bytes and as read."""
    path = tmp_path_factory.mktemp("saved") / "1_roi_progressive.pth"
    host = ToyHost(path.parent)
    with attach(host, None, _exact()) as session:
        session.start_epoch(1)
        for batch in host.batches(2):
            host.step(batch)
        session.save(path)
    return path.read_bytes(), load_checkpoint(path)


def _exact() -> Config:
    return phantom_config(resume="exact", stages=StageConfig(trigger="plateau"))


def _equal(this: Any, that: Any) -> bool:
    if isinstance(this, Tensor):
        return isinstance(that, Tensor) and this.dtype == that.dtype and torch.equal(this, that)
    if isinstance(this, Mapping):
        return this.keys() == that.keys() and all(_equal(value, that[key]) for key, value in this.items())
    if isinstance(this, (list, tuple)):
        return len(this) == len(that) and all(map(_equal, this, that))
    return bool(this == that) and type(this) is type(that)


@SIXTH
@given(data=st.data())
def test_changed_bytes_are_the_same_checkpoint_or_a_checkpoint_error(
    data: st.DataObject, saved: tuple[bytes, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "1_roi_progressive.pth"
    path.write_bytes(data.draw(_changed(saved[0])))
    try:
        state = load_checkpoint(path)
    except CheckpointError as error:
        assert_one_line(error)
    else:
        assert _equal(state, saved[1])


def test_the_state_that_was_not_changed_goes_on(saved: tuple[bytes, dict[str, Any]], tmp_path: Path) -> None:
    """Else the test below could pass by refusing everything."""
    host = ToyHost(tmp_path)
    with attach(host, None, _exact()) as session:
        session.load_state_dict(copy.deepcopy(saved[1]))
        session.start_epoch(2)
        host.step(next(host.batches(1)))
        assert session.dropped_steps == 0


def _leaves(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value that is no container, and to every container."""
    if path:
        yield path
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(state, list):
        for place, value in enumerate(state):
            yield from _leaves(value, (*path, place))


def _other(value: Any) -> st.SearchStrategy[Any]:
    """Something else than a value: of another kind, or a number far off."""
    kinds: list[Any] = [None, True, -1, 7, 2**70, math.nan, "x", [], {}, [1, "x"], {"x": 1}, torch.zeros(3)]
    return st.sampled_from([kind for kind in kinds if type(kind) is not type(value)] + [-1, 2**70, math.nan])


@SIXTH
@given(data=st.data())
def test_a_changed_state_goes_on_or_is_an_error_of_ours(
    data: st.DataObject, saved: tuple[bytes, dict[str, Any]], tmp_path: Path
) -> None:
    """One value of a checkpoint is another, or missing; then an epoch begins and a step is made."""
    state = copy.deepcopy(saved[1])
    *way, last = data.draw(st.sampled_from(list(_leaves(state))))
    place = state
    for key in way:
        place = place[key]
    if data.draw(st.integers(0, 9)) == 0:
        del place[last]
    else:
        place[last] = data.draw(_other(place[last]))
    save_checkpoint(tmp_path / "1_roi_progressive.pth", state)
    host = ToyHost(tmp_path)
    with attach(host, None, _exact()) as session:
        try:
            session.load_state_dict(load_checkpoint(tmp_path / "1_roi_progressive.pth"))
            session.start_epoch(2)
            host.step(next(host.batches(1)))
        except RoiProgressiveError as error:
            assert_one_line(error)
