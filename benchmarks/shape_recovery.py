"""Does the loss find the shape of the residuals it is given? The exact GGD loss against the formula in circulation.

    python benchmarks/shape_recovery.py [--rounds N] [--json FILE] [--quick]

One scale and one shape are fitted, by their gradients (L-BFGS on the logarithms of both), to 100,000 residuals that
SciPy draws: Gaussian (shape 2), Laplace (1) and heavier-tailed (0.5), every round from another seed. The formula in
circulation leaves ``log Γ(1/β)`` alone to choose the shape once the scale is its best, and so finds 0.684 whatever the
residuals are.
"""

from __future__ import annotations

import torch
from measure import Spread, parsed, parser, table, write
from scipy import stats
from study.arms import circulating_nll
from torch import Tensor

from roi_progressive import ggd_nll, ggd_variance

LOSSES = {"exact": ggd_nll, "in circulation": circulating_nll}
SHAPES = {"Gaussian": 2.0, "Laplace": 1.0, "heavier tails": 0.5}
SCALE = 0.2
START = (0.25, 2.0)
"""Scale and shape of an untrained head."""


def draw(shape: float, count: int, seed: int) -> Tensor:
    """So many residuals ``[count]`` of one shape, in float64."""
    return torch.from_numpy(stats.gennorm.rvs(shape, scale=SCALE, size=count, random_state=seed))


def fitted(residual: Tensor, name: str) -> tuple[float, float]:
    """Scale and shape at which the loss called ``name`` is least."""
    logarithms = torch.tensor(START, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.LBFGS([logarithms], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure() -> float:
        optimizer.zero_grad()
        scale, shape = logarithms.exp().unbind()
        loss = LOSSES[name](residual, scale.expand_as(residual), shape.expand_as(residual))
        torch.autograd.backward(loss)
        return float(loss.detach())

    optimizer.step(closure)
    scale, shape = logarithms.detach().exp().tolist()
    return scale, shape


def sigma(scale: float, shape: float) -> float:
    """The standard deviation that a scale and a shape stand for."""
    return float(ggd_variance(torch.tensor(scale).double(), torch.tensor(shape).double()).sqrt())


def main() -> None:
    chosen = parsed(parser(__doc__, rounds=5))
    count = 5_000 if chosen.quick else 100_000
    figures: dict[str, dict[str, dict[str, Spread | float]]] = {}
    for title, true in SHAPES.items():
        fits = {name: [fitted(draw(true, count, seed), name) for seed in range(chosen.rounds)] for name in LOSSES}
        figures[title] = {
            name: {
                "true_shape": true,
                "shape": Spread.of([shape for _, shape in of]),
                "sigma_ratio": Spread.of([sigma(*fit) / sigma(SCALE, true) for fit in of]),
            }
            for name, of in fits.items()
        }
    rows = [
        [title, str(SHAPES[title]), name, of["shape"].text(3), of["sigma_ratio"].text(3)]
        for title, losses in figures.items()
        for name, of in losses.items()
    ]
    print(table(["residuals", "true shape", "loss", "shape found", "sigma found / true"], rows))
    write(figures, chosen.json)


if __name__ == "__main__":
    main()
