"""Uni-STG: tubes made from captions with coarse spans, in four stages, and the training mixture.

`analyze` (a language model names the caption's objects) -> `annotate` (a detector boxes them) -> `refine` (one tube, a
tight span) -> `filter` (ambiguous tubes go; annotation rows come out). Each stage reads one JSONL file and writes another
(`stage.py`); what a row looks like in between is in `rows.py`.
"""
