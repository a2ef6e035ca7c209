"""Review: be taken to the places where a correction is worth most, and say what is right."""

from __future__ import annotations

from typing import Any, ClassVar

from napari.utils.notifications import show_error
from qtpy.QtCore import QSize
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QCheckBox, QListWidget, QListWidgetItem

from napari_memseg.annotation.review import ACCEPTED, Place, Review
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.keys import shown
from napari_memseg.widgets.pages.page import NO_SESSION, Page, why_read_only
from napari_memseg.widgets.parts import Button, Hint, JobBar, group, row
from napari_memseg.widgets.reviewing import REVIEW_KEYS

PICTURE = 56
"""Edge of a thumbnail, in pixels."""
MARKS = {ACCEPTED: "✓", "skipped": "–"}


class ReviewPage(Page):
    """A list of places with reasons and pictures; one key for each thing to say of them."""

    title: ClassVar[str] = "Review"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.reviewing = desk.reviewing
        self._build_list()
        self._build_verdicts()
        self.column.addStretch()
        self.reviewing.changed.connect(self.refresh)
        self.reviewing.relay.stepped.connect(self.bar.show_step)
        self.refresh()

    def _build_list(self) -> None:
        find = "Rank the places of the newest run by the voxels that are likely to be wrong"
        self.find_places = Button("Find places", self.reviewing.find, find)
        self.bar = JobBar()
        self.places = QListWidget()
        self.places.setIconSize(QSize(PICTURE, PICTURE))
        self.places.setWordWrap(True)
        self.places.setMinimumHeight(220)
        self.places.itemClicked.connect(self._on_click)
        self.list_group = group("Places", self.find_places, self.find_places.reason, self.bar, self.places)
        self.add(self.list_group)

    def _build_verdicts(self) -> None:
        reviewing, key = self.reviewing, {name: shown(key) for name, key in REVIEW_KEYS.items()}
        self.next = Button("Next", reviewing.next, f"{key['next']}: go to the next place")
        self.back = Button("Back", reviewing.back, f"{key['back']}: go to the place before")
        right = f"{key['accept']}: what is shown in the frame is right, also where nothing is painted"
        self.accept = Button("Accept", reviewing.accept, right)
        self.skip = Button("Skip", reviewing.skip, f"{key['skip']}: leave it as it is")
        self.whole = QCheckBox("accept all slices in the frame")
        self.whole.setToolTip("Accept goes through the depth of the frame, not only the slice that is shown")
        self.whole.toggled.connect(self._on_whole)
        self.confirm = Button(
            "Confirm what is visible",
            self._confirm,
            "All that you see on this slice becomes truth to learn from",
        )
        self.take_back = Button("Take back", self._take_back, "Take the last confirmation back")
        self.count = Button("Count", reviewing.count, "Count minutes, voxels and agreement so far")
        self.numbers = Hint()
        self.verdicts = group(
            "Verdict", row(self.back, self.next, self.accept, self.skip), self.accept.reason, self.whole
        )
        self.so_far = group("So far", row(self.confirm, self.take_back), row(self.count), self.numbers)
        self.add(self.verdicts, self.so_far)

    def refresh(self) -> None:
        """Show the list, where the person is, and what to do next."""
        session, busy = self.desk.session, self.reviewing.relay.busy
        for part in (self.list_group, self.verdicts, self.so_far):
            part.setVisible(session is not None)
        if session is None:
            self.hint.say(NO_SESSION)
            return
        if not busy:
            self.bar.clear()
        self.hint.say(self._next_thing())
        self._fill(self.reviewing.review)
        self._allow(busy)
        self.numbers.say(self._numbers())

    def _next_thing(self) -> str:
        session, review = self.desk.session, self.reviewing.review
        if session is not None and session.read_only:
            return why_read_only(session)
        if session is not None and not session.runs():
            return "There is no prediction to review yet: segment first, on the page Segment."
        if review is None:
            return "Find places: a list of where a correction is worth most."
        if session is not None and self._is_outdated(session, review):
            return "Another run is shown than the one this list is about: find places anew."
        if self.reviewing.place is None:
            return "Press Next. Correct what is wrong in the frame, then accept; or skip."
        return (
            f"{self._reason(self.reviewing.place)}. Correct what is wrong in the frame, then accept; or skip."
        )

    def _is_outdated(self, session: Session, review: Review) -> bool:
        """Whether a run is shown that has predicted something since the list was made."""
        shown = session.shown_run
        return shown not in (None, review.run) and (session.path / "runs" / str(shown) / "0").exists()

    def _allow(self, busy: bool) -> None:
        session, review, place = self.desk.session, self.reviewing.review, self.reviewing.place
        no_run = (
            "" if session is not None and session.runs() else "Segment first: there is nothing to look at."
        )
        self.find_places.allow("Something is being counted." if busy else no_run, quiet=not no_run)
        no_list = "" if review is not None and review.places else "Find places first."
        self.next.allow(no_list, quiet=True)
        self.back.allow(
            no_list or ("" if place is not None and place.number else "This is the first."), quiet=True
        )
        read_only = session is not None and session.read_only
        for button in (self.accept, self.skip):
            why = "The session cannot be edited here." if read_only else ""
            button.allow(why or ("" if place is not None else "Go to a place first: press Next."), quiet=True)
        self.confirm.allow("The session cannot be edited here." if read_only else no_run, quiet=True)
        confirmed = session is not None and bool(session.confirmed())
        self.take_back.allow("" if confirmed and not read_only else "Nothing is confirmed.", quiet=True)
        self.count.allow("Something is being counted." if busy else "", quiet=True)

    def _reason(self, place: Place) -> str:
        session = self.desk.session
        reason = place.reason(session.classes) if session is not None else ""
        return reason[:1].upper() + reason[1:]

    def _fill(self, review: Review | None) -> None:
        """Show the list; the items stay where it is the same list."""
        path = str(review.path) if review is not None else ""
        if self.places.property("list") != path:
            self.places.setProperty("list", path)
            self.places.clear()
            pictures = [str(review.thumbnail(place.number)) for place in review.places] if review else []
            for picture in pictures:
                self.places.addItem(QListWidgetItem(QIcon(picture), ""))
        if review is None:
            return
        for place in review.places:
            verdict = review.verdicts.get(place.number)
            mark = f"{MARKS[verdict.verdict]} " if verdict else ""
            self.places.item(place.number).setText(f"{mark}{place.number + 1}. {self._reason(place)}")
        if self.reviewing.place is not None:
            self.places.setCurrentRow(self.reviewing.place.number)

    def _numbers(self) -> str:
        parts = []
        if (review := self.reviewing.review) is not None and review.places:
            right, judged = review.honest
            parts.append(f"{len(review.verdicts)} of {len(review.places)} places judged.")
            if judged:
                parts.append(f"Of {judged} random places, {right} were right as they were.")
        if self.reviewing.counted is not None and self.desk.session is not None:
            parts += _counted_text(self.reviewing.counted, {c.id: c.name for c in self.desk.session.classes})
        return "\n".join(parts)

    def _on_click(self, item: QListWidgetItem) -> None:
        if self.reviewing.review is not None:
            self.reviewing.go(self.reviewing.review.places[self.places.row(item)])

    def _on_whole(self, on: bool) -> None:
        self.reviewing.whole_box = on

    def _confirm(self) -> None:
        session, box = self.desk.session, self.desk.visible_box()
        if session is not None and box is not None:
            self.desk.save()
            try:
                session.confirm(box)
            except InputError as error:
                show_error(str(error))
            self.refresh()

    def _take_back(self) -> None:
        session = self.desk.session
        if session is not None and (confirmed := session.confirmed()):
            try:
                session.unconfirm(confirmed[-1].id)
            except InputError as error:
                show_error(str(error))
            self.refresh()


def _counted_text(counted: dict[str, Any], names: dict[int, str]) -> list[str]:
    """Say what was counted: time, voxels, and per class how far the first and the last run agree with it."""
    parts = [
        f"{counted['minutes']:.0f} minutes, {counted['strokes']:,} strokes. Known are {counted['known']:,} "
        f"voxels ({counted['reviewed']:.2%} of the volume), {counted['changed']:,} of them not as predicted."
    ]
    for number, found in counted["classes"].items():
        if found["known"]:
            before, after = (
                "–" if found[name] is None else f"{found[name]:.2f}" for name in ("dice_before", "dice_after")
            )
            parts.append(f"{names.get(int(number), number)}: Dice {before} before, {after} now")
    return parts
