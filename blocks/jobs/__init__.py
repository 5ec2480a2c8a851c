"""Jobs that run elsewhere: start once, watch, stop, and show their parts as task runs."""
