"""The command line: parse, call, render; an error becomes an exit status."""
