"""A gallery within a notebook."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from featviz.errors import UsageError
from featviz.gallery import site


@dataclass(frozen=True)
class Frame:
    """A gallery as a notebook shows it: its front page in a frame, and a link to it.

    Attributes:
        page: the file.
        height: of the frame, in pixels.
    """

    page: Path
    height: int

    def __repr__(self) -> str:
        return f"<Gallery in {str(self.page.parent)!r}>"

    def _repr_html_(self) -> str:
        # relative, since a notebook's server shows files by their paths from the notebook
        path = Path(os.path.relpath(self.page)).as_posix()
        address = escape(quote(path))
        frame = (
            f'<iframe src="{address}" title="gallery" width="100%" height="{self.height}" '
            'style="border: 1px solid #8888" allowfullscreen></iframe>'
        )
        link = f'<a href="{address}" target="_blank">{escape(path)}</a>'
        return f"{frame}<p>{link}</p>"


def show(gallery: str | Path, *, height: int = 720) -> Frame:
    """A gallery in a notebook: as the last line of a cell it is a frame with the gallery in it.

    The notebook's server reads the files, so the gallery has to lie in the folder of the notebook, which is
    the current one, or in another that the server shows.

    Args:
        gallery: what `build` or `compare` returned, or the folder of a gallery that was made before.
        height: of the frame, in pixels, above 0.

    Returns:
        An object with ``_repr_html_``, as notebooks look for it.

    Raises:
        UsageError: there is no gallery, or the height is not above 0.
        RecordError: it is damaged, or of another version of featviz.

    Example:
        >>> import tempfile
        >>> from featviz import gallery, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(4), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv1", k=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = gallery.build(result, model, images, folder, rules=["gradient"])
        ...     gallery.show(page, height=500)._repr_html_().count("<iframe")
        1
    """
    if height < 1:
        raise UsageError(f"height={height}: give pixels above 0", "height")
    folder = Path(gallery)
    if folder.suffix == ".html":
        folder = folder.parent
    page = folder / "index.html"
    if site.read(folder) is None or not page.exists():
        raise UsageError(f"no gallery in {str(folder)!r}: make one with build, or give its folder")
    return Frame(page, height)
