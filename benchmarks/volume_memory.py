"""Peak memory and time of translating one large scan, network included.

    python benchmarks/volume_memory.py [--shape 300 512 512] [--mr] [--quick]

A made-up CT (or, with --mr, a scan whose scale is its own) is written, translated in a process of its own with the
default generator at 256 px and with its uncertainty head, and the peak of that process's resident memory is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MEASURED = '''
import json, resource, sys, torch
import roi_progressive
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.preparation import Preparation
torch.set_num_threads(int(sys.argv[4]))
torch.manual_seed(0)
net = roi_progressive.UNetGenerator(1, 1, int(sys.argv[5]), 4)
def make(x):
    image, scale, shape = net.distribution(x)
    return roi_progressive.Uncertainty(image, scale, shape, roi_progressive.ggd_variance(scale, shape).sqrt())
preparation = Preparation(PrepareOptions(size_px=256), {"A": True, "B": False})
def peak_kb():
    """A process that Python starts inherits its parent's ru_maxrss; Linux says the peak of the new one elsewhere."""
    try:
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_kb()
with torch.no_grad():
    print(roi_progressive.translate_volume(sys.argv[1], sys.argv[2], generator=make, preparation=preparation,
                                           direction=sys.argv[3], sigma=sys.argv[2] + ".sigma.nii"))
print(json.dumps({"peak_gb": peak_kb() * 1024 / 1e9, "imported_gb": before * 1024 / 1e9}))
'''


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), help="slices, rows, columns")
    parser.add_argument("--channels", type=int, default=32, help="of the generator")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mr", action="store_true", help="a scan that is not in HU")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="a small scan, to see that it works")
    options = parser.parse_args()
    shape = (8, 64, 64) if options.quick else tuple(options.shape)
    channels = 2 if options.quick else options.channels
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder, "scan.nii")
        write_scan(scan, shape, options.mr)
        began = time.perf_counter()
        given = [scan, Path(folder, "out.nii"), "B2A" if options.mr else "A2B", options.threads, channels]
        command = [sys.executable, "-c", MEASURED, *map(str, given)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
        seconds = time.perf_counter() - began
    figures = {"shape": list(shape), "seconds": seconds, **json.loads(said.splitlines()[-1])}
    print(said.rpartition("\n{")[0])
    print(
        f"{' x '.join(map(str, shape))}, {options.threads} threads: {seconds:.0f} s; peak memory "
        f"{figures['peak_gb']:.2f} GB, of which {figures['imported_gb']:.2f} GB before the scan was read"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(figures), encoding="utf-8")


def write_scan(path: Path, shape: tuple[int, ...], is_mr: bool) -> None:
    """An ellipse of tissue with noise in air, 16-bit whole numbers."""
    import SimpleITK

    rows, columns = np.mgrid[-1 : 1 : 1j * shape[1], -1 : 1 : 1j * shape[2]]
    body, random = np.hypot(rows / 0.8, columns / 0.95) < 1, np.random.default_rng(0)
    array = np.empty(shape, np.int16)
    for index in range(shape[0]):
        noise = random.normal(0, 20, shape[1:])
        array[index] = np.where(body, 400 + 5 * noise, abs(noise)) if is_mr else np.where(body, 40, -1000) + noise
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.8, 0.8, 2.0))
    SimpleITK.WriteImage(image, str(path))


if __name__ == "__main__":
    main()
