"""A trained network made fast on this machine, or written for another program."""
