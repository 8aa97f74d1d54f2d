"""Lightning modules that train AffineNet and DeformNet: the loss of eq. 5 and 7, augmentation, validation."""

from types import SimpleNamespace

import lightning as L
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from mine_reg.losses import soft_dice, total_variation
from mine_reg.models import AffineNet, DeformNet, StatisticNet
from mine_reg.registration import Registration, halved, predict_coarse, predict_fine
from mine_reg.spatial import (
    compose_affine,
    resample,
    sample_at,
    total_displacement,
    transform_points,
    voxel_points,
    warp_mask,
)
from mine_reg.training.augmentation import DISTANCE, VOLUMES, augment, random_affine
from mine_reg.training.similarity import Parzen, make_similarity
from mine_reg.training.weights import make_network


class RegistrationTraining(L.LightningModule):
    """What both trainings share: the loss at random voxels, one Adam for network and T, validation on whole pairs.

    network : what is trained
    cfg : the section ``affinenet`` or ``deformnet`` of params.yaml, and ``loss``, which is ``miregnet`` (eq. 5) or
        ``midiceregnet`` (eq. 7)
    statistic : T to go on with; None: a new one
    """

    def __init__(self, network: torch.nn.Module, cfg: SimpleNamespace, statistic: StatisticNet | None = None):
        super().__init__()
        self.network, self.cfg, self.similarity = network, cfg, make_similarity(cfg, statistic)
        self.parzen = Parzen()  # of the same voxels, to compare MINE with, and to choose the model by
        # not Lightning's own means, which come out wrong with several processes and an uneven number of pairs
        self.means = torch.nn.ModuleDict(
            {name: MeanMetric() for name in (self.similarity.name, "loss", "dsc", "tre_mm")}
        )
        # what chooses the best model, see `comparable_loss`; not Dice, which an unsupervised method does without
        self.monitor = "val_loss"
        # steps without finite gradients; a buffer, so that a resumed training goes on counting
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))

    def predict(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor | None]:
        """theta and DVF (or None) for images (B, 1, D, H, W)."""
        raise NotImplementedError

    def training_step(self, batch: dict, _index: int) -> Tensor:
        """The loss of one augmented batch, which it logs with its diagnostics."""
        batch = self.working_size(augment(batch, self.cfg.shift_voxels, self.cfg.flip_axes))
        theta, dvf = self.predict_training(batch)
        terms, log = self.loss_terms(batch, theta, dvf, self.draw_voxels(batch, self.cfg.samples))
        loss = sum(terms.values())
        log["loss"] = loss.detach()
        self._log("train", log, len(batch["fixed"]), on_step=False, on_epoch=True)
        if self.global_step % self.cfg.diagnose_every == 0:
            self._log("train_gradient", self.gradient_norms(terms), on_step=False, on_epoch=True)
        return loss

    def loss_terms(self, batch: dict, theta: Tensor, dvf: Tensor | None, chosen: Tensor) -> tuple[dict, dict]:
        """The weighted terms of eq. 5 or 7 by name, and what is worth logging.

        chosen : voxels (B, N) of the fixed grid at which the images are compared. They never depend on the transform,
            which could otherwise raise the estimate by choosing what to look at

        The moving image is sampled once, through the composed map.
        """
        size = batch["fixed"].shape[2:]

        def transform(points: Tensor) -> Tensor:
            return transform_points(points, size, theta, dvf)

        similarity, log = self.similarity(batch["fixed"], batch["moving"], chosen, transform)
        terms = {self.similarity.name: self.cfg.lambda_mine * similarity}
        moved_mask = sample_at(batch["moving_mask"], transform(voxel_points(chosen, size)))[..., 0]
        log["dice"] = soft_dice(moved_mask, batch["fixed_mask"].flatten(1).gather(1, chosen))
        if self.cfg.loss == "midiceregnet":
            terms["dice"] = -self.cfg.lambda_dice * log["dice"]
        if dvf is not None:
            log["tv"] = total_variation(dvf, size)
            terms["tv"] = self.cfg.mu * log["tv"]
        if self.similarity.name == "mine" and self.global_step % self.cfg.diagnose_every == 0:
            with torch.no_grad():
                log |= self.parzen(batch["fixed"], batch["moving"], chosen, transform)[1]
        return terms, {name: value.detach() for name, value in log.items()}

    def gradient_norms(self, terms: dict) -> dict:
        """Norm of the gradient that each term of the loss sends into the network: how strongly each really pulls."""
        parameters, norms = list(self.network.parameters()), {}
        for name, term in terms.items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            norms[name] = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients if g is not None]))
        return norms

    def working_size(self, batch: dict) -> dict:
        """The volumes of a batch at the size that the loss sees, which is their own."""
        return batch

    def predict_training(self, batch: dict) -> tuple[Tensor, Tensor | None]:
        """`predict` for the images of a training batch, with as many passes as `draw_passes` says."""
        raise NotImplementedError

    def draw_passes(self) -> int:
        """A random number of passes from 1 to the network's own.

        The first pass must learn from images that are far apart, the last from images that are close.
        """
        return int(torch.randint(1, self.network.passes + 1, ()))

    def draw_voxels(self, batch: dict, samples: int) -> Tensor:
        """Flat indices (B, n) of random voxels of each fixed grid, none of them twice, n at most ``samples``.

        They lie at most ``region_mm`` from the lungs that a threshold finds in the fixed image. That takes in the
        lungs, the diaphragm and the wall next to them, but not trunk and table, which do not breathe and outnumber
        them.
        """
        distance = batch[DISTANCE].flatten(1)
        inside = distance <= self.cfg.region_mm
        count = min(samples, int(inside.sum(dim=1).min()))
        indices = (torch.nonzero(row)[:, 0] for row in inside)
        return torch.stack([index[torch.randperm(len(index), device=index.device)[:count]] for index in indices])

    def comparable_loss(self, batch: dict, theta: Tensor, dvf: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss on all voxels, at the size of the training, by which epochs can be compared; and the similarity.

        MINE's estimate depends on the T of its epoch, and can rise while the registration gets worse; here Parzen's
        estimate of the same mutual information takes its place. Other similarities are what they are at every epoch.
        """
        seen = self.working_size({name: batch[name] for name in VOLUMES})
        chosen = self.draw_voxels(seen, seen["fixed"][0].numel())
        terms, log = self.loss_terms(seen, theta, dvf, chosen)
        if self.similarity.name == "mine":
            size = seen["fixed"].shape[2:]
            parzen, _ = self.parzen(
                seen["fixed"], seen["moving"], chosen, lambda points: transform_points(points, size, theta, dvf)
            )
            terms["mine"] = self.cfg.lambda_mine * parzen
        return sum(terms.values()), log[self.similarity.name]

    def validation_step(self, batch: dict, _index: int) -> None:
        """Take `comparable_loss`, similarity, Dice and, where there are points, TRE of one pair into the means."""
        size = batch["fixed"].shape[2:]
        theta, dvf = self.predict(batch["fixed"], batch["moving"])
        loss, similarity = self.comparable_loss(batch, theta, dvf)
        self.means[self.similarity.name].update(similarity)
        self.means["loss"].update(loss)
        self.means["dsc"].update(self.mask_dice(batch, theta, dvf))
        if "moving_points" in batch and "fixed_points" in batch:
            error = transform_points(batch["fixed_points"], size, theta, dvf) - batch["moving_points"]
            self.means["tre_mm"].update((error * torch.stack(batch["spacing_mm"], dim=-1)).norm(dim=-1).mean())

    def mask_dice(self, batch: dict, theta: Tensor, dvf: Tensor | None) -> Tensor:
        """Dice of the lung masks on the whole grid."""
        moved = warp_mask(batch["moving_mask"], total_displacement(theta, dvf, batch["fixed"].shape[2:]))
        return soft_dice(moved.flatten(1), batch["fixed_mask"].flatten(1))

    def on_validation_epoch_end(self) -> None:
        values = {name: mean.compute() for name, mean in self.means.items()}  # over all processes
        self._log("val", {name: value for name, value in values.items() if not value.isnan()})  # nan: without points
        for mean in self.means.values():
            mean.reset()

    def _log(self, part: str, values: dict, batch_size: int = 1, **how) -> None:
        self.log_dict({f"{part}_{name}": value for name, value in values.items()}, batch_size=batch_size, **how)

    def configure_optimizers(self) -> dict:
        """One Adam for network and T, each with its learning rate; warm-up, then cosine decay, step by step."""
        rates = {self.network: self.cfg.learning_rate, self.similarity: self.cfg.statistic_learning_rate}
        groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
        optimiser = torch.optim.Adam([group for group in groups if group["params"]], weight_decay=self.cfg.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        warmup_steps = min(self.cfg.warmup_steps, steps // 2)
        warmup = torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, total_iters=warmup_steps)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps - warmup_steps)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimiser, [warmup, decay], [warmup_steps])
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, _batch: dict, _index: int) -> None:
        # random numbers depend on seed, step and process alone, so that a resumed run draws what a whole one would
        torch.manual_seed((self.cfg.seed * 1_000_003 + self.global_step) * 1009 + self.global_rank)

    def on_before_optimizer_step(self, _optimiser: torch.optim.Optimizer) -> None:
        """Skip a step whose gradients are not all finite."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not all(torch.isfinite(g).all() for g in gradients):
            for parameter in self.parameters():
                parameter.grad = None  # Adam passes over parameters without a gradient
            self.skipped += 1


class AffineTraining(RegistrationTraining):
    """Trains AffineNet, if wanted on moving images under random affine maps, for a wider capture range (our addition).

    The best model is then the one with the best loss on validation pairs moved likewise, each always by the same map.
    """

    def __init__(self, cfg: SimpleNamespace, statistic: StatisticNet | None = None):
        super().__init__(make_network(AffineNet, vars(cfg)), cfg, statistic)
        self.far = any(cfg.random_affine.values())
        if self.far:
            self.means.update({name: MeanMetric() for name in ("far_loss", "far_dsc")})
            self.monitor = "val_far_loss"

    def working_size(self, batch: dict) -> dict:
        """The volumes averaged down as AffineNet sees them: coarse images have a wider capture range, and cost less."""
        return {name: self.network.averaged_down(volume) for name, volume in batch.items()}

    def predict(self, fixed: Tensor, moving: Tensor, passes: int | None = None) -> tuple[Tensor, None]:
        return self.network.predict(fixed, moving, passes), None

    def predict_training(self, batch: dict) -> tuple[Tensor, None]:
        passes = self.draw_passes()
        if not self.far:
            return self.predict(batch["fixed"], batch["moving"], passes)
        # small maps first, up to the limits after half of the training: far off, MINE shows a new network no way
        reach = min(1.0, 2 * self.global_step / self.trainer.estimated_stepping_batches)
        limits = {name: reach * limit for name, limit in self.cfg.random_affine.items()}
        return self.predict_moved(batch, random_affine(len(batch["fixed"]), **limits), passes), None

    def predict_moved(self, batch: dict, given: Tensor, passes: int | None = None) -> Tensor:
        """theta (B, 3, 4) that the network finds when it sees the moving image through the map ``given`` (B, 3, 4)."""
        given = given.to(batch["moving"].device)
        shown = resample(batch["moving"], given)
        # M'(A x) = M(given(A x)): for the loss the original moving image is still sampled only once
        return compose_affine(given, self.network.predict(batch["fixed"], shown, passes))

    def validation_step(self, batch: dict, index: int) -> None:
        """As for both networks, and once more with the moving image under a random map."""
        super().validation_step(batch, index)
        if self.far:
            number = index * self.trainer.world_size + self.global_rank  # of the pair among all, see `fit.PairData`
            generator = torch.Generator().manual_seed(number)
            given = random_affine(len(batch["fixed"]), **self.cfg.random_affine, generator=generator)
            theta = self.predict_moved(batch, given)
            self.means["far_loss"].update(self.comparable_loss(batch, theta, None)[0])
            self.means["far_dsc"].update(self.mask_dice(batch, theta, None))


class DeformTraining(RegistrationTraining):
    """Trains DeformNet on F and M(phi_A), with phi_A from a trained AffineNet that stays as it is (section 2.4).

    statistic : the T of AffineNet's training, which goes on learning; a new one would at first lead DeformNet nowhere
    """

    def __init__(self, cfg: SimpleNamespace, affinenet: AffineNet, statistic: StatisticNet | None):
        super().__init__(make_network(DeformNet, vars(cfg)), cfg, statistic)
        self.affinenet = affinenet.eval().requires_grad_(False)

    def predict(self, fixed: Tensor, moving: Tensor, passes: int | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            theta = self.affinenet.predict(fixed, moving)
        return theta, self.network.predict(fixed, moving, theta, passes)

    def predict_training(self, batch: dict) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            theta = self.affinenet.predict(batch["fixed"], batch["moving"])
            theta = self.part_of(theta)
        return theta, self.network.predict(batch["fixed"], batch["moving"], theta, self.draw_passes())

    def part_of(self, theta: Tensor) -> Tensor:
        """``theta`` (B, 3, 4) or, with probability ``partial_affine``, a random part of it.

        A part is I + t (theta - I) with t from 0 to 1. The affine map takes up much of a deep breath, and deep breaths
        are rare; with a part of it, DeformNet sees in every pair how large displacements look.
        """
        chance, t = torch.rand(2, len(theta), 1, 1, device=theta.device)
        t = torch.where(chance < self.cfg.partial_affine, t, 1.0)
        return torch.lerp(torch.eye(3, 4, device=theta.device), theta, t)


class FineTraining(DeformTraining):
    """Trains the DeformNet of the fine grid (see `registration`) as `DeformTraining` does, on volumes with odd axes.

    registration : the networks of the coarse grid, which stay as they are
    statistic : the T of the coarse DeformNet, which goes on learning
    """

    def __init__(self, cfg: SimpleNamespace, registration: Registration, statistic: StatisticNet | None):
        super().__init__(cfg, registration.affinenet, statistic)
        self.coarse = registration.eval().requires_grad_(False)

    def predict(self, fixed: Tensor, moving: Tensor, passes: int | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            theta, dvf = predict_coarse(self.coarse, halved(fixed), halved(moving))
        return theta, predict_fine(self.network, fixed, moving, theta, dvf, passes)

    def predict_training(self, batch: dict) -> tuple[Tensor, Tensor]:
        return self.predict(batch["fixed"], batch["moving"], self.draw_passes())
