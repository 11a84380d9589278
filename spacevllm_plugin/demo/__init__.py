"""A page to try a model on: a video or an image and some sentences in, tubes out, to look at, to take along, to correct.

The page is Gradio's, which comes with LLaMA-Factory. Whoever reaches the port may use it: what a visitor sends is
bounded (`limits`), read in one place (`medium`) and kept apart from other visitors' (`sessions`).
"""
