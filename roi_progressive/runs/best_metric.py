"""By which metric the best epoch of a run is chosen, and which of two values is better."""

from __future__ import annotations

import difflib
import math

from ..errors import ConfigError
from ..evaluation.aggregation import metric_of
from ..evaluation.metrics import METRICS, TPSNR, TSSIM, Metric

KEEP_LAST = "last"
KEEP_BEST = "best:"
OTHER_NAMES = {"region_psnr": TPSNR.key, "region_ssim": TSSIM.key}
"""What two metrics of the region, which files call by the paper's names, may be called too."""


def metric_to_keep(text: str) -> Metric | None:
    """The metric by which the best epoch is kept.

    Args:
        text: ``best:METRIC``, or ``last`` for none.

    Returns:
        ``None`` for ``last``.

    Raises:
        ConfigError: It is neither, there is no such metric, or an epoch cannot be chosen by it.

    Example:
        >>> metric_to_keep("best:region_psnr").key
        'tpsnr'
        >>> metric_to_keep("best:psrn")
        Traceback (most recent call last):
        roi_progressive.errors.ConfigError: `keep` must be last or best:METRIC; there is no metric 'psrn'; did you \
mean 'psnr'?
    """
    if text == KEEP_LAST:
        return None
    name = text.removeprefix(KEEP_BEST)
    known = [*OTHER_NAMES, *(metric.key for metric in METRICS if metric.needs != "sigma")]
    key = OTHER_NAMES.get(name, name)
    if text.startswith(KEEP_BEST) and key in {metric.key for metric in METRICS if metric.needs == "sigma"}:
        raise ConfigError(
            f"`keep` must be a metric of the images; {name!r} is one of the predicted sigma; choose by one of the "
            f"images, and score sigma with `roi-progressive evaluate --uncertainty`"
        )
    if not text.startswith(KEEP_BEST) or name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"metrics: {', '.join(known)}"
        what = f"there is no metric {name!r}" if text.startswith(KEEP_BEST) else f"got {text!r}"
        raise ConfigError(f"`keep` must be last or best:METRIC; {what}; {hint}")
    return metric_of(key)


def closeness(key: str, value: float) -> float:
    """The value on a scale on which higher is better."""
    better = metric_of(key).better
    if better == "1":
        return -abs(math.log(max(value, 1e-9)))
    return -value if better == "down" else value
