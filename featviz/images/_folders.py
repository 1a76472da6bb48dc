"""Which files below a folder, or in an archive, are images."""

from __future__ import annotations

import os
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from PIL import Image, features

_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
    ".pgm", ".avif", ".jp2",
)  # fmt: skip
_NOT_THE_USERS = ("@eaDir", "#recycle", "__MACOSX")
"""Folders that Synology and macOS make beside pictures, with thumbnails and copies of them."""
_BESIDE = "._"
"""How the names of files begin that macOS makes beside each of the user's."""


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case, that this build of Pillow can read."""
    readable = set(Image.registered_extensions())
    if not features.check("jpg_2000"):
        readable.discard(".jp2")  # registered all the same
    return frozenset(readable.intersection(_SUFFIXES))


def is_hidden(name: str) -> bool:
    """Whether a folder of this name is one that people do not mean: hidden, or made by the system."""
    is_dotted = name.startswith(".") and name.strip(".") != ""  # and not . or ..
    return is_dotted or name in _NOT_THE_USERS


def why_left_out(name: str) -> str | None:
    """The reason why a file is not among the images, by its name; None: it is."""
    if name.startswith(_BESIDE):
        return f"files {_BESIDE}*"
    suffix = os.path.splitext(name)[1].lower()
    if suffix in suffixes():
        return None
    return f"files {suffix}" if suffix else "files without a suffix"


def folder_of(key: str) -> str | None:
    """The innermost folder in a key, which is the label; one object for all keys that share it."""
    if "/" not in key:
        return None
    return sys.intern(key.split("/")[-2])


def stamp_of(path: Path) -> str:
    """Size and time of change of a file, which tell whether it is still the same; empty if it is
    gone."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def images_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The images below a folder in order, and how many files were left out, by the reason.

    Symbolic links are followed. A folder that is reached twice, as by a link to a folder above it,
    is entered once: by its own path if that lies below ``folder`` too.
    """
    walk = _Walk()
    walk.enter(folder)
    while walk.links:
        walk.enter(walk.links.pop(0))
    return sorted(walk.images), walk.left_out


class _Walk:
    """A walk through folders: what was found so far, and links to folders that are still to enter."""

    def __init__(self) -> None:
        self.images: list[Path] = []
        self.left_out: Counter[str] = Counter()
        self.links: list[Path] = []
        self._entered: set[tuple[int, int]] = set()

    def enter(self, folder: Path) -> None:
        """Look at a folder and at those that really lie in it."""
        try:
            status = folder.stat()
            names = sorted(os.listdir(folder))
        except OSError:
            self.left_out["folders that cannot be read"] += 1
            return
        identity = (status.st_dev, status.st_ino)
        if identity in self._entered:
            self.left_out["links to folders that are listed already"] += 1
            return
        self._entered.add(identity)
        for name in names:
            self._look_at(folder / name)

    def _look_at(self, path: Path) -> None:
        # os.path's tests are False for what is broken, and for a link to itself
        if os.path.isdir(path):
            if is_hidden(path.name):
                self.left_out[f"folders {path.name}"] += _files_in(path)
            elif path.is_symlink():
                self.links.append(path)
            else:
                self.enter(path)
        elif os.path.isfile(path):
            reason = why_left_out(path.name)
            if reason is None:
                self.images.append(path)
            else:
                self.left_out[reason] += 1
        else:
            self.left_out["broken links and what is no file"] += 1


def _files_in(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))
