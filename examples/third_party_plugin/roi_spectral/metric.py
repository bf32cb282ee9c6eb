"""A column of the evaluation's table."""

import numpy as np


def edge_error(real, fake, mask):
    """Mean length of the difference of both grey-level gradients inside the region, in grey levels a pixel."""
    differences = np.gradient(fake.astype(np.float64) - real.astype(np.float64))
    return float(np.hypot(*differences)[mask].mean())
