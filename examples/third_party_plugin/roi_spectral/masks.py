"""A source of masks: all of them in one folder, instead of a folder beside each folder of images."""


def in_one_folder(path, regions):
    """``trainA/x.png`` has ``masks/trainA/x_tumor.png``; an image without that file does not hold the region.

    Returns:
        Mask files by region, or ``None`` where there is no such folder, so that other sources are asked.
    """
    folder = path.parent.parent / "masks" / path.parent.name
    if not folder.is_dir():
        return None
    files = {region: folder / f"{path.stem}_{region}.png" for region in regions}
    return {region: file if file.is_file() else None for region, file in files.items()}
