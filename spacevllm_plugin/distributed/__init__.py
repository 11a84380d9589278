"""Work shared by processes and machines: cut into pieces, done by workers that may die, every piece answered once.

`pieces.py` cuts, `rounds.py` tries again and gives up, `worker.py` is what runs in a process, `cluster.py` is the only
file that imports Ray. What is shared: `ground.py` (predictions), `stages.py` (Uni-STG), `media.py` (checking, probing).
"""
