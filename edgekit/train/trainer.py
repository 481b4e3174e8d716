"""Train a captured network on the training split: fine-tuning, recovery, distillation."""

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from edgekit.errors import PassError, UsageError
from edgekit.graph.program import Program
from edgekit.progress import Progress, Silent
from edgekit.train.batches import Batches, Minibatch
from edgekit.train.checkpoint import Checkpoint, Keep
from edgekit.train.divergence import diverged, named
from edgekit.train.history import Epoch, History, Patience, higher_is_better, metric_of
from edgekit.train.losses import Loss, output_name, right_answers, task_loss
from edgekit.train.network import Trainee, WithLoss
from edgekit.train.optimize import Average, Penalty, learning_rate, make_optimizer
from edgekit.train.place import Place, agree, losing, place
from edgekit.train.reproducible import reproducible, seed_batch
from edgekit.train.sharded import cut_like, full, put
from edgekit.train.shrinkage import Shrinkage
from edgekit.train.teacher import Answers, Teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.data import Dataset
    from edgekit.metrics import Task
    from edgekit.progress import Task as Bar
    from edgekit.train.config import TrainConfig
    from edgekit.train.shrinkage import Member, Sparsify

__all__ = ["Epoch", "History", "train"]


def train(
    program: Program,
    data: "Dataset",
    task: "Task",
    config: "TrainConfig",
    *,
    seed: int,
    progress: Progress | None = None,
    threads: int | None = None,
    loss: Loss | None = None,
    teacher: Answers | None = None,
    least: int = 1,
    shrinkage: "tuple[Sparsify, float, Sequence[Member]] | None" = None,
    taps: Mapping[str, str] | None = None,
    beside: nn.Module | None = None,
    keep: Keep | None = None,
) -> tuple[Program, History]:
    """Train a network on the training split; the other splits are not looked at.

    In processes that `torchrun` or `accelerate launch` started, all of them call this alike and
    train one network together: a step takes `batch_size` samples of each.

    Args:
        program: the network; it is not changed.
        data: the samples.
        task: what the network is for.
        config: the hyper-parameters.
        seed: of the order, the augmentation and dropout; the same seed and number of threads give
            the same weights, bit for bit.
        progress: shows how far it is.
        threads: CPU threads; None leaves torch's.
        loss: from (outputs by name, batch) to a scalar; the task's unless given.
        teacher: a network whose outputs each batch brings along, for a loss that wants them.
        least: samples that the loss needs in a batch.
        shrinkage: kind, strength and groups of sparse training (`edgekit.train.shrinkage`).
        taps: nodes of the graph whose values the loss wants among the outputs, by the names that
            they have there.
        beside: what is trained with the network, for the loss, and then thrown away.
        keep: what is kept on disk, to go on from; nothing unless given.

    Returns:
        The trained network, in eval mode, and how training went.

    Raises:
        UsageError: data, task and network do not fit each other, or there is nothing to train on;
            the data is not that of the checkpoint.
        UnavailableError: accelerate is missing where it is needed.
        PassError: the loss or the weights are not finite, or another process was lost.
    """
    progress, keep = progress or Silent(), keep or Keep()
    loss = loss or task_loss(task, program, label_smoothing=config.label_smoothing)
    if config.validation and task.kind in {"none", "anomaly"}:
        raise UsageError(
            f"`validation` needs a metric on training samples, and the task `{task.kind}` has"
            " none.",
            "Leave `validation` and `patience` out.",
        )
    with reproducible(seed, threads), place(config) as here:
        run = _Run(program, task, config, loss, taps or {}, beside, here, seed)
        if shrinkage is not None:
            run.pull(*shrinkage)
        batches = Batches(
            program,
            data,
            task,
            config,
            seed=seed,
            least=least,
            rank=here.rank,
            world=here.world,
        )
        settings = {
            "network": [(n, tuple(t.shape)) for n, t in run.trainee.weights().items()],
            "config": config.model_dump(mode="json"),
            "task": task.model_dump(),
            "seed": seed,
            "threads": torch.get_num_threads(),
            "world": here.world,
            "start": run.digest,
        }
        saved = Checkpoint(keep, data.summary(), settings)
        done = run.resume(saved, batches)  # a state that cannot be used says so before the teacher
        guide = None
        if teacher is not None:
            guide = Teacher(teacher)
            ids = [data.ids[row] for row in batches.rows]
            folder = keep.answers_to(data.content_hash, ids)
            with losing("the teacher's answers"):
                guide.remember(batches, progress, folder=folder, place=here)
        left = config.epochs * len(batches) - done
        with progress.task("train", total=max(left, 1)) as bar:
            run.epochs(batches, guide, bar, saved)
        result = run.finish()
        if here.rank == 0:
            saved.remove()
        return result, run.history


class _Run:
    """A network in training."""

    def __init__(
        self,
        program: Program,
        task: "Task",
        config: "TrainConfig",
        loss: Loss,
        taps: Mapping[str, str],
        beside: nn.Module | None,
        here: Place,
        seed: int,
    ) -> None:
        self._task, self._config, self._place, self._seed = task, config, here, seed
        self._judged = output_name(task, program)
        self._counts = task.kind in {"classification", "segmentation"}
        self.trainee = Trainee(program, config, here, taps)
        whole = WithLoss(self.trainee, loss, beside).to(here.device)
        # Sums over the weights that it starts from: another network is another training.
        self.digest = [float(t.double().sum()) for t in self.trainee.weights().values()]
        here.shard(whole)
        optimizer = make_optimizer(whole, config)
        self._parameters = list(whole.parameters())
        self._beside = beside
        self._network, self._optimizer = here.prepare(whole, optimizer, partly=self.trainee.partly)
        self._average = Average(self.trainee.module, config.ema) if config.ema else None
        self._penalty = (
            Penalty(self.trainee.module, config.l1, config.l2) if config.l1 or config.l2 else None
        )
        self._patience = (
            Patience(config.patience, higher_is_better=higher_is_better(task))
            if config.patience
            else None
        )
        self._shrinkage: Shrinkage | None = None
        self._step = 0
        self._begun = (1, 0)  # the epoch and its next batch
        self._sums = [0.0] * 4  # loss · samples, samples, right answers, answers
        self._seconds = 0.0
        self.history = History(0, 0, 0)

    def pull(self, kind: "Sparsify", strength: float, members: "Sequence[Member]") -> None:
        """Pull groups of weights towards zero in every step from now on."""
        if self._place.sharded:
            raise UsageError(
                "`sparsify` looks at whole channels, and `parallel: sharded` cuts them.",
                "Leave one of them out.",
            )
        named = dict(self.trainee.module.named_parameters(remove_duplicate=False))
        self._shrinkage = Shrinkage(kind, strength, members, named)

    def resume(self, saved: Checkpoint, batches: Batches) -> int:
        """Go on from a checkpoint; returns the batches that are done.

        Raises:
            PassError: the processes do not see the same checkpoint.
        """
        self.history = History(
            samples=len(batches.rows),
            batches=len(batches),
            batch_size=batches.size,
            processes=self._place.world,
            held_out=len(batches.held_out),
            metric=self._task.metric_name if len(batches.held_out) else None,
        )
        state = saved.load()
        step = state["step"] if state else 0
        agree(self._place, step)
        if state is None:
            return 0
        self.trainee.restore(state["weights"])
        if self._beside is not None:
            for name, value in self._beside.state_dict().items():
                put(value, state["beside"][name])
        self._optimizer.load_state_dict(cut_like(self._optimizer, state["optimizer"]))
        if self._average is not None:
            self._average.restore(state["average"])
        if self._patience is not None:
            self._patience.restore(state["patience"])
        self._step, self._begun, self._sums = step, tuple(state["begun"]), list(state["sums"])
        self._seconds = state["seconds"]
        self.history.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.history.resumed_at = step
        return (self._begun[0] - 1) * len(batches) + self._begun[1]

    def _state(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "begun": list(self._begun),
            "sums": self._sums,
            "seconds": self._seconds,
            "epochs": [vars(epoch) for epoch in self.history.epochs],
            "weights": self.trainee.weights(),
            "beside": None if self._beside is None else self._beside.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average and self._average.state(),
            "patience": self._patience and self._patience.state(),
        }

    def _save(self, saved: Checkpoint) -> None:
        """Keep the state, where the last time is long enough ago."""
        first = self._place.rank == 0
        if not self._place.sharded:
            if first:
                saved.offer(self._state)
        # All processes give their parts of it, so all must know that it is time.
        elif self._place.totals([first and saved.due()])[0]:
            state = tree_map(full, self._state())
            if first:
                saved.offer(lambda: state, now=True)

    def epochs(
        self, batches: Batches, teacher: Teacher | None, bar: "Bar", saved: Checkpoint
    ) -> None:
        """What is left to do, epoch by epoch."""
        first, start = self._begun
        for number in range(first, self._config.epochs + 1):
            if self._patience and number - 1 - self._patience.best_epoch >= (
                self._config.patience or 0
            ):
                break
            self.trainee.begin_epoch(number)
            epoch = self._epoch(number, start, batches, teacher, bar, saved)
            self.history.epochs.append(epoch)
            self._begun, self._sums, self._seconds, start = (number + 1, 0), [0.0] * 4, 0.0, 0
            if self._patience is not None and epoch.validation is not None:
                with self._judged_weights():
                    weights = self.trainee.weights()
                    if self._patience.enough(number, epoch.validation, weights):
                        self.history.stopped = number < self._config.epochs
                        break

    def _epoch(
        self,
        number: int,
        start: int,
        batches: Batches,
        teacher: Teacher | None,
        bar: "Bar",
        saved: Checkpoint,
    ) -> Epoch:
        """One pass over the data, or what is left of it."""
        began = time.perf_counter() - self._seconds
        steps = self._config.epochs * batches.steps
        for index, (places, batch) in enumerate(batches.epoch(number, start), start + 1):
            if teacher is not None:
                batch.teacher = teacher.answer(places, batch)
            batch.passed = self._step / steps
            rate = learning_rate(self._config, self._step, steps)
            where = f"epoch {number}, batch {index}"
            # What dropout draws depends on this alone, so none of it need be kept.
            seed_batch(self._seed, number, index, self._place.rank, self._place.device)
            with losing(where):
                self._add(batch.to(self._place.device), rate, where)
                bar.advance(1, detail=self._detail(number))
                if batch.last:
                    self._begun, self._seconds = (number, index), time.perf_counter() - began
                    self._save(saved)
        loss, seen, right, answered = self._sums
        with losing(f"the end of epoch {number}"):
            validation, fit = self._judge(batches)
        return Epoch(
            epoch=number,
            loss=loss / seen,
            learning_rate=learning_rate(self._config, self._step - 1, steps),
            seconds=time.perf_counter() - began,
            accuracy=right / answered if answered else None,
            validation=validation,
            fit=fit,
        )

    def _detail(self, number: int) -> str:
        loss, seen, right, answered = self._sums
        text = f"epoch {number}/{self._config.epochs} loss {loss / seen:.4g}"
        if answered:
            text += f" accuracy {right / answered:.1%}"
        last = self.history.epochs[-1].validation if self.history.epochs else None
        return text if last is None else f"{text} {self.history.metric} held out {last:.4g}"

    def _judge(self, batches: Batches) -> tuple[float | None, float | None]:
        """The metric on the samples held out, and on as many that were trained on."""
        held = batches.held_out
        if not len(held):
            return None, None

        def forward(inputs: "Sequence[Tensor]") -> Tensor:
            inputs = [t.to(self._place.device) for t in inputs]
            return self.trainee.outputs(inputs)[self._judged]

        whole = self._place.whole(self._network)
        with self._judged_weights(), whole, self.trainee.evaluating():
            return (
                metric_of(self._task, forward, batches.others(held)),
                metric_of(self._task, forward, batches.others(batches.rows[: len(held)])),
            )

    def _judged_weights(self) -> AbstractContextManager[None]:
        return self._average.applied() if self._average is not None else nullcontext()

    def finish(self) -> Program:
        """The trained network."""
        if self._patience is not None:
            self.trainee.restore(self._patience.weights)
            self.history.best_epoch = self._patience.best_epoch
        elif self._average is not None:
            self._average.apply()
        self.history.conclude()
        with losing("the last step"):
            self._place.gather(self.trainee.module)
        for name, tensor in self.trainee.weights().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise PassError(
                    f"Training diverged: {name} holds NaN or infinity after the last step.",
                    "Lower `learning_rate`, or check the data.",
                )
        return self.trainee.finish()

    def _add(self, batch: Minibatch, rate: float, where: str) -> None:
        """Add one batch's gradients, and take a step where it is the last of one."""
        if batch.last:
            outputs = self._gradients(batch, where)
            self._update(rate, where, batch, outputs)
        else:
            with self._place.alone(self._network):
                self._gradients(batch, where)

    def _gradients(self, batch: Minibatch, where: str) -> dict[str, Tensor]:
        """Add a batch's gradients to the weights'; gives its outputs."""
        outputs: dict[str, Tensor]
        loss, outputs = self._network(batch)
        value, count = float(loss.detach()), len(batch.ids)
        bad = not math.isfinite(value)
        counts = (0, 0)
        if self._counts:
            counts = right_answers(outputs[self._judged], batch.targets)
        *sums, lost = self._place.totals([0.0 if bad else value * count, count, *counts, bad])
        if lost:
            told = self._place.everyones(named(batch, outputs) if bad else "")
            what = f"the loss is {value}" if bad else "the loss is not finite"
            raise diverged(what, where, ", ".join(text for text in told if text))
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)]
        self._place.backward(loss * batch.weight if batch.weight != 1 else loss)
        return outputs

    def _update(
        self, rate: float, where: str, batch: Minibatch, outputs: dict[str, Tensor]
    ) -> None:
        """One step of the optimizer."""
        self._place.unscale()
        if self._penalty is not None:
            self._penalty.apply()
        if self._config.gradient_clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.gradient_clip)
            if not math.isfinite(float(full(norm))) and self._config.precision != "float16":
                raise diverged("the gradient is not finite", where, named(batch, outputs))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._shrinkage is not None:
            self._shrinkage.apply(rate)
        if self._average is not None:
            self._average.update()
        self._step += 1
