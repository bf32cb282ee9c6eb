"""Which epochs' networks a run keeps: that of the last one, from which it goes on, and that of the best validation."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..saving.records import entry, fault_of, of_kind, read_json, write_json
from ..saving.written import recorded, remove_written

_POINTER, _BEST_POINTER = "latest.json", "best.json"
LAST, BEST = "last", "best"
"""What the epochs whose networks a run keeps are called."""


def pointer(folder: Path) -> Path:
    """The file that names the last saved epoch, from which a run goes on."""
    return folder / "networks" / _POINTER


def best_pointer(folder: Path) -> Path:
    """The file that names the best epoch."""
    return folder / "networks" / _BEST_POINTER


def point_at(folder: Path, epoch: int, ended: str | None = None) -> None:
    """Write down whose networks a run holds, once all files of that epoch are there.

    Args:
        folder: The run's folder.
        epoch: The epoch that was saved.
        ended: Why the run is finished with it, where it is not its last one.

    Raises:
        DataError: It cannot be written.
    """
    with recorded(folder, pointer(folder)):
        write_json(pointer(folder), {"epoch": epoch} | ({} if ended is None else {"ended": ended}))


def point_at_best(folder: Path, epoch: int | None) -> None:
    """Write down which epoch is the best so far, once all its files are there; ``None`` where none is known.

    Raises:
        DataError: It cannot be written.
    """
    path = best_pointer(folder)
    if epoch is None:
        remove_written(folder, [path.relative_to(folder).as_posix()])
    elif not path.is_file() or best_epoch(folder) != epoch:
        with recorded(folder, path):
            write_json(path, {"epoch": epoch})


def saved_epoch(folder: Path) -> int | None:
    """The last epoch whose networks a run holds, or ``None`` before the first is saved.

    Raises:
        CheckpointError: The file that names it is damaged.
    """
    pointed: int | None = _pointed(pointer(folder)).get("epoch")
    return pointed


def best_epoch(folder: Path) -> int | None:
    """The epoch of the best validation, or ``None`` where none is kept.

    Raises:
        CheckpointError: The file that names it is damaged.
    """
    pointed: int | None = _pointed(best_pointer(folder)).get("epoch")
    return pointed


def why_ended(folder: Path) -> str | None:
    """Why a run is finished before its last epoch; ``None`` where it is not.

    Raises:
        CheckpointError: The file that says so is damaged.
    """
    reason: str | None = _pointed(pointer(folder)).get("ended")
    return reason


def epoch_in_words(networks: Path, epoch: int) -> str:
    """Which of a run's epochs one is, and which other one it keeps.

    Raises:
        CheckpointError: The file that names either is damaged.
    """
    last, best = (_pointed(networks / name).get("epoch") for name in (_POINTER, _BEST_POINTER))
    if best is None:
        return f"epoch {epoch}, the last one"
    if best == last:
        return f"epoch {epoch}, the last one and the best"
    if epoch == best:
        return f"epoch {epoch}, the best one (the last is {last}: --epoch last)"
    return f"epoch {epoch}, the last one (the best is {best}: --epoch best)"


def chosen_epoch(networks: Path, epoch: int | str | None = None) -> int:
    """The one way in which commands find the networks that they are to use.

    Args:
        networks: The folder of a run's networks.
        epoch: ``last`` (also where ``None``), the last saved epoch; ``best``, the one of the best validation; or the
            number of either.

    Raises:
        ConfigError: ``epoch`` is none of these.
        CheckpointError: No epoch is saved yet, the epoch is not kept, or the file that names it is damaged.
    """
    last, best = (_pointed(networks / name).get("epoch") for name in (_POINTER, _BEST_POINTER))
    run = networks.parent if (networks.parent / "run.json").is_file() else networks
    if last is None:
        raise CheckpointError(
            f"`run` must hold a saved epoch; {str(run)!r} has none yet; train it from the beginning with --force"
        )
    if epoch is None or epoch == LAST:
        return int(last)
    if epoch == BEST:
        if best is None:
            raise CheckpointError(
                f"`epoch` must be one that is kept; {str(run)!r} has no best one: it was not validated; take "
                f"`last`, or train with --validate-every N"
            )
        return int(best)
    number = int(epoch) if isinstance(epoch, str) and epoch.isascii() and epoch.isdigit() else epoch
    if not isinstance(number, int) or isinstance(number, bool):
        near = difflib.get_close_matches(str(epoch), (LAST, BEST), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"`epoch` must be best, last or a number; got {epoch!r}{hint}")
    if number not in (last, best):
        kept = f"{last} (last)" if best is None else f"{last} (last), {best} (best)"
        raise CheckpointError(f"`epoch` must be one whose networks are kept: {kept}; got {number}")
    return number


def _pointed(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        entry(content, "epoch", int)
        of_kind(content.get("ended"), "`ended`", str, type(None))
        found: dict[str, Any] = content
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"`run` must hold a saved epoch; {str(path)!r}, which names it, is damaged: "
            f'{fault_of(error)}; take another copy of it, or write {{"epoch": N}} into it, where N is the epoch in '
            f"the names of the files beside it"
        ) from error
