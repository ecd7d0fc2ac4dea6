"""How much CPU time a gateway takes, beside others that do the same: `python -m bench speed`."""
