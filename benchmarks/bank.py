"""A region's discriminators, forward and backward, against multi-scale ones on the masked whole image.

    python benchmarks/bank.py [--rounds N] [--threads N] [--json FILE] [--quick] [--variants]

One tumour of 40 px in 256 x 256, three scales, 32 channels, up to three strided layers, float32. Each discriminator
judges one generated and one real image and learns (least squares), and then judges the generated image again for the
gradient on it. ``--variants`` adds ours in channels_last, under bf16 autocast and through ``torch.compile``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from cyclegan_step import phantom_batch, toward
from measure import Spread, flops_of, launches_of, parsed, parser, ratios, table, times_side_by_side, write
from published_networks import Pix2PixHDDiscriminator, monai_discriminator
from torch import Tensor, nn

from roi_progressive import Config, DiscriminatorBank, RegionConfig
from roi_progressive.method.regions import RegionMask

OURS, PIX2PIXHD = "ours, window", "pix2pixHD, three scales"
LAYERS, SCALES = 3, 3


class Ours:
    """The bank's part for one region and direction."""

    def __init__(self, width: int, mask: Tensor, *, form: str = "") -> None:
        region = RegionConfig("tumor", scales=SCALES, base_channels=width, layers=LAYERS)
        config = Config(regions=(region,), ggd=None, pool_size=0)
        self.bank = DiscriminatorBank(config, {"A2B": 1})
        self.masks = RegionMask.from_tensor(mask)
        self.autocast = form == "bf16 autocast"
        if form == "channels_last":
            self.bank.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
        if form == "torch.compile":
            for network in self.bank.networks["A2B_tumor"].scales:  # type: ignore[union-attr]  # our own kind of module
                network.compile(dynamic=False)

    def step(self, fake: Tensor, real: Tensor) -> None:
        """Gradient on the image, then gradients of the parameters."""
        image = fake.detach().requires_grad_()
        with _autocast(self.autocast):
            loss = self.bank.generator_loss("A2B", "tumor", image, self.masks)
        assert loss is not None
        torch.autograd.grad(loss, image)
        with _autocast(self.autocast):
            loss = self.bank.discriminator_loss("A2B", "tumor", fake, self.masks, real, self.masks)
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        self.bank.zero_grad()


@contextlib.contextmanager
def _autocast(enabled: bool) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        yield


class Peer:
    """A multi-scale discriminator on the image times the mask, as people write it; its own parameters are frozen in the
    generator's pass, and generated and real images are judged in one call."""

    def __init__(self, network: nn.Module, mask: Tensor) -> None:
        self.network, self.mask = network, mask

    def step(self, fake: Tensor, real: Tensor) -> None:
        """Gradient on the image, then gradients of the parameters."""
        image = fake.detach().requires_grad_()
        self.network.requires_grad_(False)
        torch.autograd.grad(sum(toward(logits, 1.0) for logits in self.network(image * self.mask)), image)
        self.network.requires_grad_(True)
        maps = self.network(torch.cat([fake, real]) * self.mask)
        half = len(fake)
        loss = sum(toward(logits[:half], 0.0) + toward(logits[half:], 1.0) for logits in maps)
        loss.backward()
        self.network.zero_grad()


def main() -> None:
    arguments = parser(__doc__, rounds=15)
    arguments.add_argument("--variants", action="store_true", help="also ours in other memory formats and precisions")
    chosen = parsed(arguments)
    width, size_px = (2, 128) if chosen.quick else (32, 256)
    torch.manual_seed(0)
    batch = phantom_batch(size_px, 40 * size_px / 256)
    fake, real, mask = batch.real_A, batch.real_B, batch.masks_A["tumor"]
    parts: dict[str, Any] = {
        OURS: Ours(width, mask),
        PIX2PIXHD: Peer(Pix2PixHDDiscriminator(1, width, LAYERS, SCALES), mask),
    }
    # MONAI's networks deepen by the first one's layers: with 1 the deepest has three, as deep as ours.
    monai = monai_discriminator(1, width, 1, SCALES)
    if monai is not None:
        parts[f"{monai[0]}, 1 to 3 layers"] = Peer(monai[1], mask)
    if chosen.variants:
        for form in ("channels_last", "bf16 autocast", "torch.compile"):
            parts[f"{OURS}, {form}"] = Ours(width, mask, form=form)
    steps: dict[str, Callable[[], None]] = {
        name: lambda part=part: part.step(fake, real) for name, part in parts.items()
    }
    flops = {name: 0 if "compile" in name else flops_of(step) for name, step in steps.items()}
    times = times_side_by_side(steps, chosen.rounds)
    launches = {name: 0 if "compile" in name else sum(launches_of(step).values()) for name, step in steps.items()}
    figures = {
        name: {
            "launches": launches[name],
            "flops": flops[name],
            "flops_to_ours": flops[name] / flops[OURS],
            "wall_ms": Spread.of([1000 * s for s in times[name].wall]),
            "wall_to_ours": ratios(times[name].wall, times[OURS].wall),
            "cpu_to_ours": ratios(times[name].cpu, times[OURS].cpu),
        }
        for name in steps
    }
    heading = ["discriminators", "launches", "FLOPs / ours", "wall ms", "wall / ours", "CPU time / ours"]
    rows = [
        [
            name,
            str(of["launches"] or ""),
            f"{of['flops_to_ours']:.1f} x" if of["flops"] else "",
            of["wall_ms"].text(1),
            f"{of['wall_to_ours'].text()} x",
            f"{of['cpu_to_ours'].text()} x",
        ]
        for name, of in figures.items()
    ]
    print(table(heading, rows))
    if monai is None:
        print("MONAI is left out: `pip install monai` brings the package that ours is compared with.")
    write(figures, chosen.json)


if __name__ == "__main__":
    main()
