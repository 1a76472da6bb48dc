"""Scans that are killed again and again, by a process that imports torch once and forks.

    python tests/kills.py OUT PICTURES KILLS RANKS SEED

Below OUT each folder is one scan, gone on with until it is finished. Printed is what was done, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import featviz.cli.commands  # noqa: F401  (before the first fork)
from featviz import Images, Scan, cli

OPTIONS = (
    "--model", "nets:plain", "--layers", "0,3", "--k", "3", "--batch-size", "4", "--checkpoint", "0.02",
)  # fmt: skip
KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NICE = 10.0
"""Seconds in which a process has to end after a signal; torchrun gives it 30."""


class Forked:
    """A process that runs the command ``featviz``."""

    def __init__(self, argv: list[str], log: Path, environment: dict[str, str]) -> None:
        self.code: int | None = None
        self.number = os.fork()
        if self.number == 0:
            _become(argv, log, environment)

    def poll(self) -> int | None:
        """The exit code, or minus the signal that it died of; None while it runs."""
        if self.code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def send(self, number: int) -> None:
        """Send a signal, if the process is still there."""
        if self.poll() is None:
            os.kill(self.number, number)

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code; a process that does not end in time is killed, which is an error."""
        stop = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > stop:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"a process did not end in {seconds} s")
            time.sleep(0.001)
        assert self.code is not None
        return self.code


def _become(argv: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run the command as the interpreter does, and go."""
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(environment)
        sys.argv = ["featviz", *argv]
        cli.console()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def _slow(self: Images, *arguments: Any, **options: Any) -> Iterator[Any]:
    """Batches of images, so slowly that there is a moment to be killed in."""
    for batch in _batches(self, *arguments, **options):
        time.sleep(0.01)
        yield batch


_batches = Images.pixel_batches


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Trial:
    """Scans of some pictures that are killed, each by one process or by several ranks."""

    def __init__(self, root: Path, pictures: Path, ranks: int, seed: int) -> None:
        self.root = root
        self.pictures = pictures
        self.ranks = ranks
        self.draw = random.Random(seed)
        self.codes: Counter[int] = Counter()
        self.folders: list[str] = []
        self.done: list[int] = []  # images in the record after each kill
        root.mkdir(parents=True)
        self.seconds = 1.0
        start = time.monotonic()
        self.finish(root / "undisturbed")
        self.seconds = time.monotonic() - start

    def begin(self, out: Path) -> list[Forked]:
        argv = ["scan", *OPTIONS, "--images", str(self.pictures), "--out", str(out)]
        environment: dict[str, str] = {}
        if self.ranks > 1:
            argv += ["--shards", "3"]
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
            environment = address | {"WORLD_SIZE": str(self.ranks)}
        processes = []
        for rank in range(self.ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if environment else {}
            processes.append(Forked(argv, out.with_suffix(".log"), environment | own))
        return processes

    def finish(self, out: Path) -> None:
        """Run the command undisturbed."""
        codes = [process.wait() for process in self.begin(out)]
        assert set(codes) == {0}, (codes, out.with_suffix(".log").read_text()[-2000:])

    def all_kills(self, kills: int) -> None:
        """So many kills; a scan that is finished is followed by a new one."""
        while sum(self.codes.values()) < kills:
            self.folders.append(f"{len(self.folders):03d}")
            out = self.root / self.folders[-1]
            while sum(self.codes.values()) < kills and self.kill(out):
                self.check(out)
            self.finish(out)

    def kill(self, out: Path) -> bool:
        """Start the command and kill it at a random moment; False: it was done before."""
        processes = self.begin(out)
        number = self.draw.choice(KILLS)
        time.sleep(self.draw.random() * self.seconds)
        first = self.draw.choice(processes)
        victims = [first] if number == signal.SIGKILL else processes
        for victim in victims:
            victim.send(number)
        if self.draw.random() < 0.3:  # somebody is impatient
            time.sleep(self.draw.random() * 0.02)
            for victim in victims:
                victim.send(number)
        first.wait(NICE)
        for process in processes:
            process.send(signal.SIGTERM)  # as torchrun does when one has died
        for process in processes:
            process.wait(NICE)
        code = first.wait()
        if code == 0:
            return False
        self.codes[code] += 1
        return True

    def check(self, out: Path) -> None:
        """What a kill leaves behind is a record, or none."""
        done = 0
        for folder in [out, *out.glob("shard-*-of-*")]:
            if (folder / "scan.json").exists():
                done += Scan.load(folder).done
        self.done.append(done)


def main() -> None:
    out, pictures, kills, ranks, seed = sys.argv[1:]
    torch.set_num_threads(1)
    Images.pixel_batches = _slow  # type: ignore[method-assign]
    trial = Trial(Path(out), Path(pictures), int(ranks), int(seed))
    trial.all_kills(int(kills))
    result = {
        "codes": trial.codes,
        "folders": trial.folders,
        "done": trial.done,
        "seconds": trial.seconds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
