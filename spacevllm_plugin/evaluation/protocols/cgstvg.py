"""`cgstvg`: CG-STVG's evaluation; a true box without a predicted one stops it on VidSTG and adds 0 on HC-STVG."""

from .stcat_family import scorers


SCORERS = scorers(stops_vidstg=True, stops_hcstvg=False)
