"""Any order of painting, undoing, predicting, crashing and reopening, against plain numpy arrays."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from annotation.helpers import Picture, after_a_kill, make_run, publish
from napari_memseg.annotation.overlay import GROUP_DABS, GROUP_SECONDS
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box, cell_box
from napari_memseg.models.classes import ClassTable

SHAPE = (66, 65, 9)
BACKGROUND, NOBODY = 254, 255
opinions = st.sampled_from([1, 2, 15, 0, BACKGROUND])
boxes = st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, n)) for n in SHAPE)).map(
    lambda ends: Box(
        tuple(a for a, _ in ends), tuple(min(a + b, n) for (a, b), n in zip(ends, SHAPE, strict=True))
    )
)
blocks = st.tuples(st.integers(0, 1), st.integers(0, 1), st.just(0))


class SessionMachine(RuleBasedStateMachine):
    """``now`` is what the user sees, ``disk`` what was acknowledged."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.picture, self.kills, self.clock = Picture(SHAPE), 0, 0.0
        self.session = Session.create(self.folder / "0", self.picture, ClassTable.from_ids([1, 2, 15]))
        self.now, self.disk = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        self.done, self.undone, self.runs = [], [], []
        self.is_open, self.base, self.in_parts, self.dabs, self.since = False, None, False, 0, 0.0
        self._take_over()

    def _take_over(self):
        self.session.overlay._clock = lambda: self.clock
        self.arrays = {path.id: None for path in self.session.runs()}

    # The model of what a commit does

    def _commit(self):
        if not np.array_equal(self.now, self.disk):
            if not self.in_parts:
                self.done.append(self.base)
                self.undone.clear()
            self.in_parts, self.disk = True, self.now.copy()
        self.dabs, self.since = 0, self.clock

    def _press(self):
        self._release()
        self.is_open, self.base, self.in_parts = True, self.now.copy(), False
        self.dabs, self.since = 0, self.clock

    def _release(self):
        if self.is_open:
            self._commit()
        self.is_open = False

    def _dab(self, box, value):
        alone = not self.is_open
        if alone:
            self._press()
        self.now[box.slices] = value
        self.dabs += 1
        if alone:
            self._release()
        elif self.dabs >= GROUP_DABS or self.clock - self.since >= GROUP_SECONDS:
            self._commit()

    # What a user does

    @rule(box=boxes, value=opinions)
    def paint_or_withdraw(self, box, value):
        self.session.overlay[box.slices] = value
        self._dab(box, value)

    @rule(box=boxes, first=opinions, then=opinions)
    def drag_slowly(self, box, first, then):
        self.press()
        for value in (first, then):
            self.clock += GROUP_SECONDS
            self.paint_or_withdraw(box, value)

    @rule()
    def press(self):
        self.session.overlay.begin_stroke()
        self._press()

    @rule()
    def release(self):
        self.session.overlay.commit()
        self._release()

    @rule(box=boxes, value=opinions, odd=st.booleans())
    def fill(self, box, value, odd):
        mask = np.indices(box.shape).sum(0) % 2 == 1 if odd else None
        self.session.overlay.fill(box, value, mask)
        self._press()
        self.now[box.slices] = value if mask is None else np.where(mask, value, self.now[box.slices])
        self._release()

    @rule()
    def undo(self):
        self.session.overlay.undo()
        self._release()
        if self.done:
            self.undone.append(self.now)
            self.now = self.done.pop()
            self.disk = self.now.copy()

    @rule()
    def redo(self):
        self.session.overlay.redo()
        self._release()
        if self.undone:
            self.done.append(self.now)
            self.now = self.undone.pop()
            self.disk = self.now.copy()

    # What predictions do meanwhile

    @precondition(lambda self: len(self.runs) < 3)
    @rule()
    def new_run(self):
        run_id, path = self.session.new_run()
        make_run(path, SHAPE)
        self.runs.append((run_id, np.full(SHAPE, NOBODY, np.uint8), set()))

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 2), block=blocks, value=st.sampled_from([0, 1, 2, 15]))
    def publish_a_block(self, which, block, value):
        run_id, model, published = self.runs[which % len(self.runs)]
        if block not in published:
            box = cell_box(block, (64, 64, 64), SHAPE)
            published.add(block)
            model[box.slices] = value
            path = next(run.path for run in self.session.runs() if run.id == run_id)
            publish(zarr.open_array(path / "0", mode="r+"), box, value)

    # What happens to the program

    @rule()
    def kill(self):
        self.kills += 1
        left = after_a_kill(self.session.path, self.folder / str(self.kills))
        self.session.close()
        self.session = Session.open(left, image=self.picture)
        self.now = self.disk.copy()
        self.is_open = False
        self._take_over()

    @rule()
    def reopen(self):
        self.session.close()
        self._release()
        self.session = Session.open(self.session.path, image=self.picture)
        assert self.session.recovered == 0
        self._take_over()

    # What must hold

    @invariant()
    def the_overlay_is_what_was_painted(self):
        np.testing.assert_array_equal(np.asarray(self.session.overlay), self.now)

    @invariant()
    def saved_means_on_disk(self):
        if self.session.overlay.state == "saved":
            np.testing.assert_array_equal(self.now, self.disk)

    @rule()
    def a_frozen_copy_is_what_is_on_disk(self):
        with self.session.snapshot() as frozen:
            np.testing.assert_array_equal(np.asarray(frozen.overlay), self.disk)

    @invariant()
    def the_composite_is_opinions_over_predictions(self):
        expected = np.full(SHAPE, NOBODY, np.uint8)
        for _, predicted, _ in self.runs:
            expected = np.where(predicted == NOBODY, expected, predicted)
        opinion = np.where(self.now == BACKGROUND, 0, self.now)
        expected = np.where(self.now == 0, expected, opinion)
        np.testing.assert_array_equal(np.asarray(self.session.composite()), expected)

    def teardown(self):
        if hasattr(self, "session"):
            assert self.session.verify()["ok"]
            self.session.close()
            shutil.rmtree(self.folder)


SessionMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSession = pytest.mark.slow(SessionMachine.TestCase)
