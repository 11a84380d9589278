"""`stcat`: STCAT's evaluation; a true box without a predicted one stops it."""

from .stcat_family import scorers


SCORERS = scorers(stops_vidstg=True, stops_hcstvg=True)
