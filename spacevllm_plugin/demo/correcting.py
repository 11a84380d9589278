"""The part of the page where a visitor puts an answer right: a box, the span, or that the thing is not there."""

from typing import Any

import gradio as gr

from . import show
from .corrections import read_box, read_span
from .desk import Desk
from .limits import Refused
from .sessions import Session


Changes = dict[Any, Any]  # component -> its new value or properties


class Correcting:
    """The components, to be made inside the page, and the functions behind them.

    Args:
        desk: Who does the work; of one without a file of corrections, nothing of this is shown.
        frame: The frame that boxes are drawn on.
        number: The slider that says which one it is.
        timeline: Where a set span is shown.
    """

    def __init__(self, desk: Desk, frame: gr.HTML, number: gr.Slider, timeline: gr.HTML) -> None:
        self.desk, self.frame, self.number, self.timeline = desk, frame, number, timeline
        with gr.Column(visible=False, elem_id="sv-correct") as self.group:
            gr.HTML(show.CORRECT_HEAD)
            self.chosen = gr.Dropdown([], label="Sentence", elem_id="sv-chosen")
            self.box = gr.Textbox(
                label="Box in this frame", info="Drag on the frame, or x1, y1, x2, y2 in pixels", elem_id="sv-box"
            )
            with gr.Row() as self.span:
                with gr.Column(min_width=130):
                    self.start = gr.Number(label="From, seconds", minimum=0, elem_id="sv-start")
                    self.starts = gr.Button("It starts at this frame", size="sm")

                with gr.Column(min_width=130):
                    self.end = gr.Number(label="To, seconds", minimum=0, elem_id="sv-end")
                    self.ends = gr.Button("It ends after this frame", size="sm")

            self.only_drawn = gr.Checkbox(label="Keep only the boxes that I drew", elem_id="sv-only")
            self.absent = gr.Checkbox(label="It is not there at all", elem_id="sv-absent")
            with gr.Row():
                self.undo = gr.Button("Remove my box here", size="sm", min_width=130)
                self.save_button = gr.Button("Save", variant="primary", size="sm", min_width=130, elem_id="sv-save")

            self.saved = gr.HTML()

    def wire(self) -> None:
        """Connect the components."""
        if self.desk.corrections is None:
            return

        place = [self.chosen, self.number]
        drawn = [self.frame, self.timeline, self.saved]
        quiet = {"show_progress": "hidden", "api_name": False}
        self.chosen.input(self.choose, place, [self.frame, self.box, self.start, self.end, self.saved], **quiet)
        self.box.input(
            self.set_box, [self.box, *place], drawn, api_name="box", show_progress="hidden", trigger_mode="always_last"
        )
        self.undo.click(self.remove_box, place, [*drawn, self.box], **quiet)
        span = [self.start, self.end, self.chosen]
        told = [self.timeline, self.saved]
        for field in (self.start, self.end):
            field.input(self.set_span, span, told, trigger_mode="always_last", **quiet)

        self.starts.click(self.starts_here, place, self.start, **quiet).then(self.set_span, span, told, **quiet)
        self.ends.click(self.ends_here, place, self.end, **quiet).then(self.set_span, span, told, **quiet)
        self.save_button.click(
            self.save, [self.chosen, self.start, self.end, self.only_drawn, self.absent], self.saved, api_name="save"
        )

    def begin(self, session: Session) -> Changes:
        """Answers to put right, or none."""
        answered, medium = session.answered, session.medium
        if self.desk.corrections is None or not answered:
            return {self.group: gr.update(visible=False)}

        names = [(f"{number}: {one.query}", number - 1) for number, one in enumerate(answered, start=1)]
        return {
            self.group: gr.update(visible=True),
            self.chosen: gr.update(choices=names, value=0),
            self.box: "",
            self.span: gr.update(visible=medium.timeline is not None),
            self.only_drawn: gr.update(value=False, visible=medium.timeline is not None),
            self.absent: False,
            self.saved: "",
            **self._span_fields(session, 0),
        }

    def outputs(self) -> list[Any]:
        """What `begin` changes."""
        fields = [self.group, self.chosen, self.box, self.span, self.start, self.end]
        return [*fields, self.only_drawn, self.absent, self.saved]

    def picture(self, session: Session, place: int | None, number: float) -> str:
        """The frame with what can be put right on it."""
        medium = session.medium
        if medium is None:
            return ""

        editable = self.desk.corrections is not None and place is not None and place in range(len(session.answered))
        frame = min(max(int(number), 0), medium.num_frames - 1)
        return show.frame(medium, session.answered, frame, place if editable else None)

    def choose(self, place: int, number: float, request: gr.Request) -> Changes:
        """Another sentence."""
        session = self.desk.session(request.session_hash)
        return {
            self.frame: self.picture(session, place, number),
            self.box: "",
            self.saved: "",
            **self._span_fields(session, place),
        }

    def set_box(self, text: str, place: int, number: float, request: gr.Request) -> Changes:
        """A box was drawn, or is being typed."""
        session, one = self.desk.chosen(request.session_hash, place)
        box = read_box(text, session.medium)
        if box is None:
            return {self.saved: show.notice("A box is x1, y1, x2, y2 inside the picture, for instance 10, 20, 60, 90")}

        one.drawn[int(number)] = box
        return self._shown(session, place, number)

    def remove_box(self, place: int, number: float, request: gr.Request) -> Changes:
        """The visitor's box of this frame goes."""
        session, one = self.desk.chosen(request.session_hash, place)
        one.drawn.pop(int(number), None)
        return {**self._shown(session, place, number), self.box: ""}

    def set_span(self, start: float | None, end: float | None, place: int, request: gr.Request) -> Changes:
        """The span was typed."""
        session, one = self.desk.chosen(request.session_hash, place)
        try:
            one.span_seconds = read_span(start, end, session.medium)
        except Refused as err:
            return {self.saved: show.notice(str(err))}

        return {self.timeline: show.timeline(session.answered, session.medium), self.saved: ""}

    def starts_here(self, place: int, number: float, request: gr.Request) -> float:
        """When this frame starts."""
        session, _ = self.desk.chosen(request.session_hash, place)
        return round(session.medium.timeline.seconds(int(number)), 3)

    def ends_here(self, place: int, number: float, request: gr.Request) -> float:
        """When this frame ends."""
        session, _ = self.desk.chosen(request.session_hash, place)
        return round(session.medium.timeline.seconds(int(number) + 1), 3)

    def save(
        self,
        place: int,
        start: float | None,
        end: float | None,
        only_drawn: bool,
        absent: bool,
        request: gr.Request,
    ) -> str:
        """Save what was put right."""
        try:
            row = self.desk.save(request.session_hash, place, (start, end), only_drawn, absent)
        except Refused as err:
            return show.notice(str(err), "bad")

        return show.notice(f"saved as {row.id}", "good")

    def _shown(self, session: Session, place: int, number: float) -> Changes:
        return {
            self.frame: self.picture(session, place, number),
            self.timeline: show.timeline(session.answered, session.medium),
            self.saved: "",
        }

    def _span_fields(self, session: Session, place: int) -> Changes:
        one = session.answered[place]
        start, end = one.span_seconds or one.prediction.span_seconds or (None, None)
        return {self.start: start, self.end: end}
