"""A tree of class folders: one folder of images for each class, decoded when they are drawn."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.config import Preprocess
from edgekit.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

Array = NDArray[Any]
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


@dataclass(frozen=True)
class ImageFiles:
    """Image files that read like one array: shape (samples, c, h, w) or (samples, h, w, c), uint8.

    Attributes:
        paths: one for each sample.
        how: channels, size and layout.
    """

    paths: tuple[Path, ...]
    how: Preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> Array:
        """Decode some of the images.

        Raises:
            UsageError: a file is broken, or two differ in size.
        """
        chosen = np.arange(len(self))[rows]
        images = [_decode(self.paths[i], self.how) for i in chosen]
        for i, image in zip(chosen, images, strict=True):
            if image.shape != self.shape[1:]:
                raise UsageError(
                    f"Images differ in size: {self.paths[i]} is {image.shape} and {self.paths[0]}"
                    f" is {self.shape[1:]}.",
                    "Give `preprocess: size: [height, width]`.",
                )
        return np.stack(images)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Samples, then the shape of the first image."""
        return (len(self), *_decode(self.paths[0], self.how).shape)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Images are bytes."""
        return np.dtype(np.uint8)

    def take(self, rows: NDArray[np.intp]) -> "ImageFiles":
        """Some of the files, not decoded."""
        return replace(self, paths=tuple(self.paths[i] for i in rows))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the files' bytes, in order."""
        total = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.digest()


def find_images(root: Path, how: Preprocess) -> tuple[ImageFiles, list[str], list[str] | None]:
    """Find the images of a tree of class folders, or of one folder without classes.

    Args:
        root: holds one folder for each class, in which images may lie deeper; or images.
        how: channels, size and layout.

    Returns:
        The images in sorted order, their ids (`class/name.png`) and the class of each, None where
        there are no class folders.

    Raises:
        UsageError: there is no such folder, no image, or a class without images.
        UnavailableError: Pillow is not installed.
    """
    _pillow()
    if not root.is_dir():
        raise UsageError(f"The data folder {root} does not exist.", "Check `data: folder:`.")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    kinds = ", ".join(sorted(SUFFIXES))
    if not folders:
        paths = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise UsageError(
                f"{root} is empty: it holds no images ({kinds}) and no folders of them.",
                "Make one folder for each class, or put images without labels into it.",
            )
        return ImageFiles(tuple(paths), how), [path.name for path in paths], None
    paths = []
    labels: list[str] = []
    for folder in folders:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise UsageError(
                f"The class folder {folder} is empty: it holds no {kinds}.",
                "Fill it or remove it.",
            )
        paths += found
        labels += [folder.name] * len(found)
    ids = [path.relative_to(root).as_posix() for path in paths]
    return ImageFiles(tuple(paths), how), ids, labels


def _decode(path: Path, how: Preprocess) -> Array:
    image = _pillow()
    try:
        with image.open(path) as file:
            picture = file.convert("L" if how.channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as e:
        raise UsageError(f"{path} is not a readable image: {e}", "Remove or mend it.") from e
    if how.size is not None and picture.size != how.size[::-1]:
        picture = picture.resize(how.size[::-1], image.Resampling.BILINEAR)
    pixels: Array = np.asarray(picture)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels.transpose(2, 0, 1) if how.layout == "nchw" else pixels


def _pillow() -> "ModuleType":
    try:
        from PIL import Image
    except ImportError as e:
        raise UnavailableError("Reading images needs Pillow.", "pip install pillow") from e
    return Image
