"""Speed of this package against its peers: `python -m benchmarks`, see `benchmarks/README.md`.

What is measured is in `cases`, how one repetition goes in `repetitions` (TensorFlow) and `cpp_tools` (xLearn, libFM), and
how repetitions alternate in `rounds`. The process that runs `python -m benchmarks` imports neither TensorFlow nor this
package: every contender has a process of its own.
"""
