"""What a run does when it evaluates: all forms of the network are measured, written down, and exported if best."""

import logging

import jax

from unireplknet_jax.models.program import compile_program
from unireplknet_jax.models.reparameterize import is_merged, reparameterize
from unireplknet_jax.tasks.checkpoint import Checkpoint, save_checkpoint
from unireplknet_jax.train.distributed import to_host
from unireplknet_jax.train.evaluate import evaluate
from unireplknet_jax.train.history import columns, listed, named
from unireplknet_jax.train.step import make_eval_step

_log = logging.getLogger(__name__)


class Evaluations:
    """The evaluations of a run on its data, on all processes; without data there are none.

    task: as it is exported; measured: the same with the options that hold in evaluations. split, dataset: as the task
    opened them, or None. folder: where checkpoints go, "model", "best" and "model_ema", "best_ema". recalibration: a
    `Recalibration`, whose forms of a state are what is measured and exported.
    """

    def __init__(self, config, task, measured, split, mesh, folder, history, writer, recalibration):
        self._config, self._task, self._measured, self._mesh = config, task, measured, mesh
        self._forms = recalibration.forms
        self._folder, self._history, self._writer = folder, history, writer
        self.dataset = None if split is None else measured.examples(split, train=False)
        self._keys = None if split is None else measured.shape_keys(split)
        self._eval_step = make_eval_step(measured, mesh, deploy=False, predictions=measured.makes_records)

    def measure(self, variables, **options):
        """{metric: value} of variables."""
        config = self._config
        return evaluate(
            self._measured, variables, self.dataset, config.eval_batch_size, mesh=self._mesh, keys=self._keys,
            num_threads=config.data.num_threads, workers=config.data.workers, **options,
        )  # fmt: skip

    def measure_forms(self, state):
        """{form: {metric: value}} of a state and its moving average."""
        forms = self._forms(state).items()
        return {form: self.measure(variables, eval_step=self._eval_step) for form, variables in forms}

    def keep(self, state, step, steps):
        """`measure_forms`, written down as the step's; a form that is better than before is exported as "best"."""
        found = self.measure_forms(state)
        for form, variables in self._forms(state).items():
            name, value = next(iter(found[form].items()))
            if self._history.is_best(form, found[form]):
                self._export("best", form, variables, f"step {step} of {steps}, {name} {value:.6g}")
        self._history.add(step, found)
        self._writer.write(step, columns(found))
        _log.info("step %d  evaluated: %s", step, listed(found))
        return named(found)

    def keep_merged(self, state, step):
        """The metrics of the merged form, written down; a network that has none is passed over."""
        variables = self._forms(state)[""]
        if is_merged(variables):
            return
        merge = compile_program(jax.jit(reparameterize), variables, what="the merge", quick=True)
        found = {"merged": self.measure(merge(variables), deploy=True)}
        self._writer.write(step, columns(found))
        _log.info("merged form: %s", listed({"": found["merged"]}))

    def export_all(self, name, state, note):
        """Write a checkpoint of ours for every form of a state, named "model" and "model_ema"."""
        for form, variables in self._forms(state).items():
            self._export(name, form, variables, note)

    def _export(self, name, form, variables, note):
        whole = to_host(self._mesh, variables)
        if jax.process_index() == 0:
            data = self._config.data.to_dict()
            checkpoint = Checkpoint(self._task, whole, False, data, f"{data['name']}, {note}")
            save_checkpoint(self._folder / (f"{name}_{form}" if form else name), checkpoint, overwrite=True)
