"""Progress bars."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from blocks.base import progress as module
from blocks.base.progress import progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def look(monkeypatch, *, patience_s: float = 0) -> Terminal:
    """A terminal in place of stderr; not a fixture, because pytest's capture comes between."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "PATIENCE_S", patience_s)
    return stream


def work(label: str = "orders", ticks: int = 3) -> None:
    with progress(label) as tick:
        for _ in range(ticks):
            tick(1000)


def test_silent_without_a_terminal(capsys):
    """Where nobody looks, nothing is drawn."""
    work()
    assert capsys.readouterr() == ("", "")


def test_silent_on_short_work(monkeypatch):
    """Work that is over at once draws nothing, on a terminal either."""
    terminal = look(monkeypatch, patience_s=3600)
    work()
    assert terminal.getvalue() == ""


def test_drawn_on_a_terminal(monkeypatch):
    """Long work shows its label, its unit and how far it is, and leaves no trace behind."""
    terminal = look(monkeypatch)
    work()
    assert "orders (rows)" in terminal.getvalue()
    assert "3,000" in terminal.getvalue()
    assert module._Bar._display is None


def test_output_stays_where_it_goes(monkeypatch, capsys):
    """A report printed into a file or a pipe while a bar is drawn does not end up on the terminal."""
    terminal = look(monkeypatch)
    with progress("orders") as tick:
        tick(1)
        print("the report")  # noqa: T201
    assert capsys.readouterr().out == "the report\n"
    assert "the report" not in terminal.getvalue()


def test_one_display_for_all(monkeypatch):
    """Loads that run at the same time share the terminal."""
    look(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert module._Bar._display is None


def test_an_error_ends_the_bar(monkeypatch):
    """An error passes through, and the terminal is given back."""
    look(monkeypatch)
    with pytest.raises(ZeroDivisionError), progress("orders", unit="files", total=10) as tick:
        tick(1) or 1 // 0
    assert module._Bar._display is None
