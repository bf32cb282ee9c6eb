"""The pages of ``docs/``: commands, blocks and tables are run and checked as printed, and links lead somewhere."""

from __future__ import annotations

import argparse
import inspect
import itertools
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import roi_progressive
from roi_progressive import Config, PatchDiscriminator, RegionConfig, testing
from roi_progressive.cli.main import main
from roi_progressive.cli.parser import COMMANDS, parser
from roi_progressive.evaluation import metrics
from roi_progressive.plugins.manager import hookspecs
from roi_progressive.testing import ToyHost, check_adapter, phantom_batch, phantom_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}

# What a command is shortened by, so that it runs in seconds; everything printed stays as it is.
SHORTENED = {
    "train": [
        *("--epochs", "1", "--decay-epochs", "0", "--channels", "4", "--depth", "2"),
        *("--discriminator-channels", "4", "--discriminator-layers", "2", "--threads", "1"),
    ],
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = "".join(blocks(page, "console")).splitlines()
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def ours(page: str) -> list[list[str]]:
    return [command[1:] for command in commands(page) if command[0] == "roi-progressive"]


def every_command() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for command in commands(page):
            yield page, command


# --- commands ---------------------------------------------------------------------------------------------------------

MEDICAL = (
    *("prepare", "train", "evaluate", "figure", "calibrate", "translate"),
    *("calibrate", "evaluate", "evaluate", "export"),
)
HANDED_ON = ("A2B.pt", "B2A.pt", "card.md")


def test_the_printed_commands_take_scans_to_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scans(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copy("p05_ct.nii.gz", "p09_ct.nii.gz")
    chain = [*ours("scans.md"), *ours("evaluation.md")]
    assert [command[0] for command in chain] == list(MEDICAL)
    for command in chain:
        if "--volumes" in command:  # what anything made of the same scans
            for folder in ("ct", "synthetic_ct"):
                (tmp_path / folder).mkdir()
                for number in range(1, 6):
                    shutil.copy(f"p{number:02d}_ct.nii.gz", folder)
        elif "--fake" in command:  # what another trainer made of the same slices
            shutil.copytree("run/test/A2B", "other")
        assert main([*command, *SHORTENED.get(command[0], [])]) == 0, capsys.readouterr().err
    assert "TPSNR" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "handed_on").iterdir()) == [*HANDED_ON, "written.json"]
    assert (tmp_path / "volume_scores" / "volumes.md").is_file() and (tmp_path / "p09_sigma.nii.gz").is_file()
    assert (tmp_path / "run" / "test" / "figure_B2A.png").is_file()


def test_three_commands_translate_a_patient_from_ct_alone_without_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    write_scans(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [line.split(",") for line in Path("scans.csv").read_text(encoding="utf-8").splitlines()]
    columns = [lines[0].index(name) for name in ("patient", "modality", "image")]
    Path("unmasked.csv").write_text("\n".join(",".join(line[at] for at in columns) for line in lines), encoding="utf-8")
    shutil.copy("p05_ct.nii.gz", "p09_ct.nii.gz")
    chain = ours("translate.md")
    assert [command[0] for command in chain] == ["prepare", "train", "translate"]
    for command in chain:
        assert main([*command, *SHORTENED.get(command[0], [])]) == 0, capsys.readouterr().err
        if command[0] == "train":  # what was not aligned cannot be scored, and the way on is the next command
            said = capsys.readouterr().out.splitlines()[-1]
            assert "for a new scan: roi-progressive translate unguided SCAN OUT; its data are not in pairs" in said
    scan, made = (sitk.ReadImage(f"p09_{kind}.nii.gz") for kind in ("ct", "mr"))
    for part in ("Origin", "Spacing", "Direction", "Size"):
        assert getattr(scan, f"Get{part}")() == getattr(made, f"Get{part}")()
    assert sitk.GetArrayFromImage(made).max() > 0
    (source,) = blocks("translate.md", "python")
    Path("p09_mr.nii.gz").unlink()
    exec(source, {"roi_progressive": roi_progressive, "netG_A": torch.nn.Identity()})
    assert Path("p09_mr.nii.gz").is_file()


def test_the_printed_functions_do_what_the_commands_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_data: Path, small_networks: dict[str, Any]
) -> None:
    (source,) = [block for block in blocks("evaluation.md", "python") if "roi_progressive.train(" in block]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_data, "data")
    Path("roi.toml").write_text(
        '[[regions]]\nname = "tumor"\nscales = 1\nwindows_px = [24]\nbase_channels = 2\n', encoding="utf-8"
    )
    small = ", ".join(f"{name}={value}" for name, value in small_networks.items())
    names: dict[str, Any] = {}
    exec(source.replace("epochs=50, decay_epochs=50", f"epochs=1, decay_epochs=0, {small}"), names)
    assert set(names["scores"].results["model"]) == {"A2B", "B2A"} and len(names["figures"]) == 2


def write_scans(folder: Path) -> None:
    """Five patients of CT and MR, as the printed table of scans begins."""
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    (table,) = blocks("scans.md", "csv")
    header, *rows = table.strip().splitlines()
    lines = [header, *(row.replace("p01", f"p{n:02d}") for n in range(1, 6) for row in rows)]
    (folder / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    z, y, x = np.mgrid[0:12, 0:48, 0:48]
    for n in range(1, 6):
        body = (np.hypot(y - 24, x - 24) < 20).astype(np.float32)
        tumor = np.hypot(np.hypot(y - 24 - n, x - 20), 3 * (z - 6)) < 8
        noise = np.random.default_rng(n).normal(0, 5, body.shape)
        write = {
            f"p{n:02d}_ct.nii.gz": (body * 1040 - 1000 + tumor * -60 + noise).astype(np.float32),
            f"p{n:02d}_ct_tumor.nii.gz": tumor.astype(np.uint8),
            f"p{n:02d}_mr.nii.gz": (body * 300 + tumor * 200 + np.abs(noise)).astype(np.float32),
            f"p{n:02d}_mr_seg.nii.gz": (tumor * 2 + (body > 0) * ~tumor).astype(np.uint8),
        }
        for name, array in write.items():
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((2.0, 2.0, 5.0))
            sitk.WriteImage(image, str(folder / name))


@pytest.mark.parametrize(("page", "command"), [(page, command) for page, command in every_command()])
def test_every_printed_command_is_one_that_there_is(page: str, command: list[str]) -> None:
    """Ours parse; a file that Python is given exists; what is installed is an extra or a folder of the checkout."""
    if command[0] == "roi-progressive":
        parser().parse_args([part for part in command[1:] if part != ">"][: _before_output(command)])
    elif command[0] in ("python", "bash"):
        assert (ROOT / command[1]).is_file()
    elif command[:2] == ["pip", "install"]:
        extras = re.findall(r"\[([\w,]+)\]", command[-1])
        assert all(f"\n{extra} =" in (ROOT / "setup.cfg").read_text(encoding="utf-8") for extra in extras)
    else:
        assert command[0] in ("pytest", "mkdocs", "git", "docker", "jupyter"), f"{page} prints {shlex.join(command)}"


def _before_output(command: list[str]) -> int | None:
    """How many arguments stand before a shell's ``>``."""
    return command.index(">") - 1 if ">" in command else None


def options_of(command: str) -> set[str]:
    """Every option of a command of ours."""
    (subcommands,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return {name for action in subcommands.choices[command]._actions for name in action.option_strings}


def inline_commands() -> Iterator[tuple[str, str, list[str]]]:
    """What stands in a sentence and begins with a command of ours: ``evaluate run --compare other_run``."""
    for page, text in PAGES.items():
        for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            words = code.removeprefix("roi-progressive ").split()
            if "roi_progressive.cli" in words:  # under torchrun
                words = words[words.index("roi_progressive.cli") + 1 :]
            if len(words) > 1 and words[0] in COMMANDS:
                yield page, words[0], words[1:]


@pytest.mark.parametrize(("page", "command", "words"), list(inline_commands()))
def test_a_command_in_a_sentence_has_options_that_there_are(page: str, command: str, words: list[str]) -> None:
    ours = itertools.takewhile(lambda word: word != "--host-options", words)  # then come a host's own
    assert [word for word in ours if word.startswith("--") and word not in {*options_of(command), "--"}] == []


def test_the_printed_check_is_a_command_that_parses() -> None:
    (command,) = [command for command in ours("script.md") if command[0] == "check"]
    options = parser().parse_args(command)
    assert (str(options.host), options.host_options) == ("CHECKOUT", ["--model", "pix2pix"])


# --- blocks -----------------------------------------------------------------------------------------------------------


def test_the_printed_configuration_is_a_valid_one() -> None:
    text = blocks("configuration.md", "toml")[0]
    config = Config.from_mapping(tomllib.loads(text))
    assert [(region.name, region.scales) for region in config.regions] == [("liver", 2), ("tumor", 3)]


class _Trainer:
    """The trainer the printed adapter speaks of."""

    def __init__(self) -> None:
        self.ct_to_mr = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.optimizer = torch.optim.Adam(self.ct_to_mr.parameters(), lr=1e-3)

    def translate(self) -> None:
        self.fake_mr = torch.tanh(self.ct_to_mr(self.ct))

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        self.ct, self.mr = batch["A"], batch["B"]
        self.translate()
        self.optimizer.zero_grad()
        self.fake_mr.abs().mean().backward()
        self.optimizer.step()


def test_the_printed_adapter_passes_the_check_it_names() -> None:
    (source,) = [block for block in blocks("own-host.md", "python") if "class MyAdapter" in block]
    names: dict[str, Any] = {}
    exec(source, names)
    assert source.count("\n") < 60, "one screen"

    def make_host() -> tuple[_Trainer, list[dict[str, torch.Tensor]]]:
        torch.manual_seed(0)
        mask = torch.zeros(2, 1, 40, 40)
        mask[..., 8:20, 8:20] = 1
        batch = {"A": torch.rand(2, 1, 40, 40), "B": torch.rand(2, 1, 40, 40), "A_tumor": mask, "B_tumor": mask}
        return _Trainer(), [batch] * 3

    region = RegionConfig("tumor", scales=1, base_channels=4, batch_key="{domain}_tumor")
    config = Config(regions=(region,), ggd=None)
    check_adapter(make_host, step=lambda host, batch: host.step(batch), plugins=[names["MyPlugin"]()], config=config)


def test_the_printed_test_of_a_plugin_passes_with_what_its_fixtures_give(tmp_path: Path) -> None:
    (source,) = [block for block in blocks("own-host.md", "python") if "def test_my_plugin" in block]

    class MyDiscriminators:
        asked = 0

        @roi_progressive.hookimpl
        def roi_discriminator(self, region: RegionConfig, in_channels: int, smallest_px: int) -> torch.nn.Module:
            MyDiscriminators.asked += 1
            return PatchDiscriminator(in_channels, 2, 1)

    names = {"roi_progressive": roi_progressive, "MyDiscriminators": MyDiscriminators}
    exec(source, names)
    names["test_my_plugin"](ToyHost(tmp_path), phantom_batch(), phantom_config())
    assert MyDiscriminators.asked == 2, "one scale of one region in two directions"


def test_the_difference_of_the_plain_script_is_the_examples() -> None:
    printed = [block for block in blocks("script.md", "diff") if "generator_loss" in block]
    added = [line[1:].strip() for line in printed[0].splitlines() if line.startswith("+")]
    example = (ROOT / "examples" / "plain_loop_with_regions.py").read_text(encoding="utf-8")
    for call in ("roi_progressive.attach(", "session.start_epoch(", "session.generator_loss(", "discriminator_step()"):
        assert any(call in line for line in added)
        assert call in example


def test_the_two_added_lines_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert blocks("script.md", "diff")[0] in readme


# --- tables -----------------------------------------------------------------------------------------------------------


def test_every_hook_has_its_line_with_its_own_arguments() -> None:
    printed = re.findall(r"^\| `(roi_\w+)\((.*?)\)` \|", PAGES["hooks.md"], flags=re.MULTILINE)
    hooks = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("roi_")}
    assert dict(printed) == {name: ", ".join(inspect.signature(spec).parameters) for name, spec in hooks.items()}


def test_every_metric_is_defined_with_its_heading_and_its_key() -> None:
    printed = re.findall(r"^\| ([^|]+?) \| `(\w+)` \|", PAGES["metrics.md"], flags=re.MULTILINE)
    assert printed == [(metric.title, metric.key) for metric in metrics.METRICS]


def test_every_public_name_is_described() -> None:
    described = set(re.findall(r"^::: ([\w.]+)$", PAGES["api.md"], flags=re.MULTILINE))
    public = {f"roi_progressive.{name}" for name in roi_progressive.__all__ if name != "hookimpl"}
    public |= {f"roi_progressive.testing.{name}" for name in testing.__all__}
    assert public <= described and "`roi_progressive.hookimpl`" in PAGES["api.md"]


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Of every heading, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    described = re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE)  # by mkdocstrings, under their names
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings} | {*described}


def internal_links() -> Iterator[tuple[str, str]]:
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if not link.startswith("https://"):
                yield page, link


@pytest.mark.parametrize(("page", "link"), list(internal_links()))
def test_every_internal_link_leads_to_a_file_and_to_a_heading_in_it(page: str, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = (ROOT / "docs" / file).resolve() if file else ROOT / "docs" / page
    assert target.is_file() and ROOT in target.parents, f"{page} links {link}"
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page} links {link}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    named = re.findall(r"`((?:examples|adapters|benchmarks|docs|tests)/[\w./]+\.\w+)(?:::\w+)?`", PAGES[page])
    assert [name for name in named if not (ROOT / name).is_file()] == []
