"""The card beside exported programs: what they are, what they were trained on, how good they were, and their limits.

It has counts, settings and figures; no name of a patient, a file or a folder.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import DataError
from ..evaluation.aggregation import metric_of
from ..evaluation.image_files import list_images
from ..evaluation.metrics import METRICS
from ..evaluation.pairs import read_domains
from ..evaluation.volume_metrics import VOLUME_METRICS
from ..saving.names import DIRECTIONS, DOMAINS, SPLITS, Domains, source_of, target_of
from ..saving.plain_text import in_markdown
from ..saving.records import entry, fault_of, read_json
from ..saving.written import made_by
from .calibrate import SigmaCalibration
from .folder import Run
from .translate import origin_of
from .volume_scores import FILES, TITLE

CARD = "card.md"
VOLUMES = FILES[3]
_OF_PREPARE = (
    *("size_px", "dtype", "orientation", "ct_window", "mr_percentiles", "mr_steps", "mr_standard"),
    *("slices_each_side", "field_of_view_mm", "neighbours", "regions", "phases"),
)
"""What a manifest says of how slices are made, and of nobody's scan."""


@dataclass(frozen=True)
class Program:
    """One exported program.

    Args:
        direction: ``A2B`` or ``B2A``.
        file: Its name.
        least_px: The least side of its images.
        multiple_px: What their sides are multiples of.
        sigma: Whether it returns sigma too.
        difference: By how much it differs from the run's networks at most, in a range of 2; ``None`` where it was not
            tried.
    """

    direction: str
    file: str
    least_px: int
    multiple_px: int
    sigma: bool
    difference: float | None


def model_card(run: Run, epoch: int, programs: Sequence[Program], calibration: SigmaCalibration | None = None) -> str:
    """The card in Markdown.

    Args:
        run: Whose programs they are.
        epoch: Whose networks.
        programs: Those beside the card.
        calibration: What their sigma was corrected by; ``None`` where it is as the networks give it.

    Raises:
        DataError: The manifest of the data, or the scores of the run, are damaged.
    """
    domains = read_domains(run.data)
    manifest = _manifest(run.data)
    parts = [
        f"# {' and '.join(_title(p.direction, domains) for p in programs)}",
        _what_it_is(run, epoch, programs, domains),
        _how_to_use(programs, domains, manifest, run.neighbours),
        _how_good(run, epoch, programs, domains, calibration),
        _limits(programs, domains, manifest),
        _sigma(run, programs, calibration),
        _trained_on(run, domains, manifest),
        _trained_how(run),
    ]
    return "\n\n".join(parts) + "\n"


def _title(direction: str, domains: Domains) -> str:
    return in_markdown(domains.title(direction))


def _manifest(data: Path) -> Mapping[str, Any]:
    path = data / "manifest.json"
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
        for described in entry({"slices": [], **found}, "slices", list):
            for key in ("split", "domain", "patient"):
                entry(described, key, str, int)
        return dict(found)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be a data set's manifest; {fault_of(error)}; prepare it anew") from error


def _what_it_is(run: Run, epoch: int, programs: Sequence[Program], domains: Domains) -> str:
    averaged = run.options.average_decay > 0
    of = f"the moving average of the generators (decay {run.options.average_decay:g})" if averaged else "the generators"
    lines = [
        "## What it is",
        "",
        f"Generators that translate slices, made from {of} after epoch {epoch} of {run.last_epoch}, by roi-progressive "
        f"{__version__} with torch {torch.__version__}, NumPy {np.__version__} and Python {platform.python_version()}. "
        f"The programs hold weights and nothing else: no image, no discriminator, no optimizer.",
        "",
        "| file | translates | takes | returns | differs from the run's networks by at most |",
        "| --- | --- | --- | --- | --- |",
    ]
    for program in programs:
        sides = f"H and W of at least {program.least_px}"
        sides += f", multiples of {program.multiple_px}" if program.multiple_px > 1 else ""
        returns = "`image`, `sigma`" if program.sigma else "`image`"
        tried = "not tried" if program.difference is None else f"{program.difference * 127.5:.1g} grey levels of 255"
        title = _title(program.direction, domains)
        lines.append(f"| `{program.file}` | {title} | `source` [N, C, H, W], {sides} | {returns} | {tried} |")
    return "\n".join(lines)


def _how_to_use(programs: Sequence[Program], domains: Domains, manifest: Mapping[str, Any], neighbours: int) -> str:
    first = programs[0]
    if first.file.endswith(".pt"):
        returned = "image, sigma" if first.sigma else "image"
        code = ["import torch", "", f'program = torch.jit.load("{first.file}")', f"{returned} = program(source)"]
    else:
        returned = "image, sigma" if first.sigma else "(image,)"
        opened = f'onnxruntime.InferenceSession("{first.file}", providers=["CPUExecutionProvider"])'
        code = ["import onnxruntime", "", f"session = {opened}"]
        code += [f'{returned} = session.run(None, {{"source": source}})  # float32 arrays']
    lines = ["## How to use it", "", "```python", *code, "```", ""]
    lines.append(
        "`source` is float32 in [-1, 1]: `grey / 127.5 - 1` of a slice of grey levels 0 to 255, prepared as those it "
        "was trained on (below). `image` is in [-1, 1] too, `(image + 1) * 127.5` its grey levels."
    )
    if neighbours:
        lines.append(
            f"C is {1 + 2 * neighbours}: the first channel is the slice, then come the {neighbours} below and the "
            f"{neighbours} above it, from the feet to the head; where the volume ends its last slice repeats. What is "
            f"returned is the slice alone, [N, 1, H, W]."
        )
    for domain in sorted({end for p in programs for end in (source_of(p.direction), target_of(p.direction))}):
        window = _window(manifest, domain)
        if window is not None:
            low, high = window
            lines.append(
                f"Of {in_markdown(domains.name(domain))}, -1 is {low:g} HU and 1 is {high:g} HU: "
                f"`HU = (x + 1) / 2 * {high - low:g} + {low:g}`; what lies beyond is clipped."
            )
        elif manifest.get("kind") == "prepared":
            lines.append(_of_no_unit(manifest, in_markdown(domains.name(domain))))
    if manifest.get("kind") == "prepared":
        field_mm = manifest.get("field_of_view_mm")
        side = "the body's longer side" if field_mm is None else f"{float(field_mm):g} mm"
        lines.append(
            f"A slice is axial, seen from the feet, the patient's front at the top; a square of {side} around the body "
            f"is resized to {manifest['size_px']} px. `roi-progressive translate` does all of it."
        )
    return "\n".join(lines)


def _of_no_unit(manifest: Mapping[str, Any], name: str) -> str:
    """How the values of a domain that is not in HU become an image's."""
    steps = manifest.get("mr_steps", ())
    low, high = manifest.get("mr_percentiles", (0, 100)) if "clip" in steps else (0, 100)
    before = [step for step in steps if step not in ("clip", "zscore")]
    after = f", after {' and '.join(before)}" if before else ""
    return (
        f"Of {name}, -1 is the percentile {low:g} and 1 the percentile {high:g} of the body's values in the whole "
        f"volume{after}, linear between and clipped beyond; all but the body is -1."
    )


def _window(manifest: Mapping[str, Any], domain: str) -> tuple[float, float] | None:
    """The HU of black and white, where all slices of a domain are in HU by one map."""
    maps = [s.get("intensity", {}) for s in manifest.get("slices", ()) if s["domain"] == domain]
    found = {(m["a"], m["b"]) for m in maps if m.get("unit") == "HU"}
    if not maps or len(found) != 1 or any(m.get("unit") != "HU" for m in maps):
        return None
    ((a, b),) = found
    return b, 255 * a + b


def _trained_on(run: Run, domains: Domains, manifest: Mapping[str, Any]) -> str:
    lines = ["## What it was trained on", "", "| part | domain | patients | slices |", "| --- | --- | --- | --- |"]
    for split in SPLITS:
        for domain in DOMAINS:
            patients, slices = _counts(run.data, split, domain, manifest)
            lines.append(f"| {split} | {in_markdown(domains.name(domain))} | {patients} | {slices} |")
    lines.append("")
    prepared = {key: manifest[key] for key in _OF_PREPARE if manifest.get(key) is not None}
    if prepared:
        spacing = sorted({round(float(s["spacing_mm"][1]), 3) for s in manifest["slices"] if s.get("spacing_mm")})
        if spacing:
            prepared["pixel_mm"] = [spacing[0], spacing[-1]]
        kind = "A phantom, made up by roi-progressive." if manifest.get("kind") == "phantom" else "Prepared with:"
        lines += [kind, "", *_as_code(prepared)]
    else:
        lines.append("How the slices were prepared is not known: the data have no manifest.")
    return "\n".join(lines)


def _counts(data: Path, split: str, domain: str, manifest: Mapping[str, Any]) -> tuple[int | str, int]:
    if "slices" in manifest:
        found = [s for s in manifest["slices"] if s["split"] == split and s["domain"] == domain]
        return len({str(s["patient"]) for s in found}), len(found)
    folder = data / f"{split}{domain}"
    return "not known", len(list_images(folder, "data")) if folder.is_dir() and any(folder.iterdir()) else 0


def _trained_how(run: Run) -> str:
    options = {name: value for name, value in asdict(run.options).items() if value is not None}
    guidance = run.config.to_mapping() if run.config.regions or run.config.ggd else "none: a plain CycleGAN"
    lines = ["## How it was trained", "", "Options of the trainer, and the guidance by regions:", ""]
    return "\n".join([*lines, *_as_code({"options": options, "guidance": guidance})])


def _as_code(content: Any) -> list[str]:
    # Nothing in JSON ends a block of code but three backticks, which no setting has; names of regions might.
    return ["```json", json.dumps(content, indent=1, default=str).replace("`", "'"), "```"]


def _how_good(
    run: Run, epoch: int, programs: Sequence[Program], domains: Domains, calibration: SigmaCalibration | None
) -> str:
    lines = ["## How good it was", ""]
    path = run.images("test", DIRECTIONS[0]).parent / "metrics.json"
    if not path.is_file():
        return "\n".join([*lines, "The run was not evaluated before this export (`roi-progressive evaluate`)."])
    if not _is_of_these_networks(run, epoch):
        return "\n".join([*lines, "The run's last evaluation is of other networks or data, and is not repeated here."])
    try:
        scored = read_json(path)
        rows = {row["direction"]: row for row in entry(scored, "rows", list) if _is_mean_of_model(row)}
        region = scored.get("region")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be as `evaluate` wrote it; {fault_of(error)}; evaluate the run again") from error
    shown = [p.direction for p in programs if p.direction in rows]
    of_region = "" if region is None else f"; the region is {in_markdown(str(region))}"
    lines += [
        f"On the slices of the test part{of_region}; means over patients, with 95 % intervals where there are any:",
        "",
        f"| score | {' | '.join(_title(d, domains) for d in shown)} |",
        f"| --- | {' | '.join('---:' for _ in shown)} |",
        f"| patients | {' | '.join(str(rows[d].get('n_patients')) for d in shown)} |",
        f"| slices | {' | '.join(str(rows[d].get('n_slices')) for d in shown)} |",
    ]
    for metric in METRICS:
        if metric.needs == "sigma" and calibration is not None:  # scored with factors of its own inside of a region
            continue
        values = [_with_interval(rows[d], metric.key) for d in shown]
        if any(values):
            lines.append(f"| {metric.title} | {' | '.join(value or 'n/a' for value in values)} |")
    lines += ["", *(f"{in_markdown(str(note))}  " for note in scored.get("notes", ()))]
    return "\n".join([*lines, *_volumes(path.with_name(VOLUMES), programs, domains)]).rstrip()


def _volumes(path: Path, programs: Sequence[Program], domains: Domains) -> list[str]:
    """The table of whole volumes, where the evaluation made one."""
    if not path.is_file():
        return []
    try:
        scored = read_json(path)
        rows = {row["direction"]: row for row in entry(scored, "rows", list) if _is_mean_of_model(row)}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be as `evaluate` wrote it; {fault_of(error)}; evaluate the run again") from error
    shown = [p.direction for p in programs if p.direction in rows]
    lines = ["", in_markdown(TITLE), "", f"| score | {' | '.join(_title(d, domains) for d in shown)} |"]
    lines.append(f"| --- | {' | '.join('---:' for _ in shown)} |")
    for metric in VOLUME_METRICS:
        values = [_with_interval(rows[d], metric.key) or "n/a" for d in shown]
        lines.append(f"| {metric.title} | {' | '.join(values)} |")
    return [*lines, "", *(f"{in_markdown(str(note))}  " for note in scored.get("notes", ()))]


def _is_mean_of_model(row: Any) -> bool:
    return entry(row, "arm", str) == "model" and entry(row, "phase", str) == "mean" and "direction" in row


def _with_interval(row: Mapping[str, Any], key: str) -> str:
    value, digits = row.get(key), metric_of(key).digits
    if not isinstance(value, (int, float)):
        return ""
    interval = (row.get("intervals") or {}).get(key)
    shown = f"{value:.{digits}f}"
    return shown if not interval else f"{shown} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _is_of_these_networks(run: Run, epoch: int) -> bool:
    """Whether the images that were scored are those that these networks make of the data as they are."""
    try:
        origin = origin_of(run, "test", epoch)
        return all(made_by(run.images("test", direction)) == origin for direction in DIRECTIONS)
    except (OSError, DataError):
        return False


def _limits(programs: Sequence[Program], domains: Domains, manifest: Mapping[str, Any]) -> str:
    lines = [
        "## Limits",
        "",
        "- For research. It is no medical device, and what it makes is no scan: lesions may be lost, inverted or "
        "invented.",
        "- It knows scans like those it was trained on. Other scanners, sequences, bodies, pixel sizes or preparations "
        "were not tried.",
        "- It works slice by slice and knows nothing of the slices beside one: through a volume images may flicker.",
    ]
    windows = [(domains.name(d), _window(manifest, d)) for d in DOMAINS]
    lines += [
        f"- {in_markdown(name)} is clipped to [{window[0]:g}, {window[1]:g}] HU: nothing beyond can be seen or made, "
        f"and a perfect image is off by what was clipped."
        for name, window in windows
        if window is not None
    ]
    lines.append(
        "- A trained network can give away what it was trained on. Ask whoever owns the data before it is handed on."
    )
    return "\n".join(lines)


def _sigma(run: Run, programs: Sequence[Program], calibration: SigmaCalibration | None) -> str:
    lines = ["## What sigma is, and what it is not", ""]
    if not programs[0].sigma:
        lines.append("These programs return no sigma.")
        return "\n".join(lines)
    target = run.config.ggd.target if run.config.ggd is not None else "auto"
    lines.append(
        "`sigma` is the standard deviation of a generalized Gaussian that the network predicts for every pixel, in the "
        "units of `image` (times 127.5 in grey levels), trained by its exact likelihood "
        f"(`ggd.target = {json.dumps(target)}`). Trained without pairs, it is the likelihood of the cycle: how well "
        "the source comes back, which is not the error of the translation. Inside a lesion it has been found too "
        "small, and not to order errors. It is no probability that a lesion is real, and says nothing of scans unlike "
        "those of the training. `roi-progressive evaluate RUN --uncertainty` measures it against the error."
    )
    if calibration is None:
        lines.append(
            "It is as the networks give it: `roi-progressive calibrate RUN` with a few pairs puts its size right."
        )
    else:
        lines.append(
            f"It is calibrated on the pairs of {calibration.n_patients} patients: what the networks give, times a "
            f"factor that makes it as large as the errors of whole images are. Nothing tells a program where a region "
            f"is, whose errors may be larger or smaller:"
        )
        for program in programs:
            of = calibration.directions[program.direction]
            inside = "".join(f"; inside {in_markdown(r)} it would be {c.factor:.3g}" for r, c in of.inside.items())
            lines.append(f"- `{program.file}`: the factor is {of.image.factor:.3g}{inside}.")
    return "\n".join(lines)
