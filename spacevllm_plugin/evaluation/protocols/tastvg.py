"""`tastvg`: TA-STVG's evaluation; a true box without a predicted one adds 0."""

from .stcat_family import scorers


SCORERS = scorers(stops_vidstg=False, stops_hcstvg=False)
