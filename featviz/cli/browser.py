"""``--open``: what a command has made, in a browser."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from pathlib import Path


def add_open(parser: argparse.ArgumentParser, what: str) -> None:
    """--open."""
    parser.add_argument("--open", action="store_true", help=f"show {what} in a browser")


def open_page(args: argparse.Namespace, path: Path) -> None:
    """Show a file in a browser where --open asks for it; where there is no display, a line says so."""
    if not args.open:
        return
    if not _has_display() or not webbrowser.open(path.resolve().as_uri()):
        print(f"no browser can be opened here: open {path} by yourself", file=sys.stderr)


def _has_display() -> bool:
    """Whether a browser has somewhere to show itself; without one, text browsers take the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
