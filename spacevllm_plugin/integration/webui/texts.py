"""What our parts of the Chat page say, in the languages of its users; English where a language is missing."""

TEXTS = {
    "greedy": {
        "en": "0 is greedy: a span is not a matter of taste.",
        "zh": "0 为贪心解码：时间段不是口味问题。",
    },
    "span": {
        "en": "{start:.2f} to {end:.2f} s, frames {first} to {last}",
        "zh": "{start:.2f} 至 {end:.2f} 秒，第 {first} 至 {last} 帧",
    },
    "no_span": {"en": "No time could be read from the answer.", "zh": "无法从回答中读出时间。"},
    "box": {"en": "box", "zh": "边界框"},
    "drawing": {"en": "Drawing …", "zh": "正在绘制……"},
    "part": {
        "en": "The video below shows {start:.0f} to {end:.0f} s of it.",
        "zh": "下面的视频为其中的 {start:.0f} 至 {end:.0f} 秒。",
    },
    "not_drawn": {"en": "It could not be drawn: {reason}", "zh": "无法绘制：{reason}"},
}


def text(name: str, lang: str, **values: object) -> str:
    """A text in the page's language."""
    languages = TEXTS[name]
    return languages.get(lang, languages["en"]).format(**values)
