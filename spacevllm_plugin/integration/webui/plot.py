"""Hook on `webui.control`: below the loss, the parts that ours is made of."""

from functools import wraps
from types import ModuleType

from ..loss_parts import draw_parts


def install(module: ModuleType) -> None:
    """Wrap what draws the curve of a run's log; runs of others log no parts."""
    gen_loss_plot = module.gen_loss_plot

    @wraps(gen_loss_plot)
    def _gen_loss_plot(trainer_log):
        figure = gen_loss_plot(trainer_log)
        draw_parts(figure, trainer_log)
        return figure

    module.gen_loss_plot = _gen_loss_plot
