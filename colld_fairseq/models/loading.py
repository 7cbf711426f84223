"""Load student checkpoints in plain Python."""


def load_student(path):
    raise RuntimeError("not available yet")
