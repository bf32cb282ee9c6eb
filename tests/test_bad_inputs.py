"""A catalogue of mistakes, and the exact line that each one is answered with.

Each line names the argument in backticks, what was expected and what came; where the first two do not already say it, what
to do.
"""

# ruff: noqa: E501 - a message is one line, however long

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from roi_progressive import Config, ConfigError, PatchDiscriminator, RegionConfig, RoiProgressiveError, attach
from roi_progressive.config import ADVERSARIAL_LOSSES, ROI_MODES
from roi_progressive.method.regions import RegionMask
from roi_progressive.method.windows import extract_windows
from roi_progressive.saving.checkpoint import load_checkpoint
from roi_progressive.testing import ToyHost, check_discriminator, phantom_batch, phantom_config

TUMOR = RegionConfig("tumor")
REGION: list[tuple[dict[str, Any], str]] = [
    ({"scales": 0}, "`regions['tumor'].scales` must be a whole number between 1 and 6; got 0"),
    ({"scales": 7}, "`regions['tumor'].scales` must be a whole number between 1 and 6; got 7"),
    ({"scales": 2.0}, "`regions['tumor'].scales` must be a whole number between 1 and 6; got 2.0"),
    ({"scales": True}, "`regions['tumor'].scales` must be a whole number between 1 and 6; got True"),
    ({"weight": -1}, "`regions['tumor'].weight` must be a number of at least 0; got -1"),
    ({"weight": "1"}, "`regions['tumor'].weight` must be a number of at least 0; got '1'"),
    ({"weight": float("nan")}, "`regions['tumor'].weight` must be a finite number of at least 0; got nan"),
    ({"weight": float("inf")}, "`regions['tumor'].weight` must be a finite number of at least 0; got inf"),
    ({"stage": 0}, "`regions['tumor'].stage` must be a whole number between 1 and 100; got 0"),
    ({"stage": 1.5}, "`regions['tumor'].stage` must be a whole number between 1 and 100; got 1.5"),
    (
        {"roi_mode": "crops"},
        f"`regions['tumor'].roi_mode` must be one of {', '.join(ROI_MODES)}; got 'crops'; did you mean 'crop'?",
    ),
    ({"roi_mode": 3}, f"`regions['tumor'].roi_mode` must be one of {', '.join(ROI_MODES)}; got 3"),
    (
        {"windows_px": []},
        "`regions['tumor'].windows_px` must be a tuple of rising whole numbers; got (); write for example (32, 64, 128)",
    ),
    (
        {"windows_px": [64, 32]},
        "`regions['tumor'].windows_px` must be a tuple of rising whole numbers; got (64, 32); write for example (32, 64, 128)",
    ),
    (
        {"windows_px": [32, 32]},
        "`regions['tumor'].windows_px` must be a tuple of rising whole numbers; got (32, 32); write for example (32, 64, 128)",
    ),
    (
        {"windows_px": 32},
        "`regions['tumor'].windows_px` must be a tuple of rising whole numbers; got 32; write for example (32, 64, 128)",
    ),
    (
        {"windows_px": [8]},
        "`regions['tumor'].windows_px` must start at 24 or more, so that the coarsest of 3 scales keeps 6 px; got 8; enlarge the first window or lower `scales`",
    ),
    (
        {"windows_px": ["32"]},
        "`regions['tumor'].windows_px` must be a tuple of rising whole numbers; got ('32',); write for example (32, 64, 128)",
    ),
    ({"margin_px": -1}, "`regions['tumor'].margin_px` must be a whole number between 0 and 16384; got -1"),
    ({"context_px": -1}, "`regions['tumor'].context_px` must be a whole number between 0 and 16384; got -1"),
    ({"base_channels": 0}, "`regions['tumor'].base_channels` must be a whole number between 1 and 16384; got 0"),
    ({"layers": 0}, "`regions['tumor'].layers` must be a whole number between 1 and 6; got 0"),
    ({"layers": 9}, "`regions['tumor'].layers` must be a whole number between 1 and 6; got 9"),
    ({"all_strided": 1}, "`regions['tumor'].all_strided` must be true or false; got 1"),
    (
        {"logits": "weigthed"},
        "`regions['tumor'].logits` must be one of weighted, plain, mean; got 'weigthed'; did you mean 'weighted'?",
    ),
    ({"scale_reduction": "max"}, "`regions['tumor'].scale_reduction` must be one of mean, sum; got 'max'"),
    ({"missing": "ignore"}, "`regions['tumor'].missing` must be one of error, skip; got 'ignore'"),
    (
        {"batch_key": ""},
        "`regions['tumor'].batch_key` must be a non-empty text in which only {domain} stands in braces; got ''; write for example '{domain}_mask'",
    ),
    (
        {"batch_key": "{region}"},
        "`regions['tumor'].batch_key` must be a non-empty text in which only {domain} stands in braces; got '{region}'; write for example '{domain}_mask'",
    ),
    (
        {"batch_key": "{"},
        "`regions['tumor'].batch_key` must be a non-empty text in which only {domain} stands in braces; got '{'; write for example '{domain}_mask'",
    ),
    ({"scale": 2}, "`regions[0].scale` is not a setting; did you mean `scales`?"),
    (
        {"zzz": 2},
        "`regions[0].zzz` is not a setting; known keys: name, scales, weight, stage, roi_mode, windows_px, margin_px, context_px, base_channels, layers, all_strided, logits, scale_reduction, missing, batch_key, pixel_weight, pixel_reach_px, pixel_channels, structure_weight",
    ),
    ({"windowspx": [32]}, "`regions[0].windowspx` is not a setting; did you mean `windows_px`?"),
]
SETTINGS: list[tuple[Any, str]] = [
    (
        {"ggd": {"target": "pair"}},
        "`ggd.target` must be one of auto, paired, cycle, identity; got 'pair'; did you mean 'paired'?",
    ),
    ({"ggd": {"weight": -0.1}}, "`ggd.weight` must be a number of at least 0; got -0.1"),
    ({"ggd": {"weight": None}}, "`ggd.weight` must be a number of at least 0; got None"),
    ({"ggd": {"stage": 0}}, "`ggd.stage` must be a whole number between 1 and 100; got 0"),
    ({"ggd": {"hidden_channels": 0}}, "`ggd.hidden_channels` must be a whole number between 1 and 16384; got 0"),
    ({"ggd": {"min_scale": 0}}, "`ggd.min_scale` must be a number between 1e-06 and 1; got 0"),
    ({"ggd": {"min_scale": 2}}, "`ggd.min_scale` must be a number between 1e-06 and 1; got 2"),
    (
        {"ggd": {"shape_range": [8, 0.2]}},
        "`ggd.shape_range` must be a tuple of two rising numbers within 0.1 and 20; got (8, 0.2); the default is (0.2, 8.0)",
    ),
    (
        {"ggd": {"shape_range": [0.2]}},
        "`ggd.shape_range` must be a tuple of two rising numbers within 0.1 and 20; got (0.2,); the default is (0.2, 8.0)",
    ),
    (
        {"ggd": {"shape_range": [0.01, 2]}},
        "`ggd.shape_range` must be a tuple of two rising numbers within 0.1 and 20; got (0.01, 2); the default is (0.2, 8.0)",
    ),
    (
        {"ggd": {"shape_range": 2}},
        "`ggd.shape_range` must be a tuple of two rising numbers within 0.1 and 20; got 2; the default is (0.2, 8.0)",
    ),
    ({"ggd": {"epsilon": 1}}, "`ggd.epsilon` must be a number between 0 and 0.001; got 1"),
    ({"ggd": {"learning_rate_factor": -1}}, "`ggd.learning_rate_factor` must be a number between 0 and 1e+06; got -1"),
    ({"ggd": {"wieght": 1}}, "`ggd.wieght` is not a setting; did you mean `weight`?"),
    (
        {"stages": {"from_epochs": [3, 1]}},
        "`stages.from_epochs` must be a tuple of rising whole numbers of at least 0; got (3, 1); give the first epoch of stage 2, of stage 3, ...",
    ),
    (
        {"stages": {"from_epochs": [-1]}},
        "`stages.from_epochs` must be a tuple of rising whole numbers of at least 0; got (-1,); give the first epoch of stage 2, of stage 3, ...",
    ),
    (
        {"stages": {"from_epochs": 3}},
        "`stages.from_epochs` must be a tuple of rising whole numbers of at least 0; got 3; give the first epoch of stage 2, of stage 3, ...",
    ),
    (
        {"stages": {"from_epochs": [1.5]}},
        "`stages.from_epochs` must be a tuple of rising whole numbers of at least 0; got (1.5,); give the first epoch of stage 2, of stage 3, ...",
    ),
    ({"stages": {"fade_fraction": 1.1}}, "`stages.fade_fraction` must be a number between 0 and 1; got 1.1"),
    ({"stages": {"fade_fraction": -1}}, "`stages.fade_fraction` must be a number between 0 and 1; got -1"),
    (
        {"stages": {"trigger": "plato"}},
        "`stages.trigger` must be one of progress, plateau; got 'plato'; did you mean 'plateau'?",
    ),
    (
        {"stages": {"patience_epochs": 0}},
        "`stages.patience_epochs` must be a whole number between 1 and 1000000; got 0",
    ),
    ({"stages": {"min_improvement": 2}}, "`stages.min_improvement` must be a number between 0 and 1; got 2"),
    ({"stages": {"trigers": 1}}, "`stages.trigers` is not a setting; did you mean `trigger`?"),
    ({"adversarial": "wgan"}, f"`adversarial` must be one of {', '.join(ADVERSARIAL_LOSSES)}; got 'wgan'"),
    (
        {"adversarial": "least_square"},
        f"`adversarial` must be one of {', '.join(ADVERSARIAL_LOSSES)}; got 'least_square'; did you mean 'least_squares'?",
    ),
    ({"balance": 0}, "`balance` must be a number of at least 1e-06; got 0"),
    ({"balance": "half"}, "`balance` must be a number of at least 1e-06; got 'half'"),
    ({"pool_size": -1}, "`pool_size` must be a whole number between 0 and 1000000; got -1"),
    ({"pool_size": 1.0}, "`pool_size` must be a whole number between 0 and 1000000; got 1.0"),
    ({"background": -2}, "`background` must be a number between -1 and 1; got -2"),
    ({"background": float("nan")}, "`background` must be a finite number between -1 and 1; got nan"),
    ({"resume": "yes"}, "`resume` must be one of networks, exact, fresh; got 'yes'"),
    ({"seed": -1}, "`seed` must be a whole number of at least 0; got -1"),
    ({"seed": "0"}, "`seed` must be a whole number of at least 0; got '0'"),
    ({"regions": 3}, "`regions` must be a list of tables; got int; write [[regions]] in TOML"),
    ({"regions": {"name": "tumor"}}, "`regions` must be a list of tables; got dict; write [[regions]] in TOML"),
    ({"regions": ["tumor"]}, "`regions[0]` must be a table of settings; got 'tumor'; write keys and values"),
    ({"regions": [{}]}, "`regions[0].name` is missing; give the region a name, e.g. name = 'tumor'"),
    (
        {"regions": [{"name": "a tumor"}]},
        "`regions.name` must be letters, digits and underscores, not starting with a digit; got 'a tumor'; rename the region and its mask folders",
    ),
    (
        {"regions": [{"name": "1st"}]},
        "`regions.name` must be letters, digits and underscores, not starting with a digit; got '1st'; rename the region and its mask folders",
    ),
    (
        {"regions": [{"name": 3}]},
        "`regions.name` must be letters, digits and underscores, not starting with a digit; got 3; rename the region and its mask folders",
    ),
    (
        {"regions": [{"name": "tumor"}, {"name": "tumor"}]},
        "`regions` must have different names; got 'tumor' twice; rename one",
    ),
    ({"ggd": True}, "`ggd` must be a table of settings; got True; write keys and values"),
    ({"ggd": 3}, "`ggd` must be a table of settings; got 3; write keys and values"),
    ({"stages": "thirds"}, "`stages` must be a table of settings; got 'thirds'; write keys and values"),
    ({"region": []}, "`region` is not a setting; did you mean `regions`?"),
    ({"Regions": []}, "`Regions` is not a setting; did you mean `regions`?"),
    (
        {"a\nb": 1},
        "`'a\\nb'` is not a setting; known keys: regions, ggd, stages, adversarial, balance, pool_size, background, resume, seed, compile",
    ),
    ([], "`config` must be a mapping of settings; got list; give a dict, or a TOML file"),
]
CALLS: list[tuple[Callable[[], Any], str, str]] = [
    (
        lambda: attach(object(), None, []),
        "ConfigError",
        "`config` must be a mapping of settings; got list; give a dict, or a TOML file",
    ),
    (
        lambda: attach(ToyHost(), None, 3),
        "ConfigError",
        "`config` must be a mapping of settings; got int; give a dict, or a TOML file",
    ),
    (
        lambda: attach({}, None, Config()),
        "ConfigError",
        "`host` must name generators by direction, 'A2B' and 'B2A'; got none",
    ),
    (
        lambda: attach({"A2C": ToyHost().netG_A}, None, Config()),
        "ConfigError",
        "`host` must name generators by direction, 'A2B' and 'B2A'; got ['A2C']",
    ),
    (lambda: attach({"A2B": "net"}, None, Config()), "ConfigError", "`host['A2B']` must be a torch module; got str"),
    (
        lambda: attach({"A2B": nn.Conv2d(1, 1, 1)}, None, Config()),
        "ConfigError",
        "`host` must hold generators that an optimizer trains; found none in this process; make the optimizers before calling `attach`, so that our learning rate can follow theirs",
    ),
    (
        lambda: attach(ToyHost(), None, "missing.toml"),
        "ConfigError",
        "`config` must be a readable TOML file; got 'missing.toml': No such file or directory",
    ),
    (
        lambda: attach(ToyHost(), None, phantom_config(), n_epochs=0),
        "ConfigError",
        "`n_epochs` must be a whole number of at least 1; got 0",
    ),
    (
        lambda: attach(ToyHost(), [], Config()),
        "MaskError",
        "`dataset` must be one whose image files the adapter for a junyanz cycle_gan can follow; got list; give the loader that is trained on, or bring the masks in the batch (`batch_key`; for scripts: `generator_loss`)",
    ),
    (
        lambda: attach(ToyHost(), None, phantom_config(), plugins=["theirs"]),
        "PluginError",
        "`plugins` holds 'builtins.str', which implements no hook; mark its functions with @roi_progressive.hookimpl",
    ),
    (
        lambda: twice(ToyHost()),
        "ConfigError",
        "`host` has an open session already; got a second `attach`; close the first one",
    ),
    (
        lambda: PatchDiscriminator(0),
        "ConfigError",
        "`in_channels` must be a whole number of at least 1; got 0",
    ),
    (
        lambda: PatchDiscriminator(1, 4, 0),
        "ConfigError",
        "`layers` must be a whole number of at least 1; got 0",
    ),
    (
        lambda: PatchDiscriminator(1, 4, 1)(torch.zeros(1, 3, 32, 32)),
        "ShapeError",
        "`image` must be [N, 1, H, W] with sides of at least 6 px; got [1, 3, 32, 32]; use fewer `layers` for small windows",
    ),
    (
        lambda: PatchDiscriminator(1, 4, 1)(torch.zeros(1, 1, 4, 4)),
        "ShapeError",
        "`image` must be [N, 1, H, W] with sides of at least 6 px; got [1, 1, 4, 4]; use fewer `layers` for small windows",
    ),
    (
        lambda: PatchDiscriminator(1, 4, 1)(torch.zeros(32, 32)),
        "ShapeError",
        "`image` must be [N, 1, H, W] with sides of at least 6 px; got [32, 32]; use fewer `layers` for small windows",
    ),
    (
        lambda: RegionMask.from_tensor(torch.zeros(2, 3, 8, 8)),
        "ShapeError",
        "`mask` must be [N, 1, H, W]; got [2, 3, 8, 8]; give one channel a region",
    ),
    (
        lambda: RegionMask.from_tensor(torch.zeros(8)),
        "ShapeError",
        "`mask` must be [N, 1, H, W]; got [8]; give one channel a region",
    ),
    (
        lambda: extract_windows(torch.zeros(2, 1, 8, 8), RegionMask.from_tensor(torch.zeros(1, 1, 8, 8)), TUMOR),
        "ShapeError",
        "`image` and its mask must agree in batch, height and width; got image [2, 1, 8, 8] and mask [1, 1, 8, 8]; give the masks of these very images",
    ),
    (
        lambda: extract_windows(torch.zeros(1, 1, 8, 9), RegionMask.from_tensor(torch.zeros(1, 1, 8, 8)), TUMOR),
        "ShapeError",
        "`image` and its mask must agree in batch, height and width; got image [1, 1, 8, 9] and mask [1, 1, 8, 8]; give the masks of these very images",
    ),
    (lambda: phantom_batch(0), "ConfigError", "`n` must be at least 1; got 0; give the number of images a domain"),
    (lambda: phantom_batch(size_px=16), "ConfigError", "`size_px` must be a whole number of at least 32; got 16"),
    (
        lambda: check_discriminator(PatchDiscriminator, channels=()),
        "ConfigError",
        "`channels` must hold numbers of at least 1; got (); leave it out for (1, 3)",
    ),
    (
        lambda: Config.from_toml("missing.toml"),
        "ConfigError",
        "`config` must be a readable TOML file; got 'missing.toml': No such file or directory",
    ),
    (
        lambda: Config(regions=[TUMOR]),
        "ConfigError",
        "`regions` must be a tuple of RegionConfig; got [RegionConfig(name='tumor', scales=3, weight=1.0, stage=None, roi_mode='crop', windows_px=(32, 48, 64, 96, 128, 192, 256), margin_px=4, context_px=0, base_channels=32, layers=3, all_strided=False, logits='weighted', scale_reduction='mean', missing='error', batch_key=None, pixel_weight=0.0, pixel_reach_px=None, pixel_channels=8, structure_weight=0.0)]; write regions=(RegionConfig('tumor'),)",
    ),
    (
        lambda: Config(ggd={"weight": 1}),
        "ConfigError",
        "`ggd` must be a GGDConfig; got {'weight': 1}; use Config.from_mapping for plain dicts",
    ),
    (
        lambda: load_checkpoint(Path("missing.pth")),
        "CheckpointError",
        "`path` must name one of our checkpoints; there is no 'missing.pth'; check the epoch, or set resume = \"fresh\" to start the regions anew",
    ),
]


def twice(host: ToyHost) -> None:
    with attach(host, None, phantom_config()):
        attach(host, None, phantom_config())


@pytest.mark.parametrize(("setting", "line"), REGION, ids=lambda value: str(value)[:40])
def test_a_wrong_setting_of_a_region(setting: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping({"regions": [{"name": "tumor", **setting}]})
    assert str(caught.value) == line


@pytest.mark.parametrize(("settings", "line"), SETTINGS, ids=lambda value: str(value)[:40])
def test_a_wrong_setting_elsewhere(settings: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(settings)
    assert str(caught.value) == line


@pytest.mark.parametrize(("call", "kind", "line"), CALLS, ids=[line[:40] for _, _, line in CALLS])
def test_a_wrong_call(
    call: Callable[[], Any], kind: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RoiProgressiveError) as caught:
        call()
    assert (type(caught.value).__name__, str(caught.value)) == (kind, line)


def test_every_line_is_one_line_that_begins_with_its_argument() -> None:
    lines = [line for *_, line in (*REGION, *SETTINGS, *CALLS)]
    assert len(lines) >= 80
    for line in lines:
        assert line.startswith("`") and line.count("`") >= 2 and "\n" not in line
        assert "; " in line or "did you mean" in line, line
