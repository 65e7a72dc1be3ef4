"""The command line: it parses arguments, calls the program and prints results; an error becomes an exit status."""
