"""The command line tool `keras-rafm`.

The modules here parse and check a command without TensorFlow, so that mistakes are reported at once. The modules in
`commands` carry it out.
"""
