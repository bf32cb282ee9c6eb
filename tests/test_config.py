"""Configuration: what is accepted, what is refused in which words, and that it survives being written down."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import roi_progressive.config as config_module
from roi_progressive.config import Config, GGDConfig, RegionConfig, StageConfig
from roi_progressive.errors import ConfigError

SECTIONS = (Config, RegionConfig, GGDConfig, StageConfig)


def _refusal(build: Any, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build(**settings)
    return str(caught.value)


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_the_default_guides_one_tumor_with_an_uncertainty_head() -> None:
    config = Config()
    assert config.regions == (RegionConfig.studied("tumor"),)
    assert config.ggd == GGDConfig()
    assert config.resume == "networks"
    assert config.balance is None


def test_paper_has_liver_at_two_scales_then_tumor_at_three_and_every_weight_one() -> None:
    paper = Config.paper()
    assert [(region.name, region.scales, region.weight) for region in paper.regions] == [
        ("liver", 2, 1),
        ("tumor", 3, 1),
    ]
    assert all(region.pixel_weight == region.context_px == 0 for region in paper.regions)
    assert paper.stages.joined_by_fraction is None, "equal shares of the run"
    assert paper.ggd is not None
    assert paper.ggd.weight == 1.0
    assert paper.balance is None
    assert paper.adversarial == "least_squares"
    assert paper.background == -1.0


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented_and_nothing_else_is(section: type[Any]) -> None:
    documented = re.findall(r"^    (\w+): ", inspect.getdoc(section) or "", flags=re.MULTILINE)
    assert documented == [setting.name for setting in dataclasses.fields(section)]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_configuration_cannot_be_changed_after_it_was_checked(section: type[Any]) -> None:
    made = section(name="tumor") if section is RegionConfig else section()
    name = dataclasses.fields(section)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, getattr(made, name))
    assert hash(made) == hash(dataclasses.replace(made))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        *((RegionConfig, key, 10**30) for key in ("stage", "margin_px", "context_px", "base_channels")),
        *((RegionConfig, "weight", value) for value in (1e300, 10**400)),
        (RegionConfig, "windows_px", (32, 10**30)),
        *((GGDConfig, key, 10**30) for key in ("stage", "hidden_channels")),
        (GGDConfig, "learning_rate_factor", 1e300),
        (StageConfig, "patience_epochs", 10**30),
        (StageConfig, "from_epochs", (10**30,)),
        (StageConfig, "from_epochs", tuple(range(200))),
        *((Config, key, 10**30) for key in ("pool_size", "seed")),
        pytest.param(Config, "seed", 10**5000, id="more digits than Python writes"),
    ],
)
def test_no_number_is_so_large_that_it_overflows_or_takes_forever(section: type[Any], key: str, value: Any) -> None:
    name = {"name": "tumor"} if section is RegionConfig else {}
    with pytest.raises(ConfigError, match=rf"\A[^\n]*`[^`]*{key}` must [^\n]+\Z"):
        section(**name, **{key: value})


def test_a_number_of_more_digits_than_python_prints_is_told_by_how_many() -> None:
    with pytest.raises(ConfigError, match="got a whole number of about 4983 digits"):
        Config(seed=10**5000)


def test_equal_stages_can_be_written_where_there_is_no_none() -> None:
    assert Config.from_mapping({"stages": {"joined_by_fraction": False}}).stages == StageConfig(joined_by_fraction=None)
    assert "joined_by_fraction" in _refusal(Config.from_mapping, mapping={"stages": {"joined_by_fraction": True}})


@pytest.mark.parametrize("term", ["pixel", "structure"])
def test_a_region_may_not_be_named_as_anothers_term(term: str) -> None:
    name = {"pixel": "pixels_tumor", "structure": "structure_tumor"}[term]
    regions = (RegionConfig("tumor", **{f"{term}_weight": 1.0}), RegionConfig(name))
    assert f"{name!r} beside 'tumor'" in _refusal(Config, regions=regions)
    Config(regions=(RegionConfig("tumor"), RegionConfig(name)))


# --- refusals ---------------------------------------------------------------------------------------------------------

NOT_A_NUMBER = ["1", None, True, math.nan, math.inf, -math.inf, 1j, [1.0]]
NOT_WHOLE = ["1", None, True, 1.0, math.nan, [1]]

BAD_REGION: list[tuple[str, list[Any]]] = [
    ("name", ["", "left liver", "1st", "a/b", "..", "tumor\n", 3, None]),
    ("scales", [0, -1, 7, *NOT_WHOLE]),
    ("weight", [-0.1, *NOT_A_NUMBER]),
    ("stage", [0, -1, 1.5, "2", True]),
    ("roi_mode", ["cut", "", None, 1, ["crop"]]),
    ("windows_px", [(), (64, 32), (32, 32), (32.0, 64), ("32",), (True, 64), [32, 64], 64, "3264", None, {32: 64}]),
    ("margin_px", [-1, *NOT_WHOLE]),
    ("context_px", [-1, *NOT_WHOLE]),
    ("pixel_weight", [-0.1, *NOT_A_NUMBER]),
    ("pixel_reach_px", [-1, *[value for value in NOT_WHOLE if value is not None]]),
    ("pixel_channels", [0, *NOT_WHOLE]),
    ("structure_weight", [-0.1, *NOT_A_NUMBER]),
    ("base_channels", [0, *NOT_WHOLE]),
    ("layers", [0, 7, *NOT_WHOLE]),
    ("all_strided", [0, 1, "true", None]),
    ("logits", ["heavy", None]),
    ("scale_reduction", ["max", None]),
    ("missing", ["ignore", None]),
    ("batch_key", ["", 3, "{side}_mask", "{}_mask", "{0}_mask", "{domain", "domain}", "{domain!r}", "{domain:>3}"]),
]
BAD_GGD: list[tuple[str, list[Any]]] = [
    ("target", ["pared", None, 1]),
    ("weight", [-1, *NOT_A_NUMBER]),
    ("stage", [0, *NOT_WHOLE]),
    ("hidden_channels", [0, *NOT_WHOLE]),
    ("min_scale", [0.0, 1e-7, 1.5, *NOT_A_NUMBER]),
    (
        "shape_range",
        [
            (8.0, 0.2),
            (1.0, 1.0),
            (0.05, 8.0),
            (0.2, 21.0),
            (0.2,),
            (0.2, 1.0, 8.0),
            (),
            (math.nan, 8.0),
            (0.2, math.nan),
            (True, 8.0),
            ("0.2", "8.0"),
            [0.2, 8.0],
            "ab",
            2.0,
            None,
        ],
    ),
    ("epsilon", [-1e-12, 2e-3, *NOT_A_NUMBER]),
    ("learning_rate_factor", [-1.0, *NOT_A_NUMBER]),
]
BAD_STAGES: list[tuple[str, list[Any]]] = [
    ("from_epochs", [(5, 5), (9, 3), (-1, 4), (1.0, 2.0), (True, 2), ("1",), [3, 6], 5, "36", {3: 6}]),
    ("joined_by_fraction", [-0.1, 1.1, *[value for value in NOT_A_NUMBER if value is not None]]),
    ("fade_fraction", [-0.1, 1.1, *NOT_A_NUMBER]),
    ("trigger", ["progres", None]),
    ("patience_epochs", [0, *NOT_WHOLE]),
    ("min_improvement", [-0.1, 1.1, *NOT_A_NUMBER]),
]
BAD_TOP: list[tuple[str, list[Any]]] = [
    ("regions", [None, RegionConfig("tumor"), [RegionConfig("tumor")], ("tumor",), ({"name": "tumor"},), "tumor"]),
    ("ggd", [False, True, {}, {"weight": 1.0}, StageConfig()]),
    ("stages", [None, {}, GGDConfig(), (5, 10)]),
    ("adversarial", ["lsgan", None]),
    ("balance", [0, 0.0, -1.0, "1", True, math.nan, math.inf]),
    ("pool_size", [-1, *NOT_WHOLE]),
    ("background", [-1.01, 1.01, *NOT_A_NUMBER]),
    ("resume", ["exactly", None]),
    ("seed", [-1, *NOT_WHOLE]),
    ("compile", [0, 1, "yes", None]),
]


def _cases(table: list[tuple[str, list[Any]]]) -> list[Any]:
    return [pytest.param(key, value, id=f"{key}={value!r}") for key, values in table for value in values]


@pytest.mark.parametrize(
    ("section", "table"),
    [(RegionConfig, BAD_REGION), (GGDConfig, BAD_GGD), (StageConfig, BAD_STAGES), (Config, BAD_TOP)],
)
def test_every_setting_of_a_section_has_a_refused_value(section: type[Any], table: list[tuple[str, list[Any]]]) -> None:
    assert {key for key, _ in table} == {setting.name for setting in dataclasses.fields(section)}


@pytest.mark.parametrize(("key", "value"), _cases(BAD_REGION))
def test_a_wrong_region_setting_is_refused_by_its_dotted_name(key: str, value: Any) -> None:
    message = _refusal(RegionConfig, **{"name": "tumor", key: value})
    assert message.startswith("`regions.name`" if key == "name" else f"`regions['tumor'].{key}`")
    _assert_reads_well(message, value)


@pytest.mark.parametrize(("key", "value"), _cases(BAD_GGD))
def test_a_wrong_ggd_setting_is_refused_by_its_dotted_name(key: str, value: Any) -> None:
    message = _refusal(GGDConfig, **{key: value})
    assert message.startswith(f"`ggd.{key}`")
    _assert_reads_well(message, value)


@pytest.mark.parametrize(("key", "value"), _cases(BAD_STAGES))
def test_a_wrong_stage_setting_is_refused_by_its_dotted_name(key: str, value: Any) -> None:
    message = _refusal(StageConfig, **{key: value})
    assert message.startswith(f"`stages.{key}`")
    _assert_reads_well(message, value)


@pytest.mark.parametrize(("key", "value"), _cases(BAD_TOP))
def test_a_wrong_top_level_setting_is_refused_by_its_name(key: str, value: Any) -> None:
    message = _refusal(Config, **{key: value})
    assert message.startswith(f"`{key}`")
    _assert_reads_well(message, value)


def _assert_reads_well(message: str, value: Any) -> None:
    assert "\n" not in message
    assert " must be " in message
    assert f"got {value!r}" in message


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        (RegionConfig, {"name": "tumor", "scales": 1, "windows_px": (6,)}),
        (RegionConfig, {"name": "tumor", "scales": 6, "windows_px": (192,)}),
        (RegionConfig, {"name": "t", "weight": 0, "margin_px": 0, "context_px": 0, "base_channels": 1, "layers": 6}),
        (RegionConfig, {"name": "t", "batch_key": "mask"}),
        (RegionConfig, {"name": "t", "batch_key": "{domain}_mask"}),
        (RegionConfig, {"name": "t", "batch_key": "{{x}}{domain}"}),
        (GGDConfig, {"shape_range": (0.1, 20.0), "min_scale": 1.0, "epsilon": 1.0}),
        (GGDConfig, {"shape_range": (1, 2), "min_scale": 1e-6, "epsilon": 0.0}),
        (StageConfig, {"from_epochs": (), "fade_fraction": 0.0}),
        (StageConfig, {"from_epochs": (0, 1), "fade_fraction": 1.0}),
        (Config, {"regions": (), "ggd": None, "balance": 1e-6, "pool_size": 0, "background": 1}),
    ],
)
def test_the_ends_of_every_range_are_accepted(section: type[Any], settings: dict[str, Any]) -> None:
    made = section(**settings)
    assert {key: getattr(made, key) for key in settings} == settings


@pytest.mark.parametrize("scales", range(1, 7))
def test_the_first_window_must_leave_six_pixels_at_the_coarsest_scale(scales: int) -> None:
    smallest = next(side for side in range(1, 1000) if side / 2 ** (scales - 1) >= 6)
    assert RegionConfig("tumor", scales=scales, windows_px=(smallest, 1000)).windows_px[0] == smallest
    message = _refusal(RegionConfig, name="tumor", scales=scales, windows_px=(smallest - 1, 1000))
    assert "`regions['tumor'].windows_px`" in message
    assert str(smallest) in message
    assert "`scales`" in message


def test_two_regions_of_one_name_are_refused() -> None:
    message = _refusal(Config, regions=(RegionConfig("tumor"), RegionConfig("liver"), RegionConfig("tumor", scales=1)))
    assert "'tumor' twice" in message


def test_the_smoothing_may_not_exceed_the_scale_floor() -> None:
    assert GGDConfig(min_scale=1e-4, epsilon=1e-4).epsilon == 1e-4
    assert "0.0001" in _refusal(GGDConfig, min_scale=1e-4, epsilon=1.1e-4)


# --- hints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "misspelled", "meant"),
    [
        ({"region": []}, "`region`", "`regions`"),
        ({"adversarialloss": "hinge"}, "`adversarialloss`", "`adversarial`"),
        ({"ggd": {"wieght": 1}}, "`ggd.wieght`", "`weight`"),
        ({"stages": {"from_epoch": [5]}}, "`stages.from_epoch`", "`from_epochs`"),
        (
            {"regions": [{"name": "liver"}, {"name": "tumor", "window_px": [32]}]},
            "`regions[1].window_px`",
            "`windows_px`",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_known_one(mapping: Any, misspelled: str, meant: str) -> None:
    message = _refusal(Config.from_mapping, mapping=mapping)
    assert message == f"{misspelled} is not a setting; did you mean {meant}?"


# --- mappings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", [None, 3, "tumor", ["regions"], RegionConfig("tumor")])
def test_only_a_mapping_is_read_as_one(mapping: Any) -> None:
    assert "must be a mapping" in _refusal(Config.from_mapping, mapping=mapping)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"regions": {"name": "tumor"}}, "[[regions]]"),
        ({"regions": "tumor"}, "[[regions]]"),
        ({"regions": ["tumor"]}, "`regions[0]`"),
        ({"regions": [{"scales": 2}]}, "`regions[0].name` is missing"),
        ({"ggd": True}, "`ggd`"),
        ({"ggd": 0.5}, "`ggd`"),
        ({"stages": False}, "`stages`"),
        ({"stages": None}, "`stages`"),
        ({"stages": {"from_epochs": 5}}, "`stages.from_epochs`"),
        ({"ggd": {"shape_range": 2.0}}, "`ggd.shape_range`"),
    ],
)
def test_a_section_of_the_wrong_kind_is_refused_by_name(mapping: Any, words: str) -> None:
    assert words in _refusal(Config.from_mapping, mapping=mapping)


def test_an_empty_mapping_is_the_default() -> None:
    assert Config.from_mapping({}) == Config()


@pytest.mark.parametrize("off", [False, None])
def test_the_uncertainty_head_is_switched_off_by_false_or_none(off: Any) -> None:
    assert Config.from_mapping({"ggd": off}).ggd is None


def test_reading_a_mapping_leaves_it_as_it_was() -> None:
    mapping = {"regions": [{"name": "tumor", "windows_px": [32, 64]}], "ggd": {"shape_range": [0.5, 4.0]}, "stages": {}}
    before = json.dumps(mapping)
    Config.from_mapping(mapping)
    assert json.dumps(mapping) == before


def test_changing_what_to_mapping_returned_leaves_the_configuration_as_it_was() -> None:
    config = Config()
    mapping = config.to_mapping()
    mapping["regions"][0]["scales"] = 1
    mapping["ggd"]["weight"] = 9.0
    assert config == Config()


_floats = {"allow_nan": False, "allow_infinity": False}
_regions = st.builds(
    RegionConfig,
    name=st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True),
    scales=st.integers(1, 3),
    weight=st.floats(0, 1e6, **_floats),
    stage=st.none() | st.integers(1, 9),
    roi_mode=st.sampled_from(list(config_module.ROI_MODES)),
    windows_px=st.sets(st.integers(24, 999), min_size=1, max_size=5).map(lambda sides: tuple(sorted(sides))),
    context_px=st.integers(0, 99),
    all_strided=st.booleans(),
    logits=st.sampled_from(("weighted", "plain", "mean")),
    missing=st.sampled_from(("error", "skip")),
    batch_key=st.none() | st.just("{domain}_mask"),
)
_configs = st.builds(
    Config,
    regions=st.lists(_regions, max_size=3, unique_by=lambda region: region.name).map(tuple),
    ggd=st.none()
    | st.builds(
        GGDConfig,
        target=st.sampled_from(config_module.GGD_TARGETS),
        weight=st.floats(0, 1e6, **_floats),
        shape_range=st.tuples(st.floats(0.1, 2.0), st.floats(2.5, 20.0)),
    ),
    stages=st.builds(
        StageConfig,
        from_epochs=st.none() | st.sets(st.integers(0, 999), max_size=4).map(lambda epochs: tuple(sorted(epochs))),
        fade_fraction=st.floats(0, 1),
        trigger=st.sampled_from(("progress", "plateau")),
    ),
    adversarial=st.sampled_from(list(config_module.ADVERSARIAL_LOSSES)),
    balance=st.none() | st.floats(1e-6, 1e6, **_floats),
    background=st.floats(-1, 1),
    resume=st.sampled_from(("networks", "exact")),
    seed=st.integers(0, 2**63 - 1),
)


@given(_configs)
def test_a_configuration_survives_its_mapping(config: Config) -> None:
    again = Config.from_mapping(config.to_mapping())
    assert again == config
    assert hash(again) == hash(config)


@given(_configs)
def test_a_configuration_survives_json(config: Config) -> None:
    assert Config.from_mapping(json.loads(json.dumps(config.to_mapping()))) == config


@given(_configs)
def test_a_configuration_survives_pickle_and_its_own_repr(config: Config) -> None:
    assert pickle.loads(pickle.dumps(config)) == config
    assert eval(repr(config), {section.__name__: section for section in SECTIONS}) == config


@given(_configs)
def test_a_configuration_survives_toml(config: Config) -> None:
    mapping = {key: value for key, value in config.to_mapping().items() if value is not None}
    mapping["regions"] = [{k: v for k, v in region.items() if v is not None} for region in mapping["regions"]]
    mapping["stages"] = {k: v for k, v in mapping["stages"].items() if v is not None}
    mapping.setdefault("ggd", False)
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in mapping.items())
    assert Config.from_mapping(config_module.tomllib.loads(text)) == config


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


# --- TOML files -------------------------------------------------------------------------------------------------------


def test_a_file_with_every_section_is_read(tmp_path: Path) -> None:
    path = tmp_path / "roi.toml"
    path.write_text(
        textwrap.dedent(
            """
            adversarial = "hinge"
            balance = 0.5

            [[regions]]
            name = "liver"
            scales = 2
            windows_px = [64, 128, 256]

            [[regions]]
            name = "tumor"
            weight = 2

            [ggd]
            target = "paired"
            shape_range = [0.5, 4]

            [stages]
            from_epochs = [10, 20]
            """
        ),
        encoding="utf-8",
    )
    expected = Config(
        regions=(RegionConfig("liver", scales=2, windows_px=(64, 128, 256)), RegionConfig("tumor", weight=2)),
        ggd=GGDConfig(target="paired", shape_range=(0.5, 4)),
        stages=StageConfig(from_epochs=(10, 20)),
        adversarial="hinge",
        balance=0.5,
    )
    assert Config.from_toml(path) == expected
    assert Config.from_toml(str(path)) == expected


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "roi.toml"
    path.touch()
    assert Config.from_toml(path) == Config()


@pytest.mark.parametrize("content", [b"regions = [", b"regions", b"seed = 1\nseed = 2", b"\xff\xfe", b"seed = 0x"])
def test_a_file_that_is_not_toml_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "roi.toml"
    path.write_bytes(content)
    message = _refusal(Config.from_toml, path=path)
    assert "must be a TOML file" in message
    assert repr(str(path)) in message
    assert len(message.splitlines()) == 1


def test_a_file_that_is_not_there_is_refused_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.toml", tmp_path):
        message = _refusal(Config.from_toml, path=path)
        assert "must be a readable TOML file" in message
        assert repr(str(path)) in message


def test_a_wrong_setting_in_a_file_is_refused_with_the_path_and_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "roi.toml"
    path.write_text("[[regions]]\nname = 'tumor'\nscales = 9\n", encoding="utf-8")
    message = _refusal(Config.from_toml, path=path)
    assert message == f"{path}: `regions['tumor'].scales` must be a whole number between 1 and 6; got 9"


# --- the module itself ------------------------------------------------------------------------------------------------


def test_a_configuration_is_written_and_checked_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, roi_progressive; roi_progressive.Config.paper(); "
        "print([heavy for heavy in ('torch', 'numpy') if heavy in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(config_module.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
