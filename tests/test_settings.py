"""All settings of a training from one file: what comes after what, and mistakes in one line with the nearest name."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from roi_progressive.cli.main import main
from roi_progressive.config import Config
from roi_progressive.errors import ConfigError
from roi_progressive.runs.folder import Run, history
from roi_progressive.runs.kept_epochs import best_epoch
from roi_progressive.runs.options import TrainOptions
from roi_progressive.runs.settings import read_settings
from roi_progressive.runs.validation import validations

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_defaults_then_the_file_then_single_settings_then_options(write: Any) -> None:
    file = write("[train]\nepochs = 3\nseed = 1\ncycle = 5\n[ggd]\nweight = 0.2\nstage = 2\n")
    chosen = read_settings(file, ["train.seed=2", "train.cycle=6", "ggd.weight=0.3"], {"cycle": 7.0})
    assert chosen.options == TrainOptions(epochs=3, seed=2, cycle=7.0)
    config = chosen.config("tumor")
    assert config is not None and config.ggd is not None
    assert (config.ggd.weight, config.ggd.stage) == (0.3, 2)


def test_a_file_of_training_alone_says_nothing_of_guidance(write: Any) -> None:
    chosen = read_settings(write("[train]\nepochs = 3\n"))
    assert chosen.guidance is None and chosen.config(None) is None
    config = chosen.config("lesion")
    assert config is not None and [region.name for region in config.regions] == ["lesion"]


def test_every_key_of_a_configuration_file_means_there_what_it_means_without_a_table_train() -> None:
    file = ROOT / "examples" / "roi.toml"
    assert read_settings(file).config(None) == Config.from_toml(file)
    assert read_settings(file).options == TrainOptions()


def test_the_example_shows_every_option_with_its_default() -> None:
    file = ROOT / "examples" / "run.toml"
    assert read_settings(file).options == TrainOptions()
    shown = re.findall(r"^(?:# )?(\w+) = ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(set(shown) - {"data", "name"}) == sorted(field.name for field in fields(TrainOptions))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.learning_rate=1e-4", 1e-4),
        ("train.lr_policy=cosine", "cosine"),
        ('train.keep="best:psnr"', None),
        ("train.flip=false", False),
        ('train.logger=["csv", "tensorboard"]', ("csv", "tensorboard")),
        ("train.logger=csv", ("csv",)),
    ],
)
def test_a_value_is_written_as_in_the_file(text: str, value: Any) -> None:
    chosen = read_settings(sets=["train.validate_every=1", text]).options
    key = text.partition("=")[0].removeprefix("train.")
    assert getattr(chosen, key) == ("best:psnr" if key == "keep" else value)


def test_a_region_is_set_by_its_name_and_the_data_s_own_where_the_file_names_none(write: Any) -> None:
    file = write('[[regions]]\nname = "liver"\n[[regions]]\nname = "tumor"\n')
    config = read_settings(file, ["regions.tumor.scales=1", "regions.liver.windows_px=[48, 64]"]).config(None)
    assert config is not None
    assert [(region.scales, region.windows_px[0]) for region in config.regions] == [(3, 48), (1, 32)]
    config = read_settings(None, ["regions.cyst.scales=1"], default_region="cyst").config("cyst")
    assert config is not None and [(region.name, region.scales) for region in config.regions] == [("cyst", 1)]


def test_what_stands_at_the_top_is_set_without_a_table() -> None:
    config = read_settings(None, ["balance=0.5", "ggd=false", "adversarial=hinge"]).config("tumor")
    assert config is not None and (config.balance, config.ggd, config.adversarial) == (0.5, None, "hinge")


@pytest.mark.parametrize(
    ("content", "sets", "message"),
    [
        ("[train]\nepohcs = 3", (), r"run\.toml: `train\.epohcs` is not a setting; did you mean `train\.epochs`\?"),
        ("[trian]\nepochs = 3", (), "run.toml: `trian` is not a setting"),
        ("[train]\nepochs = 3.5", (), "run.toml: `epochs` must be a whole number"),
        ("train = 3", (), r"`train` must be a table of settings; got 3"),
        ("[train]\ndata = 3", (), r"`train\.data` must be a path"),
        ("[ggd]\nwieght = 1", (), r"`ggd\.wieght` is not a setting; did you mean `weight`|`ggd\.wieght`"),
        ("", ("train.learning_rat=1",), r"did you mean `train\.learning_rate`\?"),
        ("", ("trian.epochs=1",), r"`trian\.epochs` is not a setting; did you mean `train\.epochs`\?"),
        ("", ("balanc=1",), "did you mean `balance`"),
        ("", ("train.epochs",), r"`set` must be table\.key=value; got 'train\.epochs'"),
        ("", ("=3",), r"`set` must be table\.key=value"),
        ("", ("train.epochs=many",), "`epochs` must be a whole number"),
        ("[[regions]]\nname = 'tumor'", ("regions.tumr.scales=1",), "no region 'tumr'; did you mean 'tumor'"),
        ("[[regions]]\nname = 'tumor'", ("regions.tumor.scale=1",), "did you mean `regions.tumor.scales`"),
        ("[[regions]]\nname = 'tumor'", ("regions.0=1",), r"must be set as regions\.NAME\.key=value"),
        ("ggd = false", ("ggd.weight=1",), r"`ggd` must be a table; it is False in the file"),
    ],
)
def test_a_mistake_is_one_line(content: str, sets: tuple[str, ...], message: str, write: Any) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(write(content), sets)
    assert "\n" not in str(caught.value)


def test_the_command_trains_from_the_file_alone(small_data: Path, write: Any, tmp_path: Path) -> None:
    file = write(
        f"""
        [train]
        data = {str(small_data)!r}
        channels = 2
        depth = 2
        discriminator_channels = 2
        discriminator_layers = 1
        epochs = 5
        decay_epochs = 0
        validate_every = 1
        keep = "best:psnr"
        [[regions]]
        name = "tumor"
        scales = 2
        windows_px = [24, 32]
        base_channels = 2
        [ggd]
        hidden_channels = 2
        """.replace("\n        ", "\n")
    )
    typed = ["--set", "regions.tumor.scales=1", "--set", "train.epochs=3", "--epochs", "2"]
    assert main(["train", "--config", str(file), "--out", str(tmp_path / "run"), *typed]) == 0
    run = Run.open(tmp_path / "run")
    assert (run.options.epochs, run.options.keep, run.config.regions[0].scales) == (2, "best:psnr", 1)
    assert len(history(run.folder)) == len(validations(run.folder)) == 2
    assert best_epoch(run.folder) in (1, 2)


def test_a_file_of_training_alone_goes_with_no_regions_and_one_of_guidance_does_not(
    small_data: Path, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "channels = 2\ndepth = 2\ndiscriminator_channels = 2\ndiscriminator_layers = 1\nepochs = 1\n"
    typed = ["train", "--data", str(small_data), "--out", str(tmp_path / "run"), "--no-regions", "--config"]
    assert main([*typed, str(write(f"[train]\ndecay_epochs = 0\n{small}"))]) == 0
    assert Run.open(tmp_path / "run").config.regions == ()
    assert main([*typed, str(write("[ggd]\nweight = 1\n")), "--force"]) == 2
    assert "must not be given together where the file has other tables than [train]" in capsys.readouterr().err


def test_a_resumed_run_takes_no_new_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path), "--resume", "--set", "train.epochs=3"]) == 2
    assert "`--resume` continues a run as it was started; got --set too" in capsys.readouterr().err


def test_every_option_of_a_training_has_an_option_of_the_command_line() -> None:
    from roi_progressive.cli.parser import parser

    for field in fields(TrainOptions):
        flag = f"--no-{field.name}" if field.name == "flip" else f"--{field.name.replace('_', '-')}"
        is_switch = isinstance(field.default, bool)
        value = {"keep": "best:psnr", "logger": "csv"}.get(field.name, "1" if field.name != "device" else "cpu")
        if field.name == "generator":
            value = "unet"
        chosen = parser().parse_args(["train", "--out", "x", flag, *([] if is_switch else [value])])
        assert hasattr(chosen, field.name), field.name
