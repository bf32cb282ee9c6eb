"""The anatomy of one phantom patient: where the organs, vessels and tumours lie, painted in CT and MR at once.

Coordinates run from -1 to 1 over the image (x to the right, y downwards, as printed: the patient's right is on the
left) and over the slab of slices (z). A shape is a signed depth in pixels, positive inside, so that borders are
smoothed over one pixel in both modalities alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]  # no stubs, unless installed

from roi_progressive.data.phantom.tissue import LESION_TYPES, TISSUES, FloatArray, texture

BoolArray = npt.NDArray[np.bool_]

# name, centre x, centre y, radius x, radius y, tilt in degrees, in the order in which they are painted
_ORGANS: tuple[tuple[str, float, float, float, float, float], ...] = (
    ("muscle", -0.19, 0.50, 0.16, 0.10, 12),
    ("muscle", 0.19, 0.50, 0.16, 0.10, -12),
    ("bone", 0.00, 0.33, 0.145, 0.125, 0),
    ("marrow", 0.00, 0.33, 0.115, 0.095, 0),
    ("bone", 0.00, 0.53, 0.035, 0.10, 0),
    ("bone", 0.00, 0.47, 0.10, 0.03, 0),
    ("cord", 0.00, 0.47, 0.045, 0.035, 0),
    ("cortex", 0.36, 0.30, 0.13, 0.17, -20),
    ("medulla", 0.35, 0.30, 0.07, 0.10, -20),
    ("spleen", 0.60, 0.06, 0.13, 0.29, -14),
    ("pancreas", 0.14, -0.02, 0.19, 0.055, -14),
    ("muscle", 0.34, 0.04, 0.11, 0.085, 20),
    ("stomach", 0.34, 0.04, 0.08, 0.055, 20),
    ("stomach", 0.33, -0.26, 0.25, 0.18, 24),
    ("air", 0.36, -0.37, 0.10, 0.05, 8),
)
_EXTRA_TUMOURS = (0.45, 0.35, 0.20)  # chances of none, one and two beside the main one


@dataclass
class Canvas:
    """Both images of a patient while they are painted, in grey levels; arrays are (slices, size, size)."""

    phase: str
    x: FloatArray
    y: FloatArray
    z: FloatArray
    ct: FloatArray
    mr: FloatArray
    coarse: FloatArray
    fine: FloatArray

    @classmethod
    def blank(cls, rng: np.random.Generator, phase: str, slices: int, size_px: int) -> Canvas:
        shape = (slices, size_px, size_px)
        z = np.linspace(-1, 1, slices) if slices > 1 else np.zeros(1)
        line = (np.arange(size_px) + 0.5) / size_px * 2 - 1
        zs, ys, xs = np.meshgrid(z, line, line, indexing="ij", sparse=True)
        fine = texture(rng, shape)
        return cls(phase, xs, ys, zs, np.zeros(shape), np.zeros(shape), texture(rng, shape, length=0.03), fine)

    @property
    def px(self) -> float:
        """Pixels per unit of length."""
        return float(self.ct.shape[-1]) / 2

    def paint(self, tissue: str, depth_px: FloatArray, pattern: FloatArray) -> None:
        """Lay a tissue with its texture over everything painted before it."""
        cover = np.clip(depth_px + 0.5, 0, 1)
        look = TISSUES[tissue]
        self.ct += cover * (look.ct_level(self.phase, pattern) - self.ct)
        self.mr += cover * (look.mr_level(self.phase, pattern) - self.mr)

    def ellipse(self, cx: Any, cy: Any, rx: Any, ry: Any, tilt_deg: float = 0.0) -> FloatArray:
        """Depth of an ellipse; centre and radii may vary with z."""
        c, s = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
        u = ((self.x - cx) * c + (self.y - cy) * s) / rx
        v = ((self.y - cy) * c - (self.x - cx) * s) / ry
        depth: FloatArray = (1 - np.hypot(u, v)) * np.minimum(rx, ry) * self.px
        return depth


def paint_patient(
    rng: np.random.Generator, canvas: Canvas, lesion: str
) -> tuple[dict[str, BoolArray], tuple[str, ...]]:
    """Paint a whole patient.

    Args:
        rng: Source of all of the patient's variation but the textures.
        canvas: A blank canvas.
        lesion: Type of the main tumour.

    Returns:
        The masks ``liver`` (tumours included) and ``tumor``, and the types of the tumours, the main one first.
    """
    cavity = _paint_body(rng, canvas)
    for tissue, cx, cy, rx, ry, tilt in _ORGANS:
        depth = canvas.ellipse(*_vary(rng, canvas, cx, cy, rx, ry), tilt + rng.normal(0, 3))
        canvas.paint(tissue, np.minimum(depth, cavity) if tissue in ("spleen", "stomach") else depth, canvas.coarse)
    liver = _paint_liver(rng, canvas, cavity)
    _paint_vessels(rng, canvas, liver)
    tumor, types = _paint_tumours(rng, canvas, liver > 0, lesion)
    return {"liver": liver > 0, "tumor": tumor}, types


def _vary(
    rng: np.random.Generator, canvas: Canvas, cx: float, cy: float, rx: float, ry: float
) -> tuple[Any, Any, Any, Any]:
    """A patient's own position and size of an organ, drifting slowly from slice to slice."""
    move = rng.normal(0, 0.012, 2)
    drift = rng.normal(0, 0.012, 2)
    swell = 1 + np.clip(rng.normal(0, 0.05), -0.1, 0.1) + rng.normal(0, 0.04) * canvas.z
    return cx + move[0] + drift[0] * canvas.z, cy + move[1] + drift[1] * canvas.z, rx * swell, ry * swell


def _paint_body(rng: np.random.Generator, canvas: Canvas) -> FloatArray:
    """Skin fat, muscle wall with ribs, inner fat; returns the depth inside the cavity."""
    rx, ry = 0.90 + rng.normal(0, 0.015), 0.70 + rng.normal(0, 0.02)
    body = canvas.ellipse(0.0, 0.02, rx + 0.01 * canvas.z, ry + 0.01 * canvas.z)
    fat_px = rng.uniform(0.05, 0.10) * canvas.px
    wall_px = 0.055 * canvas.px
    canvas.paint("fat", body, canvas.coarse)
    canvas.paint("muscle", body - fat_px, canvas.coarse)
    middle = 1 - (fat_px + wall_px / 2) / (ry * canvas.px)
    for angle in np.radians(np.arange(-160, 200, 40) + rng.uniform(-8, 8)):
        turn = angle + 0.12 * canvas.z
        if abs(np.sin(angle)) < 0.95:
            cx, cy = middle * rx * np.cos(turn), 0.02 + middle * ry * np.sin(turn)
            canvas.paint("bone", canvas.ellipse(cx, cy, 0.03, 0.03), canvas.coarse)
    canvas.paint("fat", body - fat_px - wall_px, canvas.coarse)
    return body - fat_px - wall_px


def _paint_liver(rng: np.random.Generator, canvas: Canvas, cavity: FloatArray) -> FloatArray:
    """Both lobes, the great vessels and the right kidney, which dents it; returns the depth inside the liver."""
    right = canvas.ellipse(*_vary(rng, canvas, -0.40, -0.08, 0.40, 0.46), 8)
    left = canvas.ellipse(*_vary(rng, canvas, -0.06, -0.33, 0.36, 0.19), 10)
    kidney = canvas.ellipse(*_vary(rng, canvas, -0.34, 0.34, 0.12, 0.15), 20)
    cava = canvas.ellipse(*_vary(rng, canvas, -0.09, 0.15, 0.065, 0.055))
    aorta = canvas.ellipse(*_vary(rng, canvas, 0.06, 0.15, 0.06, 0.06))
    liver: FloatArray = np.minimum(np.maximum(right, left), cavity - 0.01 * canvas.px)
    for neighbour in (kidney, cava, aorta):
        liver = np.minimum(liver, -neighbour - 0.02 * canvas.px)
    canvas.paint("liver", liver, canvas.coarse)
    canvas.paint("cortex", kidney, canvas.coarse)
    canvas.paint("medulla", kidney - 0.06 * canvas.px, canvas.coarse)
    canvas.paint("cava", cava, canvas.coarse)
    canvas.paint("aorta", aorta, canvas.coarse)
    return liver


def _paint_vessels(rng: np.random.Generator, canvas: Canvas, liver: FloatArray) -> None:
    """Tapering branches from the hilum towards the liver's border."""
    hx, hy = -0.16 + rng.normal(0, 0.02), -0.06 + rng.normal(0, 0.02)
    for angle in np.radians(np.array([150, 190, 225, 265]) + rng.uniform(-14, 14, 4)):
        turn = angle + rng.normal(0, 0.25) * canvas.z
        length = rng.uniform(0.30, 0.48)
        dx, dy = np.cos(turn) * length, np.sin(turn) * length
        along = np.clip(((canvas.x - hx) * dx + (canvas.y - hy) * dy) / length**2, 0, 1)
        bend = 0.05 * np.sin(np.pi * along)
        away = np.hypot(
            canvas.x - hx - along * dx + bend * np.sin(turn), canvas.y - hy - along * dy - bend * np.cos(turn)
        )
        width = 0.032 - 0.018 * along
        canvas.paint("vessel", np.minimum((width - away) * canvas.px, liver - 1), canvas.coarse)


def _paint_tumours(
    rng: np.random.Generator, canvas: Canvas, liver: BoolArray, lesion: str
) -> tuple[BoolArray, tuple[str, ...]]:
    """Tumours and benign nodules, apart from each other; the main one of either is in every slice."""
    free = np.pad(liver.all(axis=0), 1)
    tumor = np.zeros_like(liver)
    types: list[str] = []
    for kind, is_main, is_tumor in _lesions(rng, lesion):
        room_px = ndimage.distance_transform_edt(free)[1:-1, 1:-1]
        wanted = rng.uniform(0.12, 0.19) if is_main else rng.uniform(0.09, 0.13)
        radius = min(wanted, float(room_px.max()) / canvas.px / 1.22)
        if not is_main and radius < 0.08:
            continue  # no room left beside the others
        spots = np.argwhere(room_px >= min(radius * canvas.px * 1.2, float(room_px.max())))
        row, column = spots[rng.integers(len(spots))]
        z0, reach = (0.0, rng.uniform(1.3, 1.6)) if is_main else (rng.uniform(-0.6, 0.6), rng.uniform(0.7, 1.2))
        centre = (float(canvas.x[0, 0, column]), float(canvas.y[0, row, 0]))
        depth = _lump(rng, canvas, centre, radius, z0, reach)
        prefix = "" if is_tumor else "benign "
        painted = _paint_lesion(canvas, kind, np.where(liver, depth, np.minimum(depth, -0.5)), radius, prefix)
        if is_tumor:
            tumor |= painted
            types.insert(0, kind) if is_main else types.append(kind)
        free &= np.pad(np.hypot(canvas.x[0] - centre[0], canvas.y[0] - centre[1]) > 1.25 * radius, 1)
    return tumor, tuple(types)


def _lesions(rng: np.random.Generator, lesion: str) -> list[tuple[str, bool, bool]]:
    """Type, whether it is a main one, whether it is a tumour: tumours and benign nodules in equal chances.

    A nodule has a tumour's contrasts reversed, in CT and in MR; nothing but the region tells which is which.
    """
    main = [(lesion, True, True), (str(rng.choice(LESION_TYPES)), True, False)]
    more = [
        (str(rng.choice(LESION_TYPES)), False, is_tumor)
        for is_tumor in (True, False)
        for _ in range(rng.choice(3, p=_EXTRA_TUMOURS))
    ]
    return [group[i] for group in (main, more) for i in rng.permutation(len(group))]


def _lump(
    rng: np.random.Generator, canvas: Canvas, centre: tuple[float, float], radius: float, z0: float, reach: float
) -> FloatArray:
    """Depth of an irregular ball: a circle with two harmonics in every slice."""
    dx, dy = canvas.x - centre[0], canvas.y - centre[1]
    around = np.arctan2(dy, dx)
    phases = rng.uniform(0, 2 * np.pi, 2)
    shape = 1 + 0.11 * np.cos(2 * around + phases[0]) + 0.07 * np.cos(3 * around + phases[1] + canvas.z)
    section = np.sqrt(np.maximum(1 - ((canvas.z - z0) / reach) ** 2, 0))
    depth: FloatArray = (radius * section * shape - np.hypot(dx, dy)) * canvas.px
    inside: FloatArray = np.where(section > 0, depth, -1.0)
    return inside


def _paint_lesion(canvas: Canvas, kind: str, depth_px: FloatArray, radius: float, prefix: str) -> BoolArray:
    canvas.paint(prefix + kind, depth_px, canvas.fine)
    if kind == "rim":
        canvas.paint(f"{prefix}necrosis", depth_px - 0.30 * radius * canvas.px, canvas.fine)
    return depth_px > 0
