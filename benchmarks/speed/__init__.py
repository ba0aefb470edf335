"""Speed of this package against its peers and against itself: `python -m benchmarks` and `python -m benchmarks.compare`.

`cases` defines what is measured. A worker process (`worker`) carries out a task: `repetitions`, `training`, `footprint`,
`file_reading` or `model_serving`. `cpp_tools` runs xLearn and libFM. `rounds` lets the repetitions of all contenders
alternate. The process of `python -m benchmarks` itself imports neither TensorFlow nor this package.
"""
