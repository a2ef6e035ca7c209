"""The journal: what undo and redo do next, from the log alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from napari_memseg.annotation.journal import Journal


@given(st.lists(st.sampled_from(["paint", "undo", "redo"])))
def test_a_journal_that_is_read_again_is_the_journal_that_was_kept(wishes):
    journal, stack, undone, log = Journal(), [], [], []
    for seq, wish in enumerate(wishes, start=1):
        if wish == "paint":
            stack, undone = [*stack, seq], []
            log.append((seq, "paint", None))
        elif wish == "undo" and stack:
            undone.append(stack.pop())
            log.append((seq, "undo", undone[-1]))
        elif wish == "redo" and undone:
            stack.append(undone.pop())
            log.append((seq, "redo", stack[-1]))
        else:
            continue
        journal.record(*log[-1])
        for one in (journal, Journal(log)):
            assert one.undoable == (stack[-1] if stack else None)
            assert one.redoable == (undone[-1] if undone else None)


def test_a_confirmation_is_not_a_step_that_undo_takes_back():
    journal = Journal([(1, "paint", None), (2, "confirm", None)])
    assert journal.undoable == 1


def test_parts_of_one_stroke_are_one_step():
    journal = Journal()
    journal.record(4, "paint")
    journal.record(4, "paint")
    journal.record(7, "undo", 4)
    assert journal.undoable is None
    assert journal.redoable == 4
