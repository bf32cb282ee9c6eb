"""The exact GGD loss, forward and backward, against autograd of the same formula and the formula in circulation.

    python benchmarks/ggd_loss.py [--rounds N] [--threads N] [--json FILE] [--quick]

4 x 1 x 256 x 256, float32, CPU, one thread unless told otherwise. The formula in circulation, which multiplies where
the likelihood raises to a power, is that of the uncertainty losses descending from Upadhyay et al. 2021:
``|r| * (1/a) * b - log(b/a) + lgamma(1/b)``. Autograd keeps what each of its operations needs; ours keeps its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from measure import (
    Spread,
    parsed,
    parser,
    peak_bytes_of,
    ratios,
    saved_tensors_of,
    table,
    times_side_by_side,
    write,
)
from torch import Tensor

from roi_progressive import ggd_nll

OURS, EAGER, CIRCULATING = "ours, closed form", "eager autograd, same formula", "formula in circulation"


def eager(residual: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """Eq. 1 with torch's own functions, in the quickest way found to write it: log(a) is taken once, and no ``pow``."""
    log_scale = scale.log()
    power = (shape * (residual.abs().clamp_min(1e-9).log() - log_scale)).exp()
    return (power + log_scale - shape.log() + torch.lgamma(1 / shape)).mean()


def circulating(residual: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """The formula in circulation: no power. Its checks for NaN, which cost it more, are left out."""
    inverse = 1 / scale
    power = (residual.abs() * inverse * shape).clamp(1e-4, 1e3)
    return (power - inverse.log() + torch.lgamma(shape.pow(-1)) - shape.log()).mean()


def backpropagated(loss: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Forward and backward."""
    return torch.autograd.grad(loss(*inputs), inputs)


def main() -> None:
    arguments = parser(__doc__, rounds=60)
    arguments.set_defaults(threads=1)
    chosen = parsed(arguments)
    side_px = 32 if chosen.quick else 256
    random = torch.Generator().manual_seed(0)
    draws = torch.rand(3, 4, 1, side_px, side_px, generator=random)
    residual, scale, shape = draws[0] - 0.5, 0.05 + 0.5 * draws[1], 0.5 + 3.0 * draws[2]
    inputs = tuple(tensor.clone().requires_grad_() for tensor in (residual, scale, shape))
    losses: dict[str, Callable[..., Tensor]] = {OURS: ggd_nll, EAGER: eager, CIRCULATING: circulating}
    steps = {name: partial(backpropagated, loss, inputs) for name, loss in losses.items()}
    times = times_side_by_side(steps, chosen.rounds)
    figures = {
        name: {
            "wall_ms": Spread.of([1000 * s for s in times[name].wall]),
            "cpu_ms": Spread.of([1000 * s for s in times[name].cpu]),
            "ours_is_faster_wall": ratios(times[name].wall, times[OURS].wall),
            "ours_is_faster_cpu": ratios(times[name].cpu, times[OURS].cpu),
            "saved_tensors": len(saved_tensors_of(partial(loss, *inputs))),
            "peak_bytes": peak_bytes_of(steps[name]),
        }
        for name, loss in losses.items()
    }
    heading = [
        "loss",
        "wall ms",
        "CPU ms",
        "ours faster, wall",
        "ours faster, CPU",
        "saved",
        "peak MB",
        "ours / its peak",
    ]
    rows = [
        [
            name,
            of["wall_ms"].text(),
            of["cpu_ms"].text(),
            f"{of['ours_is_faster_wall'].text()} x",
            f"{of['ours_is_faster_cpu'].text()} x",
            str(of["saved_tensors"]),
            f"{of['peak_bytes'] / 2**20:.1f}",
            f"{figures[OURS]['peak_bytes'] / of['peak_bytes']:.2f}",
        ]
        for name, of in figures.items()
    ]
    print(table(heading, rows))
    write(figures, chosen.json)


if __name__ == "__main__":
    main()
