"""The command line: it parses arguments, calls the program and prints results; an error becomes an exit status."""

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = "interrupted; nothing is lost, run the same command again"
