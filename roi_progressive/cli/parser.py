"""What can be typed after ``roi-progressive``: commands, options, their help and defaults."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..saving.names import CT_AND_MR, DIRECTIONS
from ..saving.plain_text import printable


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"roi-progressive: error: {printable(message)}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """The parser; ``command`` of its result is the command's name.

    ``train`` leaves out what was not given, under the names of ``TrainOptions``.
    """
    top = _Parser(
        prog="roi-progressive",
        description="Make the regions that matter right when scans of one kind are translated into another, CT to MR.",
        epilog="A2B in options, files and logs is the direction from domain A to domain B, CT to MR unless `prepare "
        "--domains` named others; B2A leads back. Tables and figures call the domains by their names.",
    )
    top.add_argument("--version", action="version", version=f"roi-progressive {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_demo(commands)
    _add_scan(commands)
    _add_prepare(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_figure(commands)
    _add_check(commands)
    return top


def _add(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, epilog=epilog)
    return added


def _add_device(command: argparse.ArgumentParser, default: str = "auto") -> None:
    what = "cpu, cuda, cuda:N, mps, or auto, which takes CUDA where there is a GPU, then MPS, then the CPU (auto)"
    command.add_argument("--device", metavar="NAME", default=default, help=what)


def _add_demo(commands: Any) -> None:
    text = "Show on a phantom what guiding by regions does to the tumour, in minutes."
    demo = _add(commands, "demo", text, "It ends with five lines; then look at figure.png and report.md in the folder.")
    demo.add_argument(
        "--out", type=Path, default=Path("roi-progressive-demo"), help="folder to fill, new or empty (%(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the phantom and the networks (%(default)s)")
    demo.add_argument("--epochs", type=int, default=14, help="of each of the three trainings (%(default)s)")
    demo.add_argument("--processes", type=int, default=2, help="trainings at a time, one thread each (%(default)s)")
    demo.add_argument("--weights", type=Path, metavar="DIR", help="folder with weights of LPIPS, FID and KID")
    _add_device(demo)
    demo.add_argument("--force", action="store_true", help="replace an earlier demo in that folder")


def _add_scan(commands: Any) -> None:
    text = "Write the list of scans that `prepare` reads from a folder in a public layout."
    scan = _add(
        commands,
        "scan",
        text,
        "The list goes to standard output, its paths absolute, what to know to standard error: roi-progressive scan "
        "FOLDER --layout bids > scans.csv. Then: roi-progressive prepare scans.csv OUT",
    )
    scan.add_argument("folder", type=Path, help="the data set, the folder that holds dataset.json or the subjects")
    scan.add_argument(
        "--layout",
        metavar="NAME",
        required=True,
        help="bids; nnunet (imagesTr, labelsTr, dataset.json; version 1 or 2); msd (Medical Segmentation Decathlon)",
    )
    scan.add_argument(
        "--domains", nargs=2, metavar=("A", "B"), help="take scans of these two modalities alone, e.g. T1 FLAIR"
    )
    scan.add_argument(
        "--regions",
        nargs="+",
        metavar="NAME",
        help="the regions to take, NAME or NAME=LABEL or NAME=LABEL+LABEL, e.g. tumor=edema+enhancing (all)",
    )
    scan.add_argument(
        "--totalsegmentator",
        type=Path,
        metavar="DIR",
        help="take masks from its output: a folder of liver.nii.gz, ... or one label map for each scan or patient",
    )


def _add_prepare(commands: Any) -> None:
    text = "Turn volumes of two modalities (NIfTI, NRRD, MHA or DICOM) with masks into slices to train on."
    prepare = _add(
        commands,
        "prepare",
        text,
        "A stopped run goes on when it is started again. Then: roi-progressive train --data OUT --out RUN",
    )
    prepare.add_argument(
        "manifest",
        type=Path,
        help="CSV: patient, modality, image, and if wanted phase, split, and a column a region; see `scan`",
    )
    prepare.add_argument("out", type=Path, help="folder to write, new or empty")
    prepare.add_argument(
        "--domains",
        nargs=2,
        default=CT_AND_MR.names,
        metavar=("A", "B"),
        help="what the column modality calls the two domains, e.g. T1 FLAIR (CT MR)",
    )
    prepare.add_argument(
        "--in-hu",
        nargs="*",
        metavar="MODALITY",
        help="modalities whose values are HU, which are windowed; all others are treated as an MR is (CT CBCT)",
    )
    prepare.add_argument("--size", type=int, default=256, metavar="PX", help="side of the slices (%(default)s)")
    prepare.add_argument(
        "--ct-window",
        type=float,
        nargs=2,
        default=(400.0, 40.0),
        metavar=("WIDTH", "LEVEL"),
        help="of what is in HU (400 40)",
    )
    prepare.add_argument(
        "--mr-percentiles",
        type=float,
        nargs=2,
        default=(0.5, 99.5),
        metavar=("LOW", "HIGH"),
        help="of the foreground, to which what is not in HU is clipped (0.5 99.5)",
    )
    prepare.add_argument(
        "--mr-steps",
        nargs="*",
        choices=("denoise", "bias", "standardise", "clip", "zscore"),
        default=("clip", "zscore"),
        metavar="STEP",
        help="what is done to an MR, and all else that is not in HU: denoise bias standardise clip zscore, the paper "
        "takes all five (clip zscore)",
    )
    prepare.add_argument(
        "--slices-each-side",
        type=int,
        default=4,
        metavar="N",
        help="slices on each side of the one with the largest tumour (%(default)s)",
    )
    prepare.add_argument(
        "--split",
        type=float,
        nargs=3,
        default=(0.6, 0.2, 0.2),
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of patients (0.6 0.2 0.2)",
    )
    prepare.add_argument("--seed", type=int, default=0, help="of the split (%(default)s)")
    prepare.add_argument(
        "--split-file", type=Path, metavar="CSV", help="patient,split with train, val or test, in place of --split"
    )
    prepare.add_argument("--align", action="store_true", help="resample a patient's volume of B onto the grid of A")
    prepare.add_argument(
        "--paired", action="store_true", help="--align, and each pair side by side too, as pix2pix reads them"
    )
    prepare.add_argument(
        "--dtype",
        choices=("uint8", "float32"),
        default="uint8",
        help="8-bit PNGs, or .npy in [-1, 1] for `train` and `evaluate` (%(default)s)",
    )
    prepare.add_argument(
        "--field-of-view", type=float, metavar="MM", help="side of the square that is cut out (the body's longer side)"
    )
    prepare.add_argument("--processes", type=int, default=1, metavar="N", help="volumes at a time (%(default)s)")
    prepare.add_argument("--strict", action="store_true", help="exit with status 2 where a volume was left out")
    prepare.add_argument("--force", action="store_true", help="replace an earlier data set in that folder")


def _add_train(commands: Any) -> None:
    text = "Train the bundled CycleGAN on prepared slices, guided by regions."
    several = "torchrun --nproc_per_node N -m roi_progressive.cli train ..."
    epilog = f"Several processes: {several} Then: roi-progressive evaluate RUN"
    train = _add(commands, "train", text, epilog)
    train.add_argument("--data", type=Path, help="folder that `prepare` wrote")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run, new or empty")
    train.add_argument("--config", type=Path, metavar="TOML", help="regions, stages, uncertainty (one region)")
    train.add_argument("--no-regions", action="store_true", help="train the plain CycleGAN, for comparison")
    train.add_argument("--resume", action="store_true", help="continue an interrupted run (exactly, in one process)")
    train.add_argument("--force", action="store_true", help="replace an earlier run in that folder")
    train.add_argument("--threads", type=int, metavar="N", help="threads of torch (as many as cores)")
    _add_device(train, argparse.SUPPRESS)
    host = train.add_argument_group("the CycleGAN")
    absent = argparse.SUPPRESS
    host.add_argument(
        "--generator",
        choices=("unet", "resnet"),
        default=absent,
        help="the paper's UNet, or a small ResNet (unet)",
    )
    for name, kind, shown in (
        ("channels", int, "of the generators at full resolution (32)"),
        ("depth", int, "how often the UNet halves the image (4)"),
        ("discriminator-channels", int, "of the whole-image discriminators' first layer (32)"),
        ("discriminator-layers", int, "their layers of stride 2 (3)"),
        ("epochs", int, "at the full learning rate (100)"),
        ("decay-epochs", int, "over which it falls to zero (100)"),
        ("batch-size", int, "images of each domain a step and process (1)"),
        ("learning-rate", float, "Adam's (0.0002)"),
        ("cycle", float, "weight of the cycle terms (10)"),
        ("identity", float, "weight of the identity terms, as a share of the cycle's (0.5)"),
        ("average-decay", float, "of the generators' moving average, which then makes the images, 0 for none (0.99)"),
        ("seed", int, "of networks and data order (0)"),
        ("workers", int, "processes that load images (0)"),
        ("save-every-epochs", int, "how often networks are saved (10)"),
    ):
        host.add_argument(f"--{name}", type=kind, metavar="N", default=absent, help=shown)
    host.add_argument(
        "--precision",
        metavar="NAME",
        default=absent,
        help="fp32, or mixed precision: bf16, or fp16 with a scaler of the losses (fp32)",
    )
    host.add_argument("--compile", action="store_true", default=absent, help="compile the networks; pays in long runs")
    host.add_argument(
        "--deterministic", action="store_true", default=absent, help="on a GPU, the same bits every time; slower"
    )
    host.add_argument(
        "--no-flip", dest="flip", action="store_false", default=absent, help="do not mirror images at random"
    )


def _add_evaluate(commands: Any) -> None:
    text = "Print the table of a run's test slices, or of any folders of real and generated images."
    epilog = "table.md, .csv and .tex and metrics.json are written into RUN/test, beside the images, or into --out."
    evaluate = _add(commands, "evaluate", text, epilog)
    evaluate.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder that `train` wrote")
    evaluate.add_argument(
        "--compare",
        type=Path,
        metavar="OTHER",
        help="an earlier evaluation of the same slices: its folder, metrics.json or run; adds paired differences",
    )
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals' draws (%(default)s)")
    evaluate.add_argument("--region", help="the region of interest (of a run: tumor, or the data's last)")
    evaluate.add_argument("--split", choices=("test", "val"), help="which slices of a run (test)")
    evaluate.add_argument("--weights", type=Path, metavar="DIR", help="folder with weights of LPIPS, FID and KID")
    _add_device(evaluate)
    evaluate.add_argument(
        "--uncertainty", action="store_true", help="how well the run's sigma tells the error; adds reliability.png"
    )
    folders = evaluate.add_argument_group("folders instead of RUN", "one of each, or two for two directions")
    for name, shown in (
        ("real", "the true images: PNG or TIFF of 8 or 16 bits, or .npy"),
        ("fake", "the generated ones, under the same names"),
        ("masks", "the region of each, 0 and 255; without them whole images alone are scored"),
    ):
        folders.add_argument(f"--{name}", type=Path, nargs="+", metavar="DIR", help=shown)
    folders.add_argument(
        "--organs", type=Path, nargs="+", metavar="DIR", help="masks of what the regions lie in, for the lesion audit"
    )
    folders.add_argument(
        "--sigma", type=Path, nargs="+", metavar="DIR", help="their predicted sigma in grey levels, .npy or PNG"
    )
    folders.add_argument(
        "--direction", choices=DIRECTIONS, nargs="+", help="what each folder is (A2B: real holds images of domain B)"
    )
    folders.add_argument("--manifest", type=Path, metavar="JSON", help="tells patient, phase and HU of each name")
    folders.add_argument(
        "--white", type=float, metavar="N", help="value of 16-bit files that stands for 255 (65535); 12 bits: 4095"
    )
    folders.add_argument(
        "--array-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values of floating-point .npy that stand for 0 and 255 (-1 1)",
    )
    folders.add_argument("--out", type=Path, metavar="DIR", help="folder for the results, new or empty")
    folders.add_argument("--force", action="store_true", help="replace earlier results in that folder")


def _add_figure(commands: Any) -> None:
    text = "Draw real source, generated image and real target of a run by contrast phase, the region enlarged."
    epilog = "Each row shows the patient whose tumour PSNR is the median, never the best, and says so."
    figure = _add(commands, "figure", text, epilog)
    figure.add_argument("run", type=Path, metavar="RUN", help="folder that `train` wrote")
    figure.add_argument("--direction", choices=DIRECTIONS, nargs="+", default=DIRECTIONS, help="one figure each (both)")
    figure.add_argument("--patient", metavar="NAME", help="show this one instead of the median")
    figure.add_argument("--sigma", action="store_true", help="add the predicted standard deviation")
    figure.add_argument("--error", action="store_true", help="add the absolute error of the generated image")
    figure.add_argument("--region", help="the region to box (tumor, or the data's last)")
    figure.add_argument("--split", choices=("test", "val"), default="test", help="which slices (%(default)s)")
    _add_device(figure)
    figure.add_argument("--out", type=Path, metavar="DIR", help="folder for figure_A2B.png, .pdf, ... (RUN/test)")
    figure.add_argument("--force", action="store_true", help="replace figures in --out")


def _add_check(commands: Any) -> None:
    text = "Look at a host's checkout, its data and the regions, before a long run."
    check = _add(
        commands, "check", text, "The host's own options go last: roi-progressive check ... -- --model pix2pix"
    )
    check.add_argument("--host", type=Path, required=True, help="folder of the checkout, the one that holds train.py")
    check.add_argument("--data", type=Path, required=True, metavar="DIR", help="what the host calls --dataroot")
    check.add_argument("--config", type=Path, metavar="TOML", help="regions, stages, uncertainty (a region `tumor`)")
    check.add_argument("host_options", nargs="*", metavar="-- HOST_OPTIONS", help="as given to the host's train.py")
