"""Hook on `chat.chat_model`: `llamafactory-cli chat` with one of our models takes videos, and prints and draws tubes."""

import os
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from ..data.prompt_rules import PromptError
from ..data.reply import split_block
from ..data.schema import VISUAL_TAGS
from ..data.storage import StorageError
from ..data.video import MediaError, VideoRef, probe, read_image
from ..inference.draw_reply import draw_reply
from ..inference.reply_table import reply_table
from .template import is_ours


VARIABLE = "SPACEVLLM_CHAT_DIR"
DEFAULT_DIR = "outputs/chat"
SAMPLING = {"do_sample", "temperature", "top_p", "top_k"}
WELCOME = """Welcome to the CLI application, use `clear` to remove the history, use `exit` to exit the application.
Use `/video PATH` or `/image PATH` to put a file into your next question; what is found is drawn into {folder}."""
CHECKS = {"videos": lambda path: probe(VideoRef.parse(path)), "images": read_image}
COMMANDS = {"/video": "videos", "/image": "images"}


@dataclass
class Conversation:
    """What the user and the model have said and shown.

    Attributes:
        messages: As LLaMA-Factory takes them, with media tags.
        media: `videos` or `images`, and the path, in order of appearance.
        pending: How many of `media` the next question brings.
    """

    messages: list[dict[str, str]] = field(default_factory=list)
    media: list[tuple[str, str]] = field(default_factory=list)
    pending: int = 0

    def attach(self, kind: str, path: str) -> None:
        """Put a file into the next question.

        Raises:
            MediaError: It cannot be read.
            StorageError: Its storage cannot be reached.
        """
        CHECKS[kind](path)
        self.media.append((kind, path))
        self.pending += 1

    def ask(self, question: str) -> None:
        """Add a question, behind the media that it brings."""
        tags = [VISUAL_TAGS[kind] for kind, _ in self.media[len(self.media) - self.pending :]]
        self.messages.append({"role": "user", "content": "".join(tags) + question})

    def answered(self, text: str) -> None:
        """Add the model's answer."""
        self.messages.append({"role": "assistant", "content": text})
        self.pending = 0

    def of(self, kind: str) -> list[str] | None:
        """The paths of one kind, as the engine takes them."""
        return [path for own, path in self.media if own == kind] or None


def talk(chat_model: Any, options: dict[str, Any], folder: Path) -> None:
    """Read questions and print answers until the user leaves.

    Args:
        chat_model: LLaMA-Factory's.
        options: Of generation.
        folder: For the drawings.
    """
    print(WELCOME.format(folder=folder))
    conversation, number = Conversation(), 0
    while True:
        try:
            query = input("\nUser: ")
        except UnicodeDecodeError:
            print("Detected decoding error at the inputs, please set the terminal encoding to utf-8.")
            continue
        except EOFError:
            return

        command, _, path = query.strip().partition(" ")
        if query.strip() == "exit":
            return

        if query.strip() == "clear":
            conversation = Conversation()
            print("History has been removed.")
            continue

        try:
            if command in COMMANDS:
                conversation.attach(COMMANDS[command], os.path.expanduser(path.strip()))
                print(f"It goes into your next question: {path.strip()}")
                continue

            number += 1
            answer(chat_model, options, conversation, query, folder / f"reply_{number}")
        except (MediaError, PromptError, StorageError) as err:
            print(err)


def answer(chat_model: Any, options: dict[str, Any], conversation: Conversation, query: str, stem: Path) -> None:
    """Print the answer to a question as it comes, then its tubes, and where they are drawn.

    Raises:
        MediaError: A file cannot be read; the question is taken back.
        PromptError: So is one that is not fit for a prompt.
        StorageError: A file's storage cannot be reached; the same.
    """
    conversation.ask(query)
    print("Assistant: ", end="", flush=True)
    text, tubes = "", None
    try:
        media = {kind: conversation.of(kind) for kind in VISUAL_TAGS}
        for piece in chat_model.stream_chat(conversation.messages, **media, **options):
            piece, found = split_block(piece)
            tubes = tubes if found is None else found
            text += piece
            print(piece, end="", flush=True)
    except (MediaError, PromptError, StorageError):
        conversation.messages.pop()
        raise

    print()
    conversation.answered(text)
    if tubes is None:
        return

    print("\n" + reply_table(tubes, [Path(path).name for _, path in conversation.media]))
    for order, (tube, (_, path)) in enumerate(zip(tubes, conversation.media), start=1):
        try:
            for picture in draw_reply(tube, path, Path(f"{stem}_{order}"), query):
                print(f"drawn: {picture}", flush=True)
        except (MediaError, OSError) as err:
            print(f"not drawn: {err}")


def greedy_unless_asked() -> dict[str, Any]:
    """Options of generation: a span is not a matter of taste, unless the command or recipe says how to sample."""
    from llamafactory.hparams import get_infer_args

    model_args, *_ = get_infer_args()
    return {} if SAMPLING & set(model_args.given) else {"do_sample": False}


def install(module: ModuleType) -> None:
    """Wrap the command."""
    run_chat = module.run_chat

    @wraps(run_chat)
    def _run_chat():
        chat_model = module.ChatModel()
        if is_ours(chat_model.engine.template):
            if os.name != "nt":
                import readline  # noqa: F401  (lines can be edited)

            start = datetime.now().strftime("%Y-%m-%d-%H-%M-%S")
            folder = Path(os.environ.get(VARIABLE) or DEFAULT_DIR, start)
            talk(chat_model, greedy_unless_asked(), folder)
            return

        # Theirs makes its model itself; it has been made.
        made, module.ChatModel = module.ChatModel, lambda: chat_model
        try:
            run_chat()
        finally:
            module.ChatModel = made

    module.run_chat = _run_chat
