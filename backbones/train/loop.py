"""Epochs, steps and validation. Where a run stands is a few numbers and tensors, so that it can go on from any step."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from itertools import chain, islice
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from backbones.backbone import Backbone, WithAux
from backbones.data import mixer, seed_of, set_epoch
from backbones.geometry import evaluating
from backbones.records import Options, Recipe
from backbones.train import shard
from backbones.train.average import Average
from backbones.train.console import Told
from backbones.train.diagnose import diagnosis
from backbones.train.folder import BEST
from backbones.train.gradients import quick_gradients
from backbones.train.loaders import Loaders
from backbones.train.loss import limit_filters, training_loss
from backbones.train.optimise import make_optimiser, rate, set_norm_momentum
from backbones.train.readings import Reading, Readings
from backbones.train.stopping import Agreement, Requests, Stopped
from backbones.train.store import Store
from backbones.train.watch import Watch

Batch = tuple[Tensor, Tensor]
COST = 0.02
"""share of the time that checkpoints may take, where the user does not say how often they are made"""


class Loop:
    """One run, on this process of it.

    What is random is a function of numbers: the order of the images of (seed, epoch), the changes of an image of (seed,
    epoch, image), dropout and dropped paths of (seed, step, process, part of the batch). The state is the rest.

    Args:
        fabric: launched
        model: with as many classes as the data
        recipe: checked and sized
        options: checked
        loaders: of this process
        store: where checkpoints go
        requests: signals and the clock
        told: what is shown and kept of the run's course
        watch: sees that the other processes live
        keep: saves the network under a name of the run's folder, with what is known of it; in the first process
    """

    def __init__(
        self,
        fabric: Fabric,
        model: Backbone,
        recipe: Recipe,
        options: Options,
        loaders: Loaders,
        store: Store,
        requests: Requests,
        told: Told,
        watch: Watch,
        keep: Callable[[str, Backbone, Mapping[str, float]], None],
    ) -> None:
        self.fabric, self.model, self.recipe, self.options, self.loaders = fabric, model, recipe, options, loaders
        self.store, self.requests, self.told, self.watch, self.keep = store, requests, told, watch, keep
        self.epoch = self.done = self.step = 0  # epochs, steps of this epoch, steps in all
        self.best, self.stale, self.first_loss, self.saving = -1.0, 0, 0.0, 0.0
        self.mixer = mixer(recipe, model.num_classes)
        self._frozen = bool(recipe.freeze_epochs and recipe.freeze_stages)
        if self._frozen:
            model.freeze(recipe.freeze_stages)
        if recipe.bn_momentum is not None:
            set_norm_momentum(model, recipe.bn_momentum)
        if options.strategy != "fsdp":  # which takes contiguous weights only
            model.to(memory_format=torch.channels_last)
        if options.compile:
            model.compile()
        self._quick = quick_gradients(fabric.device.type, options)
        self._blueprint = shard.blueprint(model) if options.strategy == "fsdp" and fabric.world_size > 1 else None
        self.net = fabric.setup_module(model)
        # a scaler must see gradients first, and torch has no fused steps for all that may lie in pieces
        fused = options.precision != "16-mixed" and options.strategy != "fsdp"
        self.optimiser = make_optimiser(model, recipe, fused)
        for group in self.optimiser.param_groups:
            group["initial_lr"] = group["lr"]
        self.stepper: Any = fabric.setup_optimizers(self.optimiser)
        self.plateau = self._plateau() if recipe.sched == "plateau" else None
        self.average = Average(model, recipe.model_ema_decay) if recipe.model_ema else None
        self.sums = torch.zeros(3, dtype=torch.float64)  # of this epoch: loss, right answers, images
        self.agreement, self.readings = Agreement(requests), Readings()
        model.draws.seed = options.seed

    def run(self) -> None:
        """To the last epoch. Stopped, after a checkpoint, where a signal asked for it."""
        self.told.start(self.epoch)
        try:
            if self.step == 0:
                self._save(wait=True)
            while self.epoch < self.recipe.epochs and not self._waited_enough():
                self._train_epoch()
                self._end_epoch()
        except Stopped:
            self._save(wait=True)
            raise
        finally:
            self.told.stop()
            self.loaders.close()
            self.store.wait()

    def state_dict(self, sums: Tensor) -> dict[str, Any]:
        """All it takes to go on; `sums` (processes, 3) are those of every process."""
        if shard.is_sharded(self.model):
            model, optimiser = shard.states(self.model, self.optimiser)
        else:
            model, optimiser = self.model.state_dict(), self.optimiser.state_dict()
        return {
            "epoch": self.epoch,
            "done": self.done,
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "first_loss": self.first_loss,
            "sums": sums,
            "rows": self.told.rows,
            "model": model,
            "optimiser": optimiser,
            "precision": self.fabric.strategy.precision.state_dict(),
            "plateau": self.plateau and self.plateau.state_dict(),
            "average": self.average and self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where the state was taken."""
        for name in ("epoch", "done", "step", "best", "stale", "first_loss"):
            setattr(self, name, state[name])
        sums: Tensor = state["sums"]
        if len(sums) == self.fabric.world_size:
            self.sums = sums[self.fabric.global_rank].clone()
        elif self.fabric.global_rank == 0:  # another number of processes goes on
            self.sums = sums.sum(0)
        self.told.rows[:] = state["rows"]
        if shard.is_sharded(self.model):
            shard.load_states(self.model, self.optimiser, (state["model"], state["optimiser"]))
        else:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            _as_weights(self.optimiser)
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self._thaw_if_due()

    def whole(self) -> Backbone:
        """The network, in one piece if it is in pieces; every process takes part, and the first has the result."""
        return shard.whole(self.model, self._blueprint) if self._blueprint else self.model

    # -- training

    def _train_epoch(self) -> None:
        self.model.train()
        loader = self.loaders.train
        set_epoch(loader, self.epoch, self.done * self.options.accumulate * (loader.batch_size or 1))
        parts = iter(loader)
        self.told.epoch_starts()
        while self.done < self.loaders.steps:
            self.watch.at(self.step, "loading images")
            batches = list(islice(parts, self.options.accumulate))
            if not batches:
                raise RuntimeError(f"the images of epoch {self.epoch + 1} end after {self.done} steps")
            loss = self._train_step(batches)
            self.done, self.step = self.done + 1, self.step + 1
            self.told.step_ends(self.epoch + self.done / self.loaders.steps, loss, sum(len(b[1]) for b in batches))
            self.store.check()
            stop, save = self.agreement.after_step()
            every = self.options.checkpoint_every_steps
            if stop:
                raise Stopped(stop)
            if save or (every and self.step % every == 0):
                self._save()

    def _train_step(self, batches: list[Batch]) -> float:
        """One step of the optimiser on the images of several parts. The mean loss of this process."""
        self._thaw_if_due()
        self._set_rates()
        images_here, mean = sum(len(labels) for _, labels in batches), 0.0
        for part, (images, labels) in enumerate(batches):
            images, labels = self.fabric.to_device((images, labels))
            images = self.loaders.finish(images).contiguous(memory_format=torch.channels_last)
            self._seed(part, len(batches[0][1]))
            mixed, shares = self.mixer(images, labels) if self.mixer else (images, labels)
            self.watch.at(self.step, "forward pass")
            waits = self.fabric.no_backward_sync(self.net, part < len(batches) - 1) if self._several else nullcontext()
            with waits:
                with self._quick:
                    output = self.net(mixed)
                loss = training_loss(output, shares, self.recipe)
                logits = output.logits if isinstance(output, WithAux) else output
                right = (logits.detach().argmax(1) == labels).sum()
                known = self.readings.after(self.step, loss.detach(), right, mixed)
                mean += self._judge(known) / images_here
                self.watch.at(self.step, "backward pass")
                self.fabric.backward(loss * (len(labels) / images_here))
        self.watch.at(self.step, "update")
        if self.recipe.clip_grad:
            self.fabric.clip_gradients(self.net, self.stepper, max_norm=self.recipe.clip_grad, error_if_nonfinite=False)
        self.stepper.step()
        self.stepper.zero_grad()
        if self.recipe.max_filter_rms:
            limit_filters(self.model, self.recipe.max_filter_rms)
        if self.average:
            self.average.update()
        return mean

    def _judge(self, readings: Iterable[Reading]) -> float:
        """Count them, unless one shows that the training has failed. The sum of their losses over images."""
        total = 0.0
        for step, value, right, images, inputs in readings:
            self.first_loss = self.first_loss or value
            if failed := diagnosis(value, self.first_loss, None if self._blueprint else self.model, inputs):
                raise FloatingPointError(self._diverged(failed, step))
            self.sums += torch.tensor([value * images, right, images], dtype=torch.float64)
            total += value * images
        return total

    def _seed(self, part: int, images: int) -> None:
        """Everything random in the network and in mixing, for one part of this process' share of the batch."""
        world_size, rank = self.fabric.world_size, self.fabric.global_rank
        torch.manual_seed(seed_of(self.options.seed, self.step, rank, part))
        draws = self.model.draws
        draws.step, draws.rows = self.step, (part * images * world_size + rank, world_size)
        self._raise_drop_path()

    def _raise_drop_path(self) -> None:
        """To the rate of this step, by which evaluation scales the branches too."""
        if self.recipe.drop_path_ramp:
            self.model.draws.progress = self.step / (self.loaders.steps * self.recipe.epochs)

    def _set_rates(self) -> None:
        if self.plateau:
            return
        share = rate(self.recipe, self.step / self.loaders.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = group["initial_lr"] * share

    def _thaw_if_due(self) -> None:
        """The frozen stages learn from here on."""
        if self._frozen and self.step >= self.recipe.freeze_epochs * self.loaders.steps:
            self._frozen = False
            self.model.freeze(-1)
            if self._blueprint is None:
                del self.net  # it watches the gradients
                self.net = self.fabric.setup_module(self.model)  # which gradients are shared is settled there

    @property
    def _several(self) -> bool:
        return self.fabric.world_size > 1

    # -- between epochs

    def _end_epoch(self) -> None:
        self._judge(self.readings.rest())
        self._save_if_due()  # validation may take long, and the system may not wait for its end
        loss, right, images = self.agreement.total(self.sums)
        row = {"epoch": self.epoch + 1, "train_loss": loss / images, "train_top1": 100 * right / images}
        with self.average.applied() if self.average else nullcontext():
            if self.loaders.val:
                row |= self._validate(self.loaders.val)
                better = row["val_top1"] > self.best
                self.best, self.stale = (row["val_top1"], 0) if better else (self.best, self.stale + 1)
                if better:
                    self._keep(BEST, row)
            if (every := self.options.snapshot_epochs) and (self.epoch + 1) % every == 0:
                self._keep(f"snapshot-{self.epoch + 1:03d}.safetensors", row)
        if self.plateau:
            self.plateau.step(row["val_top1"] if self.loaders.val else row["train_loss"])
        self.told.epoch_ends({**row, "lr": self.optimiser.param_groups[0]["lr"]})
        self.epoch, self.done, self.sums = self.epoch + 1, 0, torch.zeros(3, dtype=torch.float64)
        if self.epoch == self.recipe.epochs or self._waited_enough():
            self._save(wait=True)
        else:
            self._save_if_due()

    def _validate(self, loader: Any) -> dict[str, float]:
        """Each image once, over all processes, by the network of the first."""
        self._share_statistics()
        self._raise_drop_path()
        sums = torch.zeros(3, dtype=torch.float64)
        common = len(loader.dataset) // self.fabric.world_size // loader.batch_size  # batches that all processes have
        batches: Iterable[Batch] = loader
        if self._blueprint:
            shape = (self.model.in_channels, *self.loaders.size)
            batches = chain(loader, shard.padding(loader, self.fabric.world_size, shape))
        # pieces that were put together in inference mode could not be trained afterwards
        without_gradients = torch.no_grad() if self._blueprint else torch.inference_mode()
        with evaluating(self.model), without_gradients, self.fabric.autocast():
            for number, batch in enumerate(batches):
                self.watch.at(self.step, "validation")
                pictures, labels = self.fabric.to_device(batch)
                logits = self.model(self.loaders.finish_val(pictures))[: len(labels)]
                lost = F.cross_entropy(logits.float(), labels, reduction="sum").item()
                sums += torch.tensor([lost, (logits.argmax(1) == labels).sum().item(), len(labels)])
                stop = self.agreement.after_step()[0] if number < common else 0
                if stop:
                    raise Stopped(stop)
        self.watch.at(self.step, "validation")
        loss, right, images = self.agreement.total(sums)
        return {"val_loss": loss / images, "val_top1": 100 * right / images}

    def _keep(self, name: str, row: Mapping[str, float]) -> None:
        network = self.whole()
        if self.fabric.is_global_zero:
            self.keep(name, network, {key: row[key] for key in ("epoch", "val_top1") if key in row})

    def _share_statistics(self) -> None:
        """Batch norms of several processes saw different images: those of the first are validated and saved."""
        if self._several:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _waited_enough(self) -> bool:
        return bool(self.options.early_stop) and self.stale >= (self.options.early_stop or 0)

    def _plateau(self) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(
            self.optimiser,
            mode="max" if self.loaders.val else "min",
            factor=self.recipe.decay_rate,
            patience=self.recipe.patience_epochs,
        )

    # -- what is left behind

    def _save_if_due(self) -> None:
        """Unless the last one was so short a time ago that this would cost more than 2 % of the time."""
        if self.agreement.first(self.requests.seconds_since > self.saving / COST):
            self._save()

    def _save(self, wait: bool = False) -> None:
        """A checkpoint of where all processes stand, beside what follows; left out while the last is being written.

        With `wait` it is made in any case, and on the disk when this returns.
        """
        if not wait and self.agreement.first(self.store.busy):
            return
        self._judge(self.readings.rest())
        start = time.perf_counter()
        self.watch.at(self.step, "checkpoint")
        sums = self.agreement.gathered(self.sums)
        if self.fabric.is_global_zero or shard.is_sharded(self.model):
            state = self.state_dict(sums)
        if self.fabric.is_global_zero:
            self.store.save(self.step, state)
            if wait:
                self.store.wait()
        self.saving = time.perf_counter() - start + self.store.seconds
        self.requests.saved()

    def _diverged(self, failed: str, step: int) -> str:
        highest = max(group["lr"] for group in self.optimiser.param_groups)
        kept = self.store.last_good
        told = f"the last checkpoint is {kept.name}, which may be spoilt already" if kept else "no checkpoint yet"
        return (
            f"{failed}; in step {step + 1:,} (epoch {self.epoch + 1}, learning rate {highest:g}); {told}. Start "
            f"again with a smaller --lr or with --clip-grad 1, and --weights .../{BEST} to start from the best so far"
        )


def _as_weights(optimiser: Optimizer) -> None:
    """Lay out what an optimiser remembers of each weight as the weight is, which a checkpoint does not keep.

    A fused step goes through memory, whatever lies there.
    """
    for weight, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
