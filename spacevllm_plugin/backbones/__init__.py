"""One room for each backbone: a folder with a `spec.py`. `registry` finds them; a folder without one is shared by some."""
