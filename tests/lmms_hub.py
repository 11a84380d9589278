"""What lmms-eval's own tasks read, on this disk: data sets laid out as their hub repositories, videos below HF_HOME."""

import http.server
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
from conftest import write_video


# Task -> repository, configuration and split as its YAML names them, the folder of its videos, and its items.
TASKS = {
    "mvbench_action_sequence": (
        ("OpenGVLab/MVBench", "action_sequence", "train"),
        "mvbench_video/star/Charades_segment",
        [{"video": "v_1.0_3.5.mp4", "question": "What next?", "candidates": ["Sits.", "Runs."], "answer": "Runs."}],
    ),
    "mvbench_state_change": (
        ("OpenGVLab/MVBench", "state_change", "train"),
        "mvbench_video/perception/videos",
        [
            {"video": f"{name}.mp4", "question": "Is it lit?", "candidates": ["Yes.", "No."], "answer": "No."}
            for name in ("video_1", "missing")
        ],
    ),
    "videomme": (
        ("lmms-eval/Video-MME", "videomme", "test"),
        "videomme/data",
        [
            {
                "video_id": "001",
                "duration": "short",
                "domain": "Knowledge",
                "sub_category": "Humanity & History",
                "videoID": "fFjv93ACGo8",
                "question_id": "001-1",
                "task_type": "Counting Problem",
                "question": "How many apples?",
                "options": ["A. Two.", "B. Three.", "C. Four.", "D. None."],
                "answer": "C",
            }
        ],
    ),
    "tempcompass_multi_choice": (
        ("lmms-eval/TempCompass", "multi-choice", "test"),
        "tempcompass/videos",
        [{"video_id": "7", "question": "What is it?\nA. red\nB. blue", "answer": "B. blue", "dim": "action"}],
    ),
    "tempcompass_yes_no": (
        ("lmms-eval/TempCompass", "yes_no", "test"),
        "tempcompass/videos",
        [{"video_id": "7", "question": "Does it stop?", "answer": "no", "dim": "order"}],
    ),
    "egoschema_subset": (
        ("lmms-eval/egoschema", "Subset", "test"),
        "egoschema/videos",
        [
            {
                "question_idx": "0",
                "question": "What does C do?",
                "video_idx": "u1",
                "option": [f"{letter}. C does {letter.lower()}." for letter in "ABCDE"],
                "answer": "3",
            }
        ],
    ),
}
_NAMES = ("video", "videoID", "video_id", "video_idx")


def write_hub(root: Path) -> dict[str, list[str]]:
    """Write repositories below `root`, where lmms-eval started there finds them, and videos below `root/home`.

    Returns:
        The videos of each task's items.
    """
    videos, configs = {}, {}
    for number, (task, ((repository, config, split), folder, items)) in enumerate(TASKS.items()):
        path = root / repository / config / "rows.parquet"
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), path)
        configs.setdefault(repository, []).append(
            f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}/*.parquet\n"
        )
        (root / "home" / folder).mkdir(parents=True, exist_ok=True)
        videos[task] = []
        for item in items:
            # Video-MME has both kinds of ids; the file is called after YouTube's.
            name = item.get("videoID") or next(item[key] for key in _NAMES if key in item)
            path = root / "home" / folder / f"{name.removesuffix('.mp4')}.mp4"
            videos[task].append(str(path))
            if path.stem != "missing":
                write_video(path, 12, fps=2, first=20 * number)

    for repository, entries in configs.items():
        (root / repository / "README.md").write_text(f"---\nconfigs:\n{''.join(entries)}---\n")

    return videos


@contextmanager
def judge():
    """A server that finds every answer wrong: TempCompass asks one, by OpenAI's interface, about what it cannot read."""
    reply = json.dumps({"choices": [{"message": {"content": "Incorrect"}}], "usage": {}}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
