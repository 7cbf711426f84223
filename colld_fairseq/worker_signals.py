"""Signals in the processes of a pool."""

import signal


def leave_signals_to_parent() -> None:
    """First in a worker. Ctrl-C reaches all processes, and the parent ends its workers: with SIGTERM, which must then
    mean what it usually does, and not what a program has made of it before it forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
