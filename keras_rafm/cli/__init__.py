"""The command line tool `keras-rafm`."""
