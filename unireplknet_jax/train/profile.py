"""A trace of a few training steps, for TensorBoard's profiler or xprof."""

import logging

import jax

_log = logging.getLogger(__name__)
_SKIPPED, _TRACED = 3, 5


class Profiler:
    """Traces five steps of a run into `folder`, after three that compile and warm up; None: never."""

    def __init__(self, folder, first_step):
        self._folder, self._begin = folder, first_step + _SKIPPED
        self._running, self._results = False, None

    def before(self, step, results):
        """To be called before every step, with what the step before has given: steps only begin when they return."""
        self._results = results
        if self._folder is None:
            return
        if step == self._begin:
            jax.block_until_ready(results)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step == self._begin + _TRACED:
            self.close()

    def close(self):
        """End a trace that is still being taken, after the steps that have begun."""
        if self._running:
            jax.block_until_ready(self._results)
            jax.profiler.stop_trace()
            self._running = False
            _log.info("wrote a trace of the steps to %s", self._folder)
