"""The page: Gradio's components, and what each of a visitor's actions changes on it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from . import show
from .correcting import Changes, Correcting
from .desk import Desk
from .limits import MOST_SENTENCES, Refused
from .sessions import Session


HERE = Path(__file__).parent
FONTS = ["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
DOWNLOADS = {
    "mp4": "Video (MP4)",
    "png": "Picture (PNG)",
    "gif": "GIF",
    "json": "Rows (JSONL)",
    "coco": "COCO",
    "youtube-vis": "YouTube-VIS",
    "cvat": "CVAT",
    "label-studio": "Label Studio",
}
WAITING = 64  # events that may wait; those who come then are told that the queue is full


def build_page(desk: Desk, model: str) -> gr.Blocks:
    """The page of a model.

    Args:
        desk: Who does the work.
        model: The model's name, to show.
    """
    # Strings are fonts of the visitor's machine; Gradio's own defaults would come over the network.
    theme = gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=MONO)
    css, js = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    with gr.Blocks(title="SpaceVLLM", theme=theme, css=css, js=js, analytics_enabled=False) as page:
        parts = _Page(desk, model)
        parts.wire()
        page.unload(parts.leave)

    return page.queue(max_size=WAITING, default_concurrency_limit=4)


class _Page:
    """The components, and the functions behind them; each returns what changes."""

    def __init__(self, desk: Desk, model: str) -> None:
        self.desk = desk
        gr.HTML(show.head(model))
        with gr.Row():
            with gr.Column(scale=4, min_width=300, elem_id="sv-ask"):
                self._ask_part()

            with gr.Column(scale=7, min_width=300):
                self._answer_part()

    def _ask_part(self) -> None:
        limits = self.desk.limits
        self.upload = gr.File(
            # Gradio goes by the name: not every system knows the last ones as a video's.
            label="Video or image",
            file_types=["video", "image", ".mkv", ".ts", ".mts"],
            height=140,
        )
        self.said = gr.HTML(
            show.notice(f"Up to {limits.megabytes:g} MB and {limits.seconds:g} seconds. Or try an example:")
        )
        with gr.Row(elem_id="sv-examples"):
            self.examples = [gr.Button(example.name, size="sm", min_width=80) for example in self.desk.examples]

        self.sentences = gr.Textbox(
            label="Sentences", info="One a line", lines=3, max_lines=MOST_SENTENCES, elem_id="sv-sentences"
        )
        self.find = gr.Button("Find", variant="primary", elem_id="sv-find")
        with gr.Accordion("Compare with an annotation", open=False):
            self.annotation = gr.File(
                label="Annotation rows (JSON, JSONL)", file_types=[".json", ".jsonl"], height=120
            )

    def _answer_part(self) -> None:
        self.empty = gr.HTML(show.EMPTY)
        self.player = gr.Video(show_label=False, visible=False, interactive=False, elem_id="sv-player")
        self.timeline = gr.HTML(visible=False)
        self.table = gr.HTML(visible=False)
        with gr.Tabs(visible=False) as self.tabs:
            with gr.Tab("Frame by frame"):
                self.frame = gr.HTML()
                self.number = gr.Slider(0, 1, step=1, value=0, label="Frame", elem_id="sv-number")

                self.correcting = Correcting(self.desk, self.frame, self.number, self.timeline)

            with gr.Tab("Contact sheet"):
                self.sheet = gr.Image(show_label=False, interactive=False, elem_id="sv-sheet")

            with gr.Tab("Downloads"):
                with gr.Row(elem_id="sv-downloads"):
                    self.downloads = {
                        name: gr.DownloadButton(label, size="sm", min_width=140, visible=False)
                        for name, label in DOWNLOADS.items()
                    }

                self.rows = gr.JSON(label="Prediction rows")

    def wire(self) -> None:
        """Connect the components."""
        result = [self.empty, self.player, self.timeline, self.table, self.tabs, self.frame, self.number, self.sheet]
        result += self.downloads.values()
        everything = [self.said, self.sentences, self.rows, *result, *self.correcting.outputs()]
        self.upload.upload(self.open, self.upload, everything, api_name="open", concurrency_limit=2)
        self.upload.clear(self.clear, None, everything, api_name=False)
        for place, button in enumerate(self.examples):
            button.click(self._opener(place), None, everything, api_name=f"example_{place}")

        self.annotation.upload(
            self.annotate, [self.annotation, self.sentences], [self.said, self.sentences], api_name="annotate"
        )
        # One at a time: the model has one device.
        asked = self.find.click(
            self.ground, self.sentences, everything, api_name="ground", concurrency_limit=1, concurrency_id="model"
        )
        files = [self.player, self.sheet, *self.downloads.values()]
        asked.then(self.draw, None, files, api_name="draw", concurrency_limit=2)
        self.number.input(
            self.show_frame,
            [self.correcting.chosen, self.number],
            [self.frame, self.correcting.box],
            api_name="frame",
            show_progress="hidden",
            trigger_mode="always_last",
        )
        self.correcting.wire()

    def open(self, file: str | None, request: gr.Request) -> Changes:
        """Take an upload."""
        try:
            return self._look_at(self.desk.open(request.session_hash, file or ""))
        except Refused as err:
            return {self.said: show.notice(str(err), "bad"), **self._nothing()}

    def clear(self, request: gr.Request) -> Changes:
        """Forget an upload."""
        self.desk.sessions.close(request.session_hash)
        return {self.said: "", **self._nothing()}

    def _opener(self, place: int) -> Any:
        def open_example(request: gr.Request) -> Changes:
            session = self.desk.example(request.session_hash, place)
            queries = "\n".join(row.query for row in session.truths)
            return {**self._look_at(session), self.sentences: queries}

        return open_example

    def annotate(self, file: str | None, text: str, request: gr.Request) -> Changes:
        """Take annotation rows; they also say what to ask where nothing is asked yet."""
        try:
            truths = self.desk.annotate(request.session_hash, file or "").truths
        except Refused as err:
            return {self.said: show.notice(str(err), "bad")}

        queries = list(dict.fromkeys(row.query for row in truths))
        said = show.notice(f"annotation: {len(truths)} rows about this file", "good")
        return {self.said: said, self.sentences: text if text.strip() else "\n".join(queries[:MOST_SENTENCES])}

    def ground(self, text: str, request: gr.Request, progress: gr.Progress = gr.Progress()) -> Changes:
        """Answer the sentences."""

        def tell(done: int, count: int) -> None:
            progress((done, count), desc="The model looks", unit="sentences")

        try:
            session = self.desk.ground(request.session_hash, text, tell)
        except Refused as err:
            return {self.said: show.notice(str(err), "bad"), self.rows: None}

        medium, answered = session.medium, session.answered
        start = next((one.prediction.span_frames[0] for one in answered if one.prediction.span_frames), 0)
        found = f"{sum(one.found for one in answered)} of {len(answered)} found"
        return {
            self.said: show.notice(f"{show.about(medium)} – {found}", "good"),
            self.empty: gr.update(visible=False),
            self.player: gr.update(value=None, visible=medium.timeline is not None),
            self.timeline: gr.update(value=show.timeline(answered, medium), visible=medium.timeline is not None),
            self.table: gr.update(value=show.table(answered, medium), visible=True),
            self.frame: self.correcting.picture(session, 0, start),
            self.number: start,
            **self.correcting.begin(session),
            self.sheet: None,
            **{button: gr.update(value=None, visible=False) for button in self.downloads.values()},
            self.rows: [one.prediction.model_dump(mode="json", exclude_none=True) for one in answered],
        }

    def draw(self, request: gr.Request) -> Iterator[Changes]:
        """Draw the answers, the player's video first, and write them in all formats."""
        shown = {"mp4": self.player, "png": self.sheet}
        for name, file in self.desk.files(request.session_hash):
            changes = {self.downloads[name]: gr.update(value=str(file), visible=True)}
            if name in shown:
                changes[shown[name]] = str(file)

            yield changes

    def show_frame(self, place: int | None, number: float, request: gr.Request) -> tuple[str, str]:
        """Another frame."""
        session = self.desk.session(request.session_hash)
        return self.correcting.picture(session, place, number), ""

    def leave(self, request: gr.Request) -> None:
        """A visitor's connection ended."""
        self.desk.sessions.leave(request.session_hash)

    def _look_at(self, session: Session) -> Changes:
        """A medium that nothing has been asked about yet."""
        medium = session.medium
        last = max(medium.num_frames - 1, 1)
        return {
            **self._nothing(),
            self.said: show.notice(show.about(medium), "good"),
            self.empty: gr.update(visible=False),
            self.tabs: gr.update(visible=True),
            self.frame: self.correcting.picture(session, None, 0),
            self.number: gr.update(value=0, maximum=last, visible=medium.timeline is not None),
        }

    def _nothing(self) -> Changes:
        """No medium and no answer."""
        hidden = (self.player, self.timeline, self.table)
        return {
            self.empty: gr.update(visible=True),
            **{part: gr.update(value=None, visible=False) for part in hidden},
            self.tabs: gr.update(visible=False),
            self.frame: "",
            self.sheet: None,
            **{button: gr.update(value=None, visible=False) for button in self.downloads.values()},
            self.rows: None,
            self.correcting.group: gr.update(visible=False),
        }
