"""Train a checkout of pytorch-CycleGAN-and-pix2pix, of its classic or its DDP generation, guided by regions.

python train.py --host CHECKOUT --dataroot DATA --name RUN --model cycle_gan ...

After --host come the checkout's own options. The regions stand in roi.toml, in the folder this is started from.
The same script as train_plain.py; what is added are an import and two calls.
"""

import argparse
import os
import sys
import time

import roi_progressive


def parse_options():
    """The host's options, parsed by the host; its modules can be imported afterwards."""
    parser = argparse.ArgumentParser(add_help="--host" not in sys.argv, epilog="then the host's own options")
    parser.add_argument("--host", required=True, help="folder of the checkout; with it, --help is the host's own")
    ours, theirs = parser.parse_known_args()
    if not os.path.isfile(os.path.join(ours.host, "options", "train_options.py")):
        parser.error(f"--host must be the folder of a checkout, with options/train_options.py; got {ours.host!r}")
    sys.path.insert(0, ours.host)
    sys.argv[1:] = theirs
    from options.train_options import TrainOptions

    opt = TrainOptions().parse()
    if not hasattr(opt, "gpu_ids"):  # the DDP generation finds its device itself
        from util.util import init_ddp

        opt.device = init_ddp()
    return opt


def main():
    opt = parse_options()
    from data import create_dataset
    from models import create_model
    from util.visualizer import Visualizer

    is_classic = hasattr(opt, "gpu_ids")
    dataset = create_dataset(opt)
    model = create_model(opt)
    model.setup(opt)
    visualizer = Visualizer(opt)
    session = roi_progressive.attach(model, dataset, "roi.toml")
    n_seen, n_epochs = 0, opt.n_epochs + opt.n_epochs_decay
    for epoch in range(opt.epoch_count, n_epochs + 1):
        session.start_epoch(epoch)
        started_s, n_in_epoch = time.time(), 0
        visualizer.reset()
        if is_classic:
            model.update_learning_rate()
        else:
            dataset.set_epoch(epoch)
        for data in dataset:
            step_started_s = time.time()
            n_seen += opt.batch_size
            n_in_epoch += opt.batch_size
            model.set_input(data)
            model.optimize_parameters()
            if n_seen % opt.display_freq == 0:
                model.compute_visuals()
                where = (epoch,) if is_classic else (epoch, n_seen)
                visualizer.display_current_results(
                    model.get_current_visuals(), *where, n_seen % opt.update_html_freq == 0
                )
            if n_seen % opt.print_freq == 0:
                losses, step_s = model.get_current_losses(), (time.time() - step_started_s) / opt.batch_size
                visualizer.print_current_losses(epoch, n_in_epoch, losses, step_s, 0.0)
                if not is_classic:
                    visualizer.plot_current_losses(n_seen, losses)
                elif opt.display_id > 0:
                    visualizer.plot_current_losses(epoch, n_in_epoch / len(dataset), losses)
            if n_seen % opt.save_latest_freq == 0:
                model.save_networks(f"iter_{n_seen}" if opt.save_by_iter else "latest")
        if not is_classic:
            model.update_learning_rate()
        if epoch % opt.save_epoch_freq == 0:
            model.save_networks("latest")
            model.save_networks(epoch)
        print(f"epoch {epoch} of {n_epochs}: {time.time() - started_s:.0f} s")
    if not is_classic:
        from util.util import cleanup_ddp

        cleanup_ddp()


if __name__ == "__main__":
    main()
