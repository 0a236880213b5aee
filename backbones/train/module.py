"""The training step, as Lightning runs it."""

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from backbones.backbone import Backbone, WithAux
from backbones.data.transforms import Mixer
from backbones.records import Recipe
from backbones.train.loss import limit_filters, training_loss
from backbones.train.optimise import make_optimiser, rate


class Classifier(L.LightningModule):
    """A network, its recipe and its seed. Everything random in a step is a function of the seed and the step."""

    def __init__(self, model: Backbone, recipe: Recipe, seed: int, mixer: Mixer | None) -> None:
        super().__init__()
        self.model, self.recipe, self.seed, self.mixer = model, recipe, seed, mixer
        model.draws.seed = seed

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        torch.manual_seed(hash((self.seed, self.global_step)) % 2**63)
        self.model.draws.step = self.global_step
        if self.recipe.drop_path_ramp:
            self.model.draws.progress = self.global_step / self.trainer.estimated_stepping_batches
        images, labels = batch
        self.model.draws.first_row = self.global_rank * len(images)
        mixed, shares = self.mixer(images, labels) if self.mixer else (images, labels)
        output = self.model(mixed)
        loss = training_loss(output, shares, self.recipe)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} in epoch {self.current_epoch + 1}; use a smaller --lr, or --clip-grad 1"
            )
        self._log("train", loss, output.logits if isinstance(output, WithAux) else output, labels)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.recipe.max_filter_rms:
            limit_filters(self.model, self.recipe.max_filter_rms)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.model(images)
        self._log("val", F.cross_entropy(logits, labels), logits, labels)

    def _log(self, part: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        correct = 100 * (logits.detach().argmax(1) == labels).float().mean()
        values = {f"{part}_loss": loss.detach(), f"{part}_top1": correct}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimiser = make_optimiser(self.model, self.recipe)
        if self.recipe.sched == "plateau":
            watched = "val_top1" if self.trainer.val_dataloaders else "train_loss"
            plateau = ReduceLROnPlateau(
                optimiser,
                mode="max" if watched == "val_top1" else "min",
                factor=self.recipe.decay_rate,
                patience=self.recipe.patience_epochs,
            )
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": plateau, "monitor": watched}}
        steps_per_epoch = self.trainer.estimated_stepping_batches / self.recipe.epochs
        schedule = LambdaLR(optimiser, lambda step: rate(self.recipe, step / steps_per_epoch))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
