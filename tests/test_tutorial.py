"""``examples/README.md``: its commands of ours run in their order, the host's parse, and its files exist."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from roi_progressive import Config
from roi_progressive.cli.main import main
from roi_progressive.cli.parser import parser

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TUTORIAL = (EXAMPLES / "README.md").read_text(encoding="utf-8")
SHORTENED = {
    "prepare": ["--size", "32"],
    "train": [
        *("--epochs", "1", "--decay-epochs", "0", "--channels", "2", "--depth", "2", "--threads", "1"),
        *("--discriminator-channels", "2", "--discriminator-layers", "1"),
    ],
}


def commands() -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", TUTORIAL, flags=re.DOTALL)
    return [shlex.split(line) for line in "".join(blocks).splitlines()]


def test_its_commands_take_scans_to_two_tables_and_a_figure(
    write_scans: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = write_scans(tmp_path)
    (printed,) = re.findall(r"```csv\n(.*?)```", TUTORIAL, flags=re.DOTALL)
    assert table.read_text(encoding="utf-8").startswith(printed)
    monkeypatch.chdir(tmp_path)
    ours = [command[1:] for command in commands() if command[0] == "roi-progressive"]
    assert [command[0] for command in ours] == ["prepare", "check", "evaluate", "evaluate", "train", "figure"]
    for command in ours:
        if command[0] == "check":  # it needs a checkout; tests/hosts runs it on real ones
            assert str(parser().parse_args(command).host) == "CHECKOUT"
            for name in ("plain", "guided"):  # what the host's test.py makes of data/testA
                shutil.copytree("data/testA", name)
            continue
        assert main([*command, *SHORTENED.get(command[0], [])]) == 0, capsys.readouterr().err
    for name in ("scores_plain/table.md", "scores_guided/table.tex", "run/test/figure_A2B.png"):
        assert Path(name).stat().st_size > 0


def test_the_printed_configuration_is_a_valid_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", TUTORIAL, flags=re.DOTALL)
    (tmp_path / "roi.toml").write_text(text, encoding="utf-8")
    assert [region.name for region in Config.from_toml(tmp_path / "roi.toml").regions] == ["tumor"]


def test_the_plain_and_the_guided_training_differ_by_script_and_name_alone() -> None:
    plain, guided = (command for command in commands() if command[:1] == ["python"] and "--host" in command)
    assert plain[1] == "EXAMPLES/train_plain.py" and guided[1] == "EXAMPLES/train.py"
    assert [(one, other) for one, other in zip(plain, guided, strict=True) if one != other] == [
        ("EXAMPLES/train_plain.py", "EXAMPLES/train.py"),
        ("plain", "guided"),
    ]
    checked = next(command for command in commands() if command[:2] == ["roi-progressive", "check"])
    assert set(checked[checked.index("--") + 1 :]) <= set(guided), "what is looked at is what is trained"


def test_every_file_of_the_examples_has_its_line() -> None:
    named = set(re.findall(r"`(?:EXAMPLES/)?([\w.]+(?:\.py|\.toml|\.ipynb|/))`", TUTORIAL))
    files = {
        path.name + "/" * path.is_dir() for path in EXAMPLES.iterdir() if path.suffix in (".py", ".toml", ".ipynb", "")
    }
    assert files - {"__pycache__/"} <= named
