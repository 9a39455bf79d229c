"""`scalingjob`, the command line: validate, render, run and status."""
