"""Dice and HD95 of a segmenter on generated against real volumes: what a synthetic CT is good for downstream.

The segmenter is yours: any function from a volume to a label map, such as TotalSegmentator's or your own network. What
it finds in the real volume is the truth for what it finds in the generated one, as in SynthRAD. The metrics are MONAI's
(``pip install monai``).

    from roi_progressive.runs.evaluate import evaluate_run, with_certainty
    from roi_progressive.runs.volume_scores import volume_table

    scores = with_certainty(evaluate_run("run", plugins=[SegmenterMetrics(segment, {1: "liver", 2: "bone"})]))
    print(volume_table(scores.volumes))

To have ``roi-progressive evaluate`` find it, name a module that holds one under the entry-point group
``roi_progressive``, as ``third_party_plugin/setup.cfg`` does.
"""

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

import roi_progressive


class SegmenterMetrics:
    """A plugin that adds ``Dice NAME`` and ``HD95 NAME`` (mm; voxels where no spacing is known) to the volumes' table.

    Args:
        segment: From a volume ``[slices, rows, columns]`` and its spacing in mm to a map of labels of the same shape.
        names: Of the labels that count.
    """

    def __init__(self, segment, names):
        self.segment = segment
        self.names = names

    @roi_progressive.hookimpl
    def roi_volume_metrics(self, real, fake, masks, spacing_mm):
        """The columns of one volume; a structure that one of the two lacks has no HD95."""
        truth, found = (np.asarray(self.segment(volume, spacing_mm)) for volume in (real, fake))
        columns = {}
        for label, name in self.names.items():
            both = [torch.from_numpy((labels == label)[None, None].astype(np.float32)) for labels in (found, truth)]
            if not both[1].any():
                continue  # nothing to find in this volume
            columns[f"Dice {name}"] = compute_dice(*both).item()
            if both[0].any():
                distance = compute_hausdorff_distance(*both, percentile=95, spacing=spacing_mm)
                columns[f"HD95 {name}"] = distance.item()
        return columns
