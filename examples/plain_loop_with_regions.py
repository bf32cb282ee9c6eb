"""A plain CycleGAN, the way tutorials write it: CT slices (A) to MR slices (B) and back, from unpaired folders.

python plain_loop_with_regions.py --data DATA --out RUN

The same script as plain_loop.py, guided by the liver and the tumour: the lines that roi-progressive adds, no other.
"""

import argparse
import itertools
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import roi_progressive


def load_grey(path):
    """An 8-bit grey image as a tensor [1, H, W] in [-1, 1]."""
    pixels = np.asarray(Image.open(path).convert("L"), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0)[None]


def load_masks(path):
    """The masks of an image: trainA/x.png has trainA_liver/x.png and trainA_tumor/x.png."""
    folders = {region: path.parent.with_name(f"{path.parent.name}_{region}") for region in ("liver", "tumor")}
    return {region: load_grey(folder / path.name) for region, folder in folders.items()}


class Slices(Dataset):
    """Every CT slice, each with a random MR slice."""

    def __init__(self, root):
        self.paths_A = sorted(Path(root, "trainA").glob("*.png"))
        self.paths_B = sorted(Path(root, "trainB").glob("*.png"))

    def __len__(self):
        return len(self.paths_A)

    def __getitem__(self, index):
        path_A, path_B = self.paths_A[index], random.choice(self.paths_B)
        return {
            "A": load_grey(path_A),
            "B": load_grey(path_B),
            "masks_A": load_masks(path_A),
            "masks_B": load_masks(path_B),
        }


def block(channels_in, channels_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
        nn.InstanceNorm2d(channels_out),
        nn.ReLU(),
    )


def make_generator(width=16):
    return nn.Sequential(
        block(1, width),
        block(width, 2 * width, stride=2),
        *(block(2 * width, 2 * width) for _ in range(3)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        block(2 * width, width),
        nn.Conv2d(width, 1, 3, padding=1),
        nn.Tanh(),
    )


def make_discriminator(width=16):
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.InstanceNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 4, padding=1),
    )


def toward(logits, target):
    """Least-squares GAN loss."""
    return ((logits - target) ** 2).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder with trainA and trainB")
    parser.add_argument("--out", required=True, help="folder for the trained generators")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=4)
    args = parser.parse_args()

    torch.manual_seed(0)
    random.seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = DataLoader(Slices(args.data), batch_size=args.batch_size, shuffle=True)
    A2B, B2A = make_generator().to(device), make_generator().to(device)
    D_A, D_B = make_discriminator().to(device), make_discriminator().to(device)
    optimizer_G = torch.optim.Adam(itertools.chain(A2B.parameters(), B2A.parameters()), lr=2e-4, betas=(0.5, 0.999))
    optimizer_D = torch.optim.Adam(itertools.chain(D_A.parameters(), D_B.parameters()), lr=2e-4, betas=(0.5, 0.999))
    config = Path(__file__).with_name("roi.toml")
    session = roi_progressive.attach({"A2B": A2B, "B2A": B2A}, config=config, n_epochs=args.epochs)

    for epoch in range(args.epochs):
        session.start_epoch(epoch)
        for batch in loader:
            real_A, real_B = batch["A"].to(device), batch["B"].to(device)

            fake_B, fake_A = A2B(real_A), B2A(real_B)
            rec_A, rec_B = B2A(fake_B), A2B(fake_A)
            loss_G = toward(D_B(fake_B), 1.0) + toward(D_A(fake_A), 1.0)
            loss_G = loss_G + 10.0 * ((rec_A - real_A).abs().mean() + (rec_B - real_B).abs().mean())
            forth = {"real_A": real_A, "fake_B": fake_B, "rec_A": rec_A, "masks_A": batch["masks_A"]}
            back = {"real_B": real_B, "fake_A": fake_A, "rec_B": rec_B, "masks_B": batch["masks_B"]}
            loss_G = loss_G + session.generator_loss(**forth, **back)
            optimizer_G.zero_grad()
            loss_G.backward()
            optimizer_G.step()

            loss_D = toward(D_B(real_B), 1.0) + toward(D_B(fake_B.detach()), 0.0)
            loss_D = loss_D + toward(D_A(real_A), 1.0) + toward(D_A(fake_A.detach()), 0.0)
            optimizer_D.zero_grad()
            loss_D.backward()
            optimizer_D.step()
            session.discriminator_step()
        print(f"epoch {epoch + 1} of {args.epochs}: G {loss_G.item():.3f}, D {loss_D.item():.3f}")

    Path(args.out).mkdir(parents=True, exist_ok=True)
    torch.save(A2B.state_dict(), Path(args.out, "A2B.pth"))
    torch.save(B2A.state_dict(), Path(args.out, "B2A.pth"))


if __name__ == "__main__":
    main()
