"""Scoring protocols: one file each, chosen by name."""

from . import cgstvg, hcstvg, mattnet, mdetr, native, qwenvl, stalign, stcat, tastvg, tubedetr
from .scorer import Rules, Scorer


# protocol -> task -> how to score it
PROTOCOLS: dict[str, dict[str, Scorer]] = {
    "native": native.SCORERS,
    "tubedetr": tubedetr.SCORERS,
    "stcat": stcat.SCORERS,
    "cgstvg": cgstvg.SCORERS,
    "tastvg": tastvg.SCORERS,
    "hcstvg": hcstvg.SCORERS,
    "stalign": stalign.SCORERS,
    "mdetr": mdetr.SCORERS,
    "mattnet": mattnet.SCORERS,
    "qwenvl": qwenvl.SCORERS,
}

__all__ = ["PROTOCOLS", "Rules", "Scorer"]
