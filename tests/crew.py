"""A crew in this process, whose workers die on command: what is sure of `distributed` is sure without Ray."""

import pickle

from spacevllm_plugin.distributed.worker import Setting, Worker


class Crew:
    """See `distributed.rounds.Crew`; everything is pickled as on its way to another process.

    Args:
        make: Makes the work.
        dies: Whether the worker dies of a piece, asked before it works on it; or after, when only the answer is lost.
    """

    size = 2

    def __init__(self, make, dies=lambda piece: False, dies_after=lambda piece: False):
        self.make, self.dies, self.dies_after = pickle.dumps(make), dies, dies_after
        self.rounds, self.answered = [], 0

    def __call__(self, pieces):
        self.rounds.append([piece.name for piece in pieces])
        worker = self.worker()
        for piece in reversed(pieces):
            if self.dies(piece):
                worker = self.worker()
                continue

            row = worker({"piece": pickle.dumps(piece)})
            if self.dies_after(piece):
                worker = self.worker()
                continue

            self.answered += 1
            yield pickle.loads(row["answer"])

    def worker(self):
        return Worker(pickle.loads(self.make), Setting.here())


def times(number):
    """`dies` that kills the first workers."""
    left = [number]

    def dies(piece):
        left[0] -= 1
        return left[0] >= 0

    return dies
