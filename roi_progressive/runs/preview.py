"""A picture of what a run makes of the same few slices, epoch after epoch: labelled, the regions outlined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from ..data.contact_sheet import COLOURS, outline
from ..errors import DataError, UnreadableError
from ..evaluation.image_files import Mask, list_images, read_grey
from ..evaluation.pairs import read_domains
from ..evaluation.region_names import regions_of
from ..saving.decoding import decoded_image
from ..saving.names import DIRECTIONS, DOMAINS, source_of, target_of
from ..saving.plain_text import printable
from ..saving.whole_files import writing, written_whole
from .folder import as_batch, require_finite, stored_pixels
from .validation import Generators

N_SLICES = 3
MOST_READ = 60
"""Slices of a domain that are looked at to choose those to show."""
TILE_PX = 144
GAP_PX = 4
LINE_PX = 14
DARK = (24, 24, 24)


class Preview:
    """Real source, generated image and real target of a few slices; where there is no true target, what the other
    generator makes of the generated image.

    The slices are of the part ``val`` where the data have it, and of ``train`` otherwise: of each of the first
    patients the one that shows most of the innermost region.

    A picture never stops a run: what cannot be read is not shown.

    Attributes:
        domains: What the domains are called.

    Args:
        data: The data set.
        regions: To be outlined, the innermost last; those of the data where there are none.
        neighbours: Slices above, and below, that the generators take as further channels.

    Raises:
        DataError: The manifest of the data cannot be used.
    """

    def __init__(self, data: Path, regions: Sequence[str], neighbours: int = 0) -> None:
        self.domains = read_domains(data)
        self._data, self._regions, self._neighbours = data, list(regions or regions_of(data)), neighbours
        self._names: dict[str, list[str]] = {}
        for self._split in ("val", "train"):
            self._names = {domain: self._chosen(domain) for domain in DOMAINS}
            if all(self._names.values()):
                break

    def draw(self, path: Path, generators: Generators, device: torch.device, title: str) -> None:
        """Write the picture.

        Args:
            path: A PNG file.
            generators: By direction, in evaluation mode.
            device: Where they are.
            title: Its first line.

        Raises:
            DataError: It cannot be written, or a file cannot be read.
            DivergenceError: A generated image has a number that is not finite.
        """
        blocks = {d: [self._row(name, d, generators, device) for name in self._names[d[0]]] for d in DIRECTIONS}
        side_px, gap_px = TILE_PX + GAP_PX, 4 * GAP_PX
        n_rows = max(map(len, blocks.values()))
        width_px = GAP_PX + 2 * 3 * side_px + gap_px
        sheet = Image.new("RGB", (width_px, 4 * LINE_PX + n_rows * (side_px + LINE_PX)), DARK)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
        where = {"val": "validation slices", "train": "training slices (the data have no part val)"}[self._split]
        draw.text((GAP_PX, 1), printable(f"{title}; {where}"), "white", font)
        x_px = GAP_PX
        for number, region in enumerate(self._regions):
            text = f"{region} outlined"
            draw.text((x_px, LINE_PX + 1), text, COLOURS[number % len(COLOURS)], font)
            x_px += round(font.getlength(text)) + LINE_PX
        for place, direction in enumerate(DIRECTIONS):
            left_px = GAP_PX + place * (3 * side_px + gap_px)
            for column, heading in enumerate(self._headings(direction)):
                draw.text((left_px + column * side_px, 3 * LINE_PX - 2), printable(heading), "white", font)
            for row, (name, tiles) in enumerate(blocks[direction]):
                top_px = 4 * LINE_PX + row * (side_px + LINE_PX)
                for column, tile in enumerate(tiles):
                    sheet.paste(tile, (left_px + column * side_px, top_px))
                draw.text((left_px, top_px + TILE_PX), _fitting(printable(Path(name).stem), font), "white", font)
        with writing(path), written_whole(path) as (aside,):
            sheet.save(aside, format="PNG")

    def _headings(self, direction: str) -> tuple[str, str, str]:
        source, target = (self.domains.name(domain(direction)) for domain in (source_of, target_of))
        third = f"real {target}" if self._is_paired(direction) else f"back to {source}"
        return f"real {source}", f"generated {target}", third

    def _is_paired(self, direction: str) -> bool:
        there = self._data / f"{self._split}{target_of(direction)}"
        return self._split != "train" and all((there / name).is_file() for name in self._names[source_of(direction)])

    def _row(
        self, name: str, direction: str, generators: Generators, device: torch.device
    ) -> tuple[str, list[Image.Image]]:
        source_domain, target_domain = source_of(direction), target_of(direction)
        file = self._data / f"{self._split}{source_domain}" / name
        source = read_grey(file)
        back = DIRECTIONS[1 - DIRECTIONS.index(direction)]
        with torch.no_grad():
            fake = generators[direction](as_batch(source, file, self._neighbours, device))
            third = None if self._is_paired(direction) else generators[back](fake)[0]
        require_finite(fake, name)
        masks = self._masks(source_domain, name, source.shape)
        if third is None:
            target = read_grey(self._data / f"{self._split}{target_domain}" / name)
            beside = _tile(target, self._masks(target_domain, name, target.shape))
        else:
            beside = _tile(stored_pixels(third, ".png"), masks)
        return name, [_tile(source, masks), _tile(stored_pixels(fake[0], ".png"), masks), beside]

    def _masks(self, domain: str, name: str, shape: tuple[int, ...]) -> list[Mask]:
        folders = (self._data / f"{self._split}{domain}_{region}" for region in self._regions)
        return [_mask((folder / name).with_suffix(".png"), shape) for folder in folders]

    def _chosen(self, domain: str) -> list[str]:
        folder = self._data / f"{self._split}{domain}"
        largest: dict[str, tuple[int, str]] = {}
        try:
            for name in list_images(folder, "data")[:MOST_READ]:
                shape = read_grey(folder / name).shape
                area = int(self._masks(domain, name, shape)[-1].sum()) if self._regions else 0
                patient = Path(name).stem.rsplit("_", 2)[0]
                largest[patient] = max(largest.get(patient, (-1, "")), (area, name))
        except DataError:  # no such part, or files of another kind
            return []
        return [name for _, (_, name) in sorted(largest.items())][:N_SLICES]


def _mask(path: Path, shape: tuple[int, ...]) -> Mask:
    """A mask of a training set, of which half and more is inside; nothing where there is none of the image's size."""
    nothing = np.zeros(shape, dtype=bool)
    try:
        mask = np.asarray(decoded_image(path).convert("L")) > 127
    except (OSError, UnreadableError):
        return nothing
    return mask if mask.shape == shape else nothing


def _tile(pixels: npt.NDArray[Any], masks: Sequence[Mask]) -> Image.Image:
    size = (TILE_PX, TILE_PX)
    grey = Image.fromarray(pixels.round().astype(np.uint8)).resize(size, Resampling.BILINEAR)
    tile = np.stack([np.asarray(grey)] * 3, axis=-1)
    for number, mask in enumerate(masks):
        large = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Resampling.NEAREST)
        tile[outline(np.asarray(large) > 0)] = COLOURS[number % len(COLOURS)]
    return Image.fromarray(tile)


def _fitting(text: str, font: Any) -> str:
    while font.getlength(text) > 3 * TILE_PX:
        text = text[:-2] + "~"
    return text
