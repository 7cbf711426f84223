"""A pool ends its workers with SIGTERM, whatever the program does with that signal."""

import multiprocessing
import signal

import pytest

from colld_fairseq.worker_signals import leave_signals_to_parent


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_program_with_a_handler(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with multiprocessing.get_context("fork").Pool(1, leave_signals_to_parent) as pool:
            assert pool.apply(signal.getsignal, (signal.SIGTERM,)) == signal.SIG_DFL
            assert pool.apply(signal.getsignal, (signal.SIGINT,)) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
