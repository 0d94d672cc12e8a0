"""What a rank prints is passed on whole, and its end kept."""

import os

from anneal_trainers.pod.output import KEPT_BYTES, Tail, forward


def test_the_end_is_kept_however_much_is_printed() -> None:
    tail = Tail()
    for number in range(3 * KEPT_BYTES // 8):
        tail.add(b"%07d\n" % number)
    kept = tail.since()
    assert len(kept) == KEPT_BYTES
    assert kept.endswith(b"%07d\n" % (3 * KEPT_BYTES // 8 - 1))


def test_what_is_printed_after_a_mark_is_told_apart() -> None:
    tail = Tail()
    tail.add(b"before\n")
    mark = tail.mark()
    assert tail.since(mark) == b""
    tail.add(b"after\n")
    assert tail.since(mark) == b"after\n"
    tail.add(b"x" * 4 * KEPT_BYTES)
    assert tail.since(mark) == b"x" * KEPT_BYTES


def test_lines_are_passed_on_at_once_and_a_closed_log_stops_nothing() -> None:
    tail, (printed, printer), (log, to) = Tail(), os.pipe(), os.pipe()
    os.write(printer, b"one\ntwo without end")
    os.close(printer)
    forward(os.fdopen(printed, "rb"), tail, to)
    assert os.read(log, 100) == b"one\ntwo without end"
    os.close(log)
    printed, printer = os.pipe()
    os.write(printer, b" three\n")
    os.close(printer)
    forward(os.fdopen(printed, "rb"), tail, to)
    os.close(to)
    assert tail.text() == "one\ntwo without end three\n"
