"""Files that are never half written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from featviz.errors import UsageError
from featviz.files import LOCK, check_writable, claimed, write_atomic


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    assert write_atomic(path, "näher\n") == path
    assert path.read_bytes() == "näher\n".encode()
    write_atomic(path, "latin\udce9.jpg 名")  # the name of a file that is not UTF-8
    assert path.read_text(encoding="utf-8") == r"latin\udce9.jpg 名"
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomic(tmp_path / "file", "earlier")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        write_atomic(path, "later")
    assert error.value.filename == str(path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    check_writable(tmp_path / "a" / "b")


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/folder") as error:
        check_writable(tmp_path / "file" / "folder")
    assert error.value.arguments == ("out",)


HOLD = """
import sys
from pathlib import Path
from featviz.files import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[bytes]:
    """A process that has claimed a folder, until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize("ending", ["its block", "kill"])
def test_a_claim_is_waited_for_and_ends_with_its_process(tmp_path: Path, ending: str) -> None:
    with holder(tmp_path) as process:
        messages: list[str] = []

        def on_wait(message: str) -> None:
            messages.append(message)
            assert process.poll() is None
            if ending == "kill":
                process.kill()
            else:
                assert process.stdin is not None
                process.stdin.close()

        with claimed(tmp_path, on_wait), claimed(tmp_path, on_wait):
            assert process.wait() is not None
            assert (tmp_path / LOCK).exists()
    assert messages == [
        f"another process works in the folder {str(tmp_path)!r}: waiting until it is done"
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_left_that_was_killed_is_no_hindrance(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    assert (tmp_path / LOCK).exists()  # nobody could remove it
    with claimed(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_is_warned_of_and_an_interruption_ends_it(tmp_path: Path) -> None:
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, interrupt)
    with holder(tmp_path) as process:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with (
                pytest.warns(UserWarning, match="another process works in the folder"),
                pytest.raises(KeyboardInterrupt),
                claimed(tmp_path),
            ):
                pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, earlier)
        process.kill()
    with claimed(tmp_path):  # and leaves nothing claimed
        pass


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = process.pid
    left = [f".scan.json.{dead}.featviz-part", f"layers/000/.1.js.{dead}.featviz-part"]
    others = [".scan.json.1.featviz-part", f".x.{dead}.part", f"own/.a.{dead}.featviz-part"]
    for name in [*left, *others]:
        write_atomic(tmp_path / name, "")
    with claimed(tmp_path):
        pass
    assert not [name for name in left if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)


def test_a_claim_leaves_no_empty_folder_that_was_not_there(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    with claimed(deep), claimed(deep / "c"):
        assert (deep / "c").is_dir()
    assert list(tmp_path.iterdir()) == []
    with claimed(deep):
        write_atomic(deep / "text", "kept")
    deep.rename(tmp_path / "empty")
    (tmp_path / "empty" / "text").unlink()
    with claimed(tmp_path / "empty"):  # it was there before
        pass
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_folder_that_is_waited_for_may_go_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with holder(out) as process:

        def on_wait(message: str) -> None:
            assert process.stdin is not None
            process.stdin.close()

        with claimed(out, on_wait):
            write_atomic(out / "text", "kept")
    assert [path.name for path in out.iterdir()] == ["text"]
