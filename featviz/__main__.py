"""``python -m featviz`` is the ``featviz`` command."""

from featviz.cli import console

console()
